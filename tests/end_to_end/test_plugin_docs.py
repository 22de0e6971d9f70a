"""docs/plugins.md works as it stands: installed like any package, the source passes the contract, the flow of the page runs."""

import importlib
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connector.registry import plugins
from connector.sandbox.server import Service, reply, serve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
FILES = dict(re.findall(r"^```\w+\n# ([\w.]+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
START = datetime(2026, 3, 2, tzinfo=UTC)


def _contract():
    spec = importlib.util.spec_from_file_location("source_contract", ROOT / "tests" / "contracts" / "test_source.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


contract = _contract()
bench, read = contract.bench, contract.read


class Acme(Service):
    """The CRM of the page: 250 opportunities."""

    name = "acme"

    def __init__(self):
        self.now = START
        self.items = [
            {
                "id": n, "title": f"Deal {n}", "phase": "Offer", "outcome": ("open", "won", "lost")[n % 3], "worth": n * 10, "currency": "EUR",
                "seller": "Ana", "created": "2026-01-02", "closed": "2026-02-03" if n % 3 else None, "deleted": False, "at": START - timedelta(days=1),
            }
            for n in range(250)
        ]  # fmt: skip

    def routes(self):
        yield "GET", "/v1/opportunities", self.opportunities

    def opportunities(self, request):
        if request.headers["Authorization"] != "Bearer token-of-the-sandbox":
            return reply({}, 401)
        since = request.query.get("updated_since")
        found = [item for item in self.items if (item["at"] >= datetime.fromisoformat(since) if since else not item["deleted"])]
        page = int(request.query.get("page", 1))
        shown = [{name: value for name, value in item.items() if name != "at"} for item in found[100 * (page - 1) : 100 * page]]
        return reply({"now": self.now.isoformat(), "total": len(found), "has_more": len(found) > 100 * page, "items": shown})

    def change(self, n=0, **fields):
        self.now += timedelta(hours=1)
        self.items[n] |= {"at": self.now, **fields}
        self.now += timedelta(hours=1)


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """The page's files and what pip would make of its pyproject.toml, on the path."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("acme_crm.py", "acme_board.py"):
        (folder / name).write_text(FILES[name], "utf-8")
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    about = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [
        line
        for group, named in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {at}" for name, at in named.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(points))
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    plugins.cache_clear()
    yield
    sys.path.remove(str(folder))
    plugins.cache_clear()
    for name in ("acme_crm", "acme_board"):
        sys.modules.pop(name, None)


@pytest.fixture
def acme():
    acme = Acme()
    with serve(acme) as acme.running:
        yield acme
        assert acme.running.violations == []


# ── the contract ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def case(acme) -> Iterator[object]:
    made = contract.Case(
        {"type": "acme", "token": "token-of-the-sandbox", "base_url": acme.running.url("acme")},
        lambda: {"token": contract.SECRET},
        lambda: acme.change(title="A renamed deal") or "A renamed deal",
        lambda: acme.running.faults.add("", drop=True, times=None) and None,
        now=lambda: acme.now,
    )
    made.cls, made.name = plugins("sources")["acme"].cls, "acme"
    return made


class TestConfiguration(contract.TestConfiguration):
    pass


class TestEntities(contract.TestEntities):
    pass


class TestReading(contract.TestReading):
    pass


class TestChecking(contract.TestChecking):
    pass


class TestFailing(contract.TestFailing):
    pass


# ── the flow ──────────────────────────────────────────────────────────────────────────────────────


def test_the_flow_of_the_page(workplace, acme):
    workplace.write("connector.yaml", FILES["connector.yaml"])
    env = {"ACME_TOKEN": "token-of-the-sandbox", "ACME_URL": acme.running.url("acme")}
    listed = workplace.connector("plugins").out
    assert re.search(r"source\s+acme\s+connector-acme 0.1\s+Deals from Acme CRM.", listed)
    assert re.search(r"sink\s+board\s+connector-acme 0.1", listed)
    checked = workplace.connector("check", **env)
    assert checked.code == 0, checked.out
    assert "opportunities can be read" in checked.out

    assert workplace.connector("run", "wall", "--dry-run", **env).code == 0
    board = workplace.folder / "board.md"
    assert not board.exists()
    first = workplace.connector("run", "wall", "--json", **env)
    assert first.code == 0, first.err
    assert f"* revenue: {sum(10.0 * n for n in range(1, 250, 3))}" in board.read_text()

    acme.change(1, worth=1_000)
    acme.change(4, deleted=True)
    second = workplace.connector("run", "wall", "--json", **env)
    assert second.code == 0, second.err
    second = second.manifest
    assert {key: second["sources"][0][key] for key in ("mode", "rows_read", "updated", "deleted")} == {
        "mode": "incremental", "rows_read": 1, "updated": 1, "deleted": 1,
    }  # fmt: skip
    assert second["sinks"][0]["outcome"] == "written"
    assert f"* revenue: {sum(10.0 * n for n in range(7, 250, 3)) + 1_000}" in board.read_text()
    assert workplace.connector("run", "wall", "--json", **env).manifest["outcome"] == "unchanged"

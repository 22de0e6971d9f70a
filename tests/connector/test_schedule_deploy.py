"""What stands in the Dockerfile, the examples of `deploy/` and docs/operations.md is true: parsed, checked against the real thing, or run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import click
import pytest
import yaml

from connector.cli import Session, cli
from connector.configfile import load
from connector.definitions import TABLES
from connector.errors import ConfigError
from connector.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
CODES = {0, 1, 2, 3, 4, 5, 75}


def parsed(arguments):
    """The command and its parameters as click understands them; UsageError when it does not."""
    name, *rest = arguments
    return name, cli.commands[name].make_context(name, rest, parent=click.Context(cli, obj=Session())).params


def instructions(text):
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def ignored(path, rules):
    """Whether .dockerignore keeps a file out: the last rule that fits it or a folder above it decides."""
    out = False
    for rule in rules:
        pattern = rule.removeprefix("!")
        names = [path, *map(str, list(Path(path).parents)[:-1])]
        bare = pattern.removeprefix("**/")
        if any(fnmatch(name, pattern) or ("**/" in pattern and fnmatch(Path(name).name, bare)) for name in names):
            out = not rule.startswith("!")
    return out


# ── the image ─────────────────────────────────────────────────────────────────────────────────────


def test_the_image_is_small_unprivileged_and_without_secrets():
    stages = [index for index, (word, _) in enumerate(instructions(DOCKERFILE)) if word == "FROM"]
    assert len(stages) == 2
    final = instructions(DOCKERFILE)[stages[1] :]
    assert all(image.split()[0].startswith("python:3.") and "/" not in image for word, image in instructions(DOCKERFILE) if word == "FROM")
    copied = [rest for word, rest in final if word in {"COPY", "ADD"}]
    assert copied == ["--from=build /opt/connector /opt/connector"]  # no compiler, no sources, no tests
    user = next(rest for word, rest in final if word == "USER")
    assert all(int(part) >= 10000 for part in user.split(":"))
    assert f"--uid {user.split(':')[0]}" in DOCKERFILE
    assert not re.search(r"(?i)(secret|token|password)\s*=", DOCKERFILE)
    assert not [word for word, _ in instructions(DOCKERFILE) if word == "ARG"]


def test_the_image_starts_the_scheduler_and_asks_it_how_it_is():
    final = dict(instructions(DOCKERFILE))
    assert json.loads(final["ENTRYPOINT"]) == ["connector"]
    name, params = parsed(json.loads(final["CMD"]))
    assert name == "schedule"
    host, port = params["listen"]
    health = json.loads(final["HEALTHCHECK"].partition("CMD ")[2])
    assert f"http://{host}:{port}/health" in health[-1]
    compile(health[-1], "healthcheck", "exec")
    asked = subprocess.run([sys.executable, *health[1:]], capture_output=True, check=False)
    assert asked.returncode == 1  # nothing listens there now: unhealthy
    set_ = dict(part.split("=", 1) for part in final["ENV"].split())
    known = {f"CONNECTOR_{field}".upper() for field in Settings.model_fields}
    assert {key for key in set_ if key.startswith("CONNECTOR_")} <= known
    assert set_["CONNECTOR_DATA"] == final["VOLUME"]
    assert Path(set_["CONNECTOR_CONFIG"]).parent == Path(final["WORKDIR"])
    assert "/opt/connector/bin" in set_["PATH"]


def test_the_image_is_built_from_what_dockerignore_lets_in(tmp_path):
    """The build stage's steps, here: the same files into an empty folder, a wheel of them, and the wheel run."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for kept_out in (
        ".env",
        "config/.env",
        "tests/conftest.py",
        "data/state.db",
        ".git/config",
        "connector/__pycache__/cli.cpython-311.pyc",
    ):
        assert ignored(kept_out, rules), kept_out
    build, _, _ = DOCKERFILE.partition("\nFROM python:3.12-slim\nRUN")
    context = tmp_path / "src"
    context.mkdir()
    for word, rest in instructions(build):
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                assert not ignored(source, rules), source
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, context / target, ignore=shutil.ignore_patterns("__pycache__", ".env"))
                else:
                    shutil.copy(ROOT / source, context / target)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "wheels"), "."]
    built = subprocess.run(command, cwd=context, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "wheels").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert not [name for name in names if name.startswith("tests") or name.endswith(".env")]
    ran = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import connector, connector.cli; print(connector.__file__); connector.cli.main()",
            "schedule",
            "--help",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0].startswith(str(tmp_path / "installed"))
    assert "--listen" in ran.stdout


# ── Kubernetes ────────────────────────────────────────────────────────────────────────────────────


def kubernetes():
    return {document["kind"]: document for document in yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())}


def test_the_cron_job_forbids_overlap_and_gives_up_only_what_wants_a_person():
    spec = kubernetes()["CronJob"]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    (rule,) = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert set(rule["onExitCodes"]["values"]) == CODES - {0, 75}
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy wants it
    (container,) = pod["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert parsed(container["args"])[1]["flows"] == ("pipeline",)
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in DOCKERFILE
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_every_volume_and_variable_of_the_cron_job_is_there(tmp_path):
    documents = kubernetes()
    pod = documents["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(volumes) == set(mounts)
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == documents["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["config"]["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]
    assert f"VOLUME {mounts['data']['mountPath']}\n" in DOCKERFILE
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    text = documents["ConfigMap"]["data"]["connector.yaml"]
    for name in re.findall(rf"\$\{{file:{mounts['secrets']['mountPath']}/(\w+)\}}", text):
        (secrets / name).write_text("kept-safe")
        assert f"--from-file={name}" in (ROOT / "deploy" / "kubernetes.yaml").read_text()
    (tmp_path / "connector.yaml").write_text(text.replace(mounts["secrets"]["mountPath"], str(secrets)))
    variables = {entry["name"]: str(entry["value"]) for entry in container["env"]}
    assert list(load(tmp_path / "connector.yaml", variables).flows) == container["args"][1:]
    with pytest.raises(ConfigError, match="is not set"):
        load(tmp_path / "connector.yaml", {})


# ── GitHub Actions ────────────────────────────────────────────────────────────────────────────────


def actions():
    return yaml.load((ROOT / "deploy" / "github-actions.yml").read_text(), Loader=yaml.BaseLoader)  # `on` stays text


def test_the_workflow_never_overlaps_keeps_state_and_takes_secrets_from_github():
    workflow = actions()
    assert workflow["concurrency"]["cancel-in-progress"] == "false"
    assert workflow["permissions"] == {"contents": "read"}
    steps = workflow["jobs"]["refresh"]["steps"]
    restore, save = (next(step for step in steps if f"cache/{what}" in step.get("uses", "")) for what in ("restore", "save"))
    assert save["with"]["key"].startswith(restore["with"]["restore-keys"])
    assert save["with"]["path"] == restore["with"]["path"]
    assert save["if"] == "always()"
    refresh = next(step for step in steps if step.get("name") == "Refresh")
    assert all(value == f"${{{{ secrets.{name} }}}}" for name, value in refresh["env"].items())
    line = re.search(r"connector (run .*?) \|\|", refresh["run"])[1]
    assert parsed(shlex.split(line))[1]["flows"] == ("pipeline",)
    assert f"--data {save['with']['path']}" in line


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("codes", "code", "slept"),
    [([0], 0, []), ([75, 75, 0], 0, ["60", "300"]), ([75, 3], 3, ["60"]), ([75] * 9, 75, ["60", "300", "900", "0"])],
)
def test_the_workflow_tries_again_on_75_and_on_nothing_else(tmp_path, codes, code, slept):
    """The step's own script, with a connector and a sleep that write down that they were called."""
    script = next(step for step in actions()["jobs"]["refresh"]["steps"] if step.get("name") == "Refresh")["run"]
    (tmp_path / "codes").write_text("\n".join(map(str, codes)) + "\n")
    tools = {
        "connector": 'code=$(head -n 1 codes); sed -i 1d codes; exit "$code"',
        "sleep": 'echo "$1" >> slept',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == code
    assert ((tmp_path / "slept").read_text().split() if slept else []) == slept


# ── systemd ───────────────────────────────────────────────────────────────────────────────────────


def test_the_service_of_the_scheduler_says_what_the_scheduler_understands():
    unit = (ROOT / "deploy" / "connector.service").read_text()
    program, *arguments = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1])
    name, params = parsed(arguments)
    assert (name, params["printed"]) == ("schedule", None)
    folder = re.search(r"^WorkingDirectory=(.*)$", unit, re.MULTILINE)[1]
    assert program.startswith(folder)
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1]) > params["grace"] + 10
    assert "KillMode=mixed" in unit  # SIGTERM to the scheduler alone: it gives its runs their time


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_service(tmp_path):
    unit = (ROOT / "deploy" / "connector.service").read_text()
    unit = unit.replace("/srv/connector/.venv/bin/connector", "/bin/true").replace("User=connector", "User=root")
    (tmp_path / "connector.service").write_text(unit)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "connector.service")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "connector" not in checked.stderr
    assert checked.returncode == 0


# ── docs/operations.md ────────────────────────────────────────────────────────────────────────────


def commands(text):
    """Every command line of connector in the text: in blocks of sh, and in `code`."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    inline = [code for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)) if code.startswith("connector ")]
    found = [line.removeprefix("connector ") for line in [*blocks.splitlines(), *inline] if line.startswith("connector ")]
    inside = [line.rpartition(" connector ")[2] for line in blocks.splitlines() if re.match("docker (run|exec) .* connector .*", line)]
    return list(dict.fromkeys([*found, *(line for line in inside if not line.startswith("-"))]))


@pytest.mark.parametrize("line", commands(OPERATIONS))
def test_every_command_of_the_page_is_one(line):
    _, params = parsed(shlex.split(line))
    assert {params.get("flow"), *params.get("flows", ())} <= {"pipeline", None}
    if params.get("table"):
        assert params["table"] in TABLES
    if params.get("sql"):
        assert re.search(r"from (\w+)", params["sql"])[1] in TABLES


def test_the_commands_of_the_page_were_found():
    assert len(commands(OPERATIONS)) >= 20


def test_every_file_metric_and_code_of_the_page_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", OPERATIONS):
        assert (ROOT / "docs" / target).exists(), target
    from connector.schedule.agenda import FIRST_PAUSE, RETRIES
    from connector.schedule.web import STALE, Board
    from connector.status import SLACK

    board = Board(list, str)
    made = {sample for family in board.collect() for sample in [family.name + ("_total" if family.type == "counter" else "")]}
    assert made == set(re.findall(r"^\| `(connector_\w+)`", OPERATIONS, re.MULTILINE))
    first = OPERATIONS[: OPERATIONS.index("## What starts it")]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", first, re.MULTILINE)} == CODES | {130}
    assert "1, 2, 4 … 32 min" in OPERATIONS
    assert 2 ** (RETRIES - 1) == 32
    assert FIRST_PAUSE.total_seconds() == 60
    assert (SLACK.total_seconds(), STALE.total_seconds()) == (600, 90)


def test_every_yaml_block_of_the_page_is_valid(tmp_path, monkeypatch):
    schedule, auth = re.findall(r"```yaml\n(.*?)```", OPERATIONS, re.DOTALL)
    (tmp_path / "secret").write_text("kept-safe")
    source = f"crm: {{type: salesforce, domain: acme.my.salesforce.com, {auth.strip().replace('/run/secrets/sf_secret', str(tmp_path / 'secret'))}}}"
    (tmp_path / "connector.yaml").write_text(f"flows:\n  pipeline:\n{schedule}    sources:\n      {source}\n")
    flow = load(tmp_path / "connector.yaml", {"SF_ID": "x"}).flow("pipeline")
    assert (flow.schedule.timezone, flow.schedule.jitter) == ("Europe/Berlin", 120)


YAML = """
flows:
  pipeline:
    sources: {export: {type: files, tables: {deals: {path: deals.csv}}}}
    sinks: [{type: files, folder: out, format: csv, tables: [{from: deals, columns: [deal_id, amount]}]}]
"""
DEALS = "deal_id,status,amount,created_at,closed_at\nD-1,won,100.50,2026-01-02,2026-01-22\n"


def test_a_backup_put_back_goes_on_incrementally(workplace):
    """As the page says: copy the data folder, lose it, put it back."""
    workplace.write("connector.yaml", YAML)
    workplace.write("deals.csv", DEALS)
    first = workplace.connector("run", "pipeline", "--json").manifest
    (line,) = [line for line in OPERATIONS.splitlines() if line.startswith("cp -a data ")]
    shutil.copytree(workplace.folder / "data", workplace.folder / shlex.split(line)[3])
    workplace.write("deals.csv", DEALS + "D-2,open,70,2026-02-10,\n")
    workplace.connector("run", "pipeline")
    shutil.rmtree(workplace.folder / "data")
    (workplace.folder / shlex.split(line)[3]).rename(workplace.folder / "data")
    (read,) = workplace.connector("run", "pipeline", "--json").manifest["sources"]
    assert (read["inserted"], read["updated"], read["deleted"]) == (1, 0, 0)  # against the copy, not everything anew
    runs = workplace.connector("history", "--json").json()
    assert [run["run_id"] for run in runs][-1] == first["run_id"]
    assert len(runs) == 2
    assert "D-2" in (workplace.folder / "out" / "deals.csv").read_text()

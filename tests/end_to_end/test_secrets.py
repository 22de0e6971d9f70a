"""Secrets stay where they belong: out of the process list, manifests, history, representations; and the watch over every test does watch."""

import json
import os
import stat
import time
from pathlib import Path

import pytest
import requests

from connector.configfile import load
from connector.errors import AuthError
from connector.flow import open_flow
from connector.logs import REDACTION, secrets_of
from connector.sandbox.company import Company
from connector.sandbox.microsoft365 import CLIENT_ID, CLIENT_SECRET, TENANT, USER, Microsoft365
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.server import Service, reply, serve
from connector.settings import Settings

HOOK = "/workflows/0123456789abcdef/triggers/manual"
MAIL_PASSWORD = "mail-password-of-the-team"

YAML = """
flows:
  pipeline:
    sources:
      crm:
        type: salesforce
        base_url: {salesforce}
        domain: acme.my.salesforce.com
        auth: {{type: client_credentials, client_id: sandbox-client, client_secret: "${{SF_SECRET}}"}}
    sinks:
      - type: excel
        drive: {{type: onedrive, tenant: {tenant}, client_id: {client}, client_secret: "${{MS_SECRET}}", user: {user}, base_url: {graph},
                authority: {identity}, ca_bundle: {authority}, max_wait: 5}}
        path: Sales/Pipeline.xlsx
        manifest: true
    notify:
      - {{type: webhook, url: "${{HOOK}}", on: [digest, failure], signing_secret: "${{SIGNING}}"}}
      - {{type: email, host: 127.0.0.1, port: 9, user: u, password: "${{MAIL}}", from: a@acme.com, to: [b@acme.com], on: [failure]}}
"""


class Hook(Service):
    name = "hook"

    def routes(self):
        yield "POST", HOOK, lambda request: reply({}, 202)


@pytest.fixture(scope="module")
def world(tmp_path_factory, new_workplace):
    """Salesforce, Microsoft 365 and a webhook; a flow over all of them; the secrets in its environment."""
    cloud = Microsoft365(tmp_path_factory.mktemp("cloud"))
    company = Company.generate(seed=3, deals=20, days=60)
    with serve(SalesforceOrg(company), *cloud.services(), Hook(), clock=cloud.clock) as running:
        place = new_workplace(tmp_path_factory.mktemp("secrets"))
        place.running = running
        place.cloud = cloud
        place.write(
            "connector.yaml",
            YAML.format(
                salesforce=running.url("salesforce"), tenant=TENANT, client=CLIENT_ID, user=USER, graph=running.url("graph"),
                identity=running.url("identity"), authority=cloud.authority,
            ),
        )  # fmt: skip
        place.env = {
            "SF_SECRET": "sandbox-secret", "MS_SECRET": CLIENT_SECRET, "HOOK": running.url("hook") + HOOK,
            "SIGNING": "signing-secret-of-the-team", "MAIL": MAIL_PASSWORD,
        }  # fmt: skip
        yield place


def test_a_whole_run_in_a_process_of_its_own(world, watch):
    """What it prints at its most talkative, what others see of the process, what it leaves in its data folder and beside the workbook."""
    process = world.start("run", "pipeline", "--json", "--log-level", "debug", "--log-format", "json", **world.env)
    argv, seen = Path(f"/proc/{process.pid}/cmdline"), set()
    while process.poll() is None and argv.exists():
        seen.add(argv.read_bytes())
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    history = world.connector("history", "pipeline", "--json", **world.env).out
    beside = (world.cloud.folder / f"OneDrive {USER}" / "Sales" / "Pipeline.manifest.json").read_text()
    assert json.loads(beside)["run_id"] == json.loads(out.splitlines()[-1])["run_id"]
    sent = {logged.headers["authorization"].rpartition(" ")[2] for logged in world.running.requests if "authorization" in logged.headers}
    assert seen
    secrets = {*world.env.values(), HOOK, *sent, *watch.secrets}
    assert len(secrets) > 7, "tokens were overheard"
    for place, text in {"argv": str(seen), "stdout": out, "stderr": err, "history": history, "manifest": beside}.items():
        assert text
        for secret in secrets:
            assert secret not in text, place


def test_files_that_hold_tokens_are_for_their_owner_alone(world):
    tokens = [path for path in (world.folder / "data" / "plugins").rglob("*") if path.is_file()]
    assert tokens
    assert {stat.S_IMODE(path.stat().st_mode) for path in tokens} == {0o600}


def test_nothing_shows_its_secrets_when_printed(world):
    config = load(world.yaml, world.env)
    with open_flow("pipeline", config.flow("pipeline"), Settings(data=world.folder / "data")) as flow:
        shown = [config, flow, flow.notices]
        shown += [thing for named in flow.sources for thing in (named, named.source, vars(named.source))]
        shown += [thing for target in flow.targets for thing in (target, target.sink)]
        text = "".join(f"{thing!r}{thing}" for thing in shown) + config.flow("pipeline").model_dump_json()
    for secret in world.env.values():
        assert secret not in text


def test_the_address_of_a_webhook_is_blacked_out_in_whole_and_in_part(world):
    REDACTION.learn(secrets_of(load(world.yaml, world.env)))
    library = f"HTTPConnectionPool(host='127.0.0.1'): Max retries exceeded with url: {HOOK}"
    assert HOOK not in REDACTION.clean(library)


# ── the watch over every test ─────────────────────────────────────────────────────────────────────


def test_the_watch_finds_a_secret_in_print_in_an_error_and_in_a_file(watch, tmp_path):
    watch.learn("a-secret-of-this-test")
    watch.say("stdout", "token: a-secret-of-this-test!")
    AuthError("refused a-secret-of-this-test")
    (tmp_path / "data").mkdir()
    for name in ("state.db", "notes.txt"):
        (tmp_path / "data" / name).write_text("a-secret-of-this-test")
    leaks = list(watch.leaks(tmp_path))
    assert leaks[:2] == ["stdout: token: ‹a-s…›", "an error: refused ‹a-s…›"]
    assert sorted(leaks[2:]) == [str(tmp_path / "data" / "notes.txt"), str(tmp_path / "data" / "state.db")]
    assert "a-secret-of-this-test" not in str(leaks)
    watch.said.clear()
    (tmp_path / "data" / "notes.txt").unlink()
    (tmp_path / "data" / "state.db").write_text("")


def test_the_watch_lets_a_token_file_be_only_if_it_is_private(watch, tmp_path):
    watch.learn("a-secret-of-this-test")
    file = tmp_path / "data" / "plugins" / "f" / "tokens.json"
    file.parent.mkdir(parents=True)
    (tmp_path / "data" / "state.db").touch()
    file.write_text("a-secret-of-this-test")
    file.chmod(0o644)
    assert list(watch.leaks(tmp_path)) == [str(file)]
    file.chmod(0o600)
    os.utime(file, (1, 1))
    assert list(watch.leaks(tmp_path)) == []


def test_the_watch_overhears_what_the_sandbox_is_shown_and_gives_out(watch, tmp_path):
    cloud = Microsoft365(tmp_path)
    with serve(*cloud.services(), clock=cloud.clock) as running:
        form = {
            "grant_type": "client_credentials",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "scope": "https://graph.microsoft.com/.default",
        }
        address = f"{running.url('identity')}/{TENANT}/oauth2/v2.0/token"
        issued = requests.post(address, data=form, verify=cloud.authority, timeout=10).json()["access_token"]
    assert {issued, CLIENT_SECRET} <= watch.secrets

"""Who is told of an incident: once, its end once, a digest once a period; over real HTTP and SMTP on loopback."""

import base64
import hmac
import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from connector.config import AnyFlow, config_type
from connector.configfile import load
from connector.errors import ConfigError, GateError, SourceError, TransientError
from connector.http import Session
from connector.logs import REDACTION, secrets_of
from connector.notifiers import TEMPLATE_FIELDS
from connector.notify import Notices
from connector.sandbox.microsoft365.tls import certified
from connector.state import State

START = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
BAD_ROW = SourceError("deals.csv: row 17: '12,5' is no amount", remedy="correct the file")


class World:
    """A flow with notifiers and a clock; `run` plays a run that ends with an error, or well."""

    def __init__(self, folder, *notifiers):
        self.now = START
        self.folder = folder
        self.slept = []
        self.number = 0
        self.configure(*notifiers)
        self.state = State(folder)

    def configure(self, *notifiers):
        flow = {"sources": {"a": {"type": "files", "tables": {"deals": "deals.csv"}}}, "notify": notifiers, "timezone": "Europe/Berlin"}
        self.config: AnyFlow = config_type().model_validate({"flows": {"sales": flow}}).flows["sales"]
        REDACTION.learn(secrets_of(self.config))

    @property
    def notices(self):
        return Notices("sales", self.config, self.state, lambda: self.now, lambda network: Session(network, sleep=self.slept.append))

    def run(self, error=None, *, hours=24, metrics=None, warnings=()):
        self.number += 1
        run_id = f"r{self.number}"
        try:
            with self.state.lease(run_id, "sales", self.now, self.now):
                if error is None:
                    manifest = {"run_id": run_id, "metrics": metrics or {}, "warnings": list(warnings)}
                    self.state.fail(run_id, self.now, 0, "", manifest, outcome="ok")
                    return self.notices.succeeded(manifest)
                self.state.fail(run_id, self.now, error.exit_code, str(error), {})
                return self.notices.failed(run_id, error, str(error), error.exit_code)
        finally:
            self.now += timedelta(hours=hours)


@pytest.fixture
def world(tmp_path, inbox):
    made = World(tmp_path, {"type": "webhook", "url": f"{inbox.running.url('inbox')}/hook/a-very-secret-path"})
    yield made
    made.state.close()


def events(inbox):
    return [body["event"] for _, _, body in inbox.got]


def hook(inbox, path="a-very-secret-path", **more):
    return {"type": "webhook", "url": f"{inbox.running.url('inbox')}/hook/{path}", **more}


# ── incidents ─────────────────────────────────────────────────────────────────────────────────────


def test_an_incident_is_told_once_and_its_end_once(world, inbox):
    world.run()
    assert world.run(BAD_ROW)[0]["outcome"] == "sent"
    assert world.run(SourceError("deals.csv: row 18: '12,5' is no amount")) == []
    world.run()
    world.run()
    assert events(inbox) == ["failure", "recovery"]
    failure, recovery = (body for _, _, body in inbox.got)
    assert failure["subject"] == "sales: not refreshed"
    assert "row 17" in failure["text"]
    assert "correct the file" in failure["text"]
    assert "figures of 2026-03-02 07:00 CET" in failure["text"]
    assert recovery["runs"] == 2
    assert recovery["since"] == "2026-03-03 07:00 CET"


def test_the_same_after_a_success_is_a_new_incident(world, inbox):
    for error in (BAD_ROW, None, BAD_ROW, None):
        world.run(error)
    assert events(inbox) == ["failure", "recovery"] * 2
    assert len({body["id"] for _, _, body in inbox.got}) == 4


def test_a_changed_cause_is_told_and_one_that_comes_back_is_not(world, inbox):
    for error in (BAD_ROW, ConfigError("no such column"), BAD_ROW, GateError("not published: deals fell from 100 to 3"), None):
        world.run(error)
    assert events(inbox) == ["failure", "failure", "gate", "recovery"]


def test_only_what_was_asked_for_is_told(world, inbox):
    world.configure(hook(inbox, on=["gate"]), hook(inbox, "other", on=["recovery"]))
    for error in (BAD_ROW, GateError("not published: deals fell"), None):
        world.run(error)
    assert [(path, body["event"]) for path, _, body in inbox.got] == [("/hook/a-very-secret-path", "gate"), ("/hook/other", "recovery")]


BUSY = TransientError("Pipeline.xlsx: somebody has it open")


def test_try_later_is_told_only_when_it_lasts(world, inbox):
    for _ in range(3):
        world.run(BUSY, hours=0.2)
        world.run(hours=0.2)
    assert events(inbox) == []
    world.run(BUSY, hours=0.2)
    world.run(TransientError("crm.example: no answer"), hours=0.2)
    assert events(inbox) == []
    world.run(BUSY, hours=0.2)
    world.run(BUSY, hours=0.2)
    assert events(inbox) == ["failure"]
    world.run()
    assert events(inbox) == ["failure", "recovery"]


def test_a_daily_flow_is_told_of_try_later_on_the_second_day(world, inbox):
    world.run(BUSY)
    assert events(inbox) == []
    world.run(BUSY)
    assert events(inbox) == ["failure"]


def test_reminders_only_when_asked_for(world, inbox):
    world.configure(hook(inbox, remind_hours=40))
    for _ in range(6):
        world.run(BAD_ROW)
    assert events(inbox) == ["failure"] * 3
    assert [body["runs"] for _, _, body in inbox.got] == [1, 3, 5]


def test_a_run_that_was_killed_is_told_by_the_next_one_before_it_does_anything(workplace, inbox):
    workplace.write("deals.csv", "deal_id,status,amount\n" + "".join(f"D-{n},open,{n}\n" for n in range(20_000)))
    workplace.write("connector.yaml", flow_with(hook(inbox)))
    process = workplace.start("run", "sales")
    while not list((workplace.folder / "data").glob("flows/sales/*.partial")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    workplace.write("deals.csv", "deal_id,status,amount\nD-1,open,1\n")
    done = workplace.connector("run", "sales", "--json")
    assert done.code == 0, done.err
    assert [one["event"] for one in done.manifest["notified"]] == ["failure", "recovery"]
    assert "ended without a word" in inbox.got[0][2]["reason"]
    assert workplace.connector("run", "sales").code == 0
    assert len(inbox.got) == 2


# ── the digest ────────────────────────────────────────────────────────────────────────────────────


def test_a_digest_goes_out_once_a_week_and_says_what_changed(world, inbox):
    world.configure(hook(inbox, on=["digest"]))
    for day in range(8):
        world.run(metrics={"revenue": 1_000.5 + 100 * day, "win_rate": 0.25}, warnings=["crm.deals: 3 rows without an amount"])
    first, second = (body for _, _, body in inbox.got)
    assert "Revenue: 1,000.5" in first["text"]
    assert "Win rate: 25.0%" in first["text"]
    assert "this is the first" in first["text"]
    assert "3 rows without an amount" in first["text"]
    assert second["changes"] == "Revenue: 1,000.5 → 1,700.5"
    world.configure(hook(inbox, on=["digest"], digest="daily"))
    world.run(hours=1)
    world.run(hours=1)
    assert len(inbox.got) == 3


# ── what goes wrong with telling ──────────────────────────────────────────────────────────────────


def test_what_could_not_be_told_is_told_by_the_next_run_in_order(world, inbox):
    inbox.running.faults.add("/hook", status=500, times=2)
    (first,) = world.run(BAD_ROW)
    assert (first["outcome"], first["event"]) == ("pending", "failure")
    assert "500" in first["why"]
    assert [one["outcome"] for one in world.run(BAD_ROW)] == ["pending"]
    assert [one["outcome"] for one in world.run()] == ["sent", "sent"]
    assert events(inbox) == ["failure", "recovery"]


def test_a_message_that_may_have_arrived_is_not_sent_again(world, inbox):
    inbox.running.faults.add("/hook", drop=True, after=True)
    assert [one["outcome"] for one in world.run(BAD_ROW)] == ["unsure"]
    world.run(BAD_ROW)
    assert events(inbox) == ["failure"]


def test_a_service_that_asks_for_patience_gets_it(world, inbox):
    inbox.running.faults.add("/hook", status=429, headers={"Retry-After": "7"})
    assert [one["outcome"] for one in world.run(BAD_ROW)] == ["sent"]
    assert world.slept == [7]


def test_a_week_old_notice_is_given_up(world, inbox):
    inbox.running.faults.add("/hook", status=404, times=None)
    world.run(BAD_ROW)
    world.now += timedelta(days=8)
    inbox.running.faults.clear()
    world.run()
    assert events(inbox) == ["recovery"]


def test_one_notifier_that_fails_does_not_keep_the_others_from_being_told(world, inbox, caplog):
    dead = {"type": "slack", "url": "http://127.0.0.1:9/services/T00000000/B00000000/secret-of-slack"}
    world.configure(dead, hook(inbox))
    slack, told = world.run(BAD_ROW)
    assert (slack["outcome"], told["outcome"]) == ("pending", "sent")
    assert "secret-of-slack" not in f"{slack}{caplog.text}"


def test_a_bug_in_telling_is_a_warning(world, inbox, monkeypatch):
    monkeypatch.setattr(Notices, "_period", lambda *_: 1 / 0)
    world.configure(hook(inbox, on=["digest"]))
    assert world.run() == [{"outcome": "failed", "why": "ZeroDivisionError"}]


# ── the services ──────────────────────────────────────────────────────────────────────────────────


def test_teams_gets_an_adaptive_card_without_markup(world, inbox):
    world.configure({"type": "teams", "url": f"{inbox.running.url('inbox')}/hook/teams"})
    world.run(SourceError("deals: '[click](http://evil.example)' is no amount", remedy="x" * 9_000))
    ((_, headers, body),) = inbox.got
    assert headers["Content-Type"] == "application/json"
    (attachment,) = body["attachments"]
    assert (body["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    runs = [run for block in card["body"] for run in block["inlines"]]
    assert {run["type"] for run in runs} == {"TextRun"}
    assert any("[click](http://evil.example)" in run["text"] for run in runs)
    assert len(json.dumps(body)) < 28_000


def test_slack_gets_plain_text_and_an_escaped_fallback(world, inbox):
    world.configure({"type": "slack", "url": f"{inbox.running.url('inbox')}/hook/slack", "subject": "<!channel> {flow} & co"})
    world.run(SourceError("<http://evil.example|click>", remedy="x" * 9_000))
    ((_, _, body),) = inbox.got
    assert body["text"] == "&lt;!channel&gt; sales &amp; co"
    header, section = body["blocks"]
    assert header["text"] == {"type": "plain_text", "text": "<!channel> sales & co", "emoji": False}
    assert section["text"]["type"] == "plain_text"
    assert len(section["text"]["text"]) <= 3_000


def test_a_webhook_is_signed_as_standard_webhooks_says(world, inbox):
    key = b"0123456789abcdef01234567"
    secret = f"whsec_{base64.b64encode(key).decode()}"
    world.configure(hook(inbox, headers={"X-Key": "let-me-in-please"}, signing_secret=secret))
    world.run(BAD_ROW)
    ((_, headers, body),) = inbox.got
    headers = {name.lower(): value for name, value in headers.items()}
    assert headers["x-key"] == "let-me-in-please"
    assert headers["webhook-id"] == body["id"]
    assert headers["webhook-timestamp"] == str(int(START.timestamp()))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + inbox.running.requests[0].body
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"
    assert (body["flow"], body["event"], body["exit_code"], body["reason"]) == ("sales", "failure", 4, str(BAD_ROW))


def email(server, **more):
    return {"type": "email", "host": "127.0.0.1", "port": server.port, "from": "connector@acme.com", "to": ["ops@acme.com"], **more}


def test_an_email_goes_out_over_starttls_signed_in(world, mail_server, tmp_path):
    authority = tmp_path / "authority.pem"
    with mail_server(certified(authority, ("localhost",)), "mail-password-1") as server:
        world.configure(
            email(server, user="connector", password="mail-password-1", ca_bundle=str(authority), to=["ops@acme.com", "eva@acme.com"])
        )
        assert [one["outcome"] for one in world.run(BAD_ROW)] == ["sent"]
        assert [(finding.ok, "signed in" in finding.detail) for finding in world.notices.check(world.config.notify[0])] == [(True, True)]
    ((_, to, mail),) = server.mails
    assert server.signed_in == [True, True]
    assert to == ["TO:<ops@acme.com>", "TO:<eva@acme.com>"]
    assert (mail["From"], mail["Subject"]) == ("connector@acme.com", "sales: not refreshed")
    assert mail["Message-ID"].endswith("@acme.com>")
    assert mail["Date"].startswith("Mon, 02 Mar 2026 06:00:00")
    assert "row 17" in mail.get_content()


def test_a_subject_cannot_smuggle_in_a_header(world, mail_server):
    with mail_server() as server:
        world.configure(email(server, security="none", subject="{reason}"))
        world.run(SourceError("bad\r\nBcc: thief@evil.example\r\n\r\nhello"))
    ((_, to, mail),) = server.mails
    assert mail["Subject"] == "bad Bcc: thief@evil.example hello"
    assert mail["Bcc"] is None
    assert to == ["TO:<ops@acme.com>"]


@pytest.mark.parametrize(
    ("says", "more", "outcome", "why"),
    [
        ({"AUTH": "535 no"}, {}, "pending", "refuses user and password (535)"),
        ({"MAIL": "553 no"}, {}, "pending", "refuses the message (553)"),
        ({"DATA": "452 full"}, {}, "pending", "refuses the message (452)"),
        ({}, {"to": ["nobody@acme.com"]}, "pending", "refuses nobody@acme.com"),
        ({}, {"to": ["ops@acme.com", "nobody@acme.com"]}, "sent", "refuses nobody@acme.com"),
        ({".": None}, {}, "unsure", "hung up"),
        ({}, {"ca_bundle": None}, "pending", "not trusted"),
        ({"EHLO": None}, {}, "pending", ""),
    ],
)
def test_what_a_mail_server_refuses(world, mail_server, tmp_path, says, more, outcome, why):
    authority = tmp_path / "authority.pem"
    with mail_server(certified(authority, ("localhost",)), "mail-password-1") as server:
        server.says.update(says)
        world.configure(email(server, **({"user": "connector", "password": "mail-password-1", "ca_bundle": str(authority)} | more)))
        (told,) = world.run(BAD_ROW)
    assert told["outcome"] == outcome
    assert why in told["why"]
    assert "mail-password-1" not in str(told)


def test_a_mail_server_that_is_not_there(world, tmp_path):
    world.configure({"type": "email", "host": "127.0.0.1", "port": 9, "from": "a@acme.com", "to": ["b@acme.com"]})
    (told,) = world.run(BAD_ROW)
    assert (told["outcome"], "cannot be reached" in told["why"]) == ("pending", True)
    (finding,) = world.notices.check(world.config.notify[0])
    assert (finding.ok, finding.exit_code) == (False, 2)


def test_check_asks_the_host_of_a_webhook_and_not_its_address(world, inbox):
    (finding,) = world.notices.check(world.config.notify[0])
    assert finding.ok
    assert [(one.method, one.path) for one in inbox.running.requests] == [("HEAD", "/")]


def test_a_test_message(world, inbox):
    assert [(finding.ok, finding.detail) for finding in world.notices.try_out()] == [(True, "sent")]
    inbox.running.faults.add("/hook", status=410)
    (finding,) = world.notices.try_out()
    assert (finding.ok, finding.exit_code, "410" in finding.detail) == (False, 2, True)
    assert events(inbox) == ["test"]


# ── configuration ─────────────────────────────────────────────────────────────────────────────────


def flow_with(*notifiers):
    flow = {"sources": {"a": {"type": "files", "tables": {"deals": {"path": "deals.csv"}}}}, "notify": list(notifiers)}
    flow["sinks"] = [{"type": "files", "folder": "out", "tables": [{"from": "deals"}]}]
    return json.dumps({"flows": {"sales": flow}})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"type": "slack", "url": "https://hooks.example/x", "text": "{reson}"}, "no field 'reson'; did you mean 'reason'?"),
        ({"type": "slack", "url": "https://hooks.example/x", "text": "{flow.__class__}"}, "no field 'flow.__class__'"),
        ({"type": "slack", "url": "https://hooks.example/x", "text": "{flow!r}"}, "takes no format"),
        ({"type": "slack", "url": "https://hooks.example/x", "text": "{"}, "written twice"),
        ({"type": "slack", "url": "hooks.example/secret"}, "not the address of a webhook"),
        ({"type": "webhook", "url": "https://h.example/x", "signing_secret": "whsec_%%%"}, "not base64"),
        ({"type": "email", "host": "m", "from": "a@b.c", "to": ["d@e.f"], "user": "u"}, "user and password go together"),
        ({"type": "email", "host": "m", "from": "a@b.c", "to": ["d@e.f"], "user": "u", "password": "p", "security": "none"}, "unencrypted"),
        ({"type": "email", "host": "m", "from": "a@b.c", "to": ["d"]}, "should match pattern"),
    ],
)
def test_wrong_configuration(wrong, says):
    flow = {"sources": {"a": {"type": "files", "tables": {"deals": "deals.csv"}}}, "notify": [wrong]}
    with pytest.raises(ValidationError) as caught:
        config_type().model_validate({"flows": {"sales": flow}})
    assert says in str(caught.value)
    assert "example" not in str(caught.value)


def test_on_is_a_key_and_no_truth_value(workplace):
    workplace.write("deals.csv", "deal_id,status\nD-1,open\n")
    workplace.write(
        "connector.yaml",
        """
flows:
  sales:
    sources: {a: {type: files, tables: {deals: {path: deals.csv}}}}
    notify:
      - {type: slack, url: "${HOOK}", on: [failure, gate], after_runs: 1}
      - type: email
        host: mail.example
        from: a@example.com
        to: [b@example.com]
        on: [digest, recovry]
""",
    )
    done = workplace.connector("check", HOOK="https://hooks.example/services/a-secret")
    assert done.code == 2
    assert "connector.yaml:11: flows.sales.notify.1.on.1: expected 'failure', 'recovery', 'gate' or 'digest'" in done.err


def test_a_failing_flow_tells_its_webhook_and_keeps_the_address_to_itself(workplace, inbox):
    workplace.write("deals.csv", "deal_id,status,amount\nD-1,open,1\n")
    workplace.write("connector.yaml", flow_with({"type": "webhook", "url": "${HOOK}"}))
    env = {"HOOK": f"{inbox.running.url('inbox')}/hook/a-very-secret-path"}
    assert "reachable" in workplace.connector("check", "sales", **env).out
    assert "test message: webhook" in workplace.connector("check", "sales", "--notify", **env).out
    assert events(inbox) == ["test"]
    inbox.got.clear()
    assert workplace.connector("run", "sales", **env).code == 0
    (workplace.folder / "deals.csv").unlink()
    failed = workplace.connector("run", "sales", "--json", "--log-level", "debug", **env)
    assert failed.code == 4
    assert [(one["event"], one["outcome"]) for one in failed.manifest["notified"]] == [("failure", "sent")]
    (run, _) = workplace.connector("history", "sales", "--json", **env).json()
    assert run["manifest"]["notified"] == failed.manifest["notified"]
    assert workplace.connector("run", "sales", "--dry-run", **env).code == 4
    assert events(inbox) == ["failure"]
    kept = b"".join(path.read_bytes() for path in (workplace.folder / "data").rglob("*") if path.is_file())
    for text in (kept, failed.out.encode(), failed.err.encode()):
        assert b"a-very-secret-path" not in text


def test_the_page_about_it_shows_a_configuration_that_is_right(workplace):
    page = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text("utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    workplace.write("connector.yaml", block)
    env = {name: f"https://hooks.example/{name}" for name in re.findall(r"\$\{(\w+)\}", block)}
    config = load(workplace.yaml, env).flow("sales-pipeline")
    assert [one.type for one in config.notify] == ["teams", "email", "slack", "webhook"]
    fields = set(re.findall(r"`(\w+)`", page.partition("## Words of your own")[2].partition("## The publish gate")[0]))
    assert set(TEMPLATE_FIELDS) <= fields

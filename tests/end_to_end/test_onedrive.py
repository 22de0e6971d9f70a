"""A flow delivered to the sandbox's OneDrive by the command line: made, left alone, refreshed around a colleague, while it is open."""

import io
import json
import re

import click
import pytest
from openpyxl import load_workbook
from openpyxl.worksheet.table import Table

from connector.sandbox.microsoft365 import CLIENT_ID, CLIENT_SECRET, TENANT, USER, microsoft365

YAML = """
flows:
  pipeline:
    sources: {{export: {{type: files, tables: {{deals: {{path: deals.csv}}}}}}}}
    sinks:
      - type: excel
        drive:
          type: onedrive
          tenant: {tenant}
          client_id: {client}
          client_secret: "${{SECRET}}"
          user: {user}
          base_url: {graph}
          authority: {identity}
          ca_bundle: {authority}
          max_wait: 5
        path: Sales/Pipeline.xlsx
        on_locked: {on_locked}
        wait_seconds: 0
        tables: [{{from: deals, sheet: Deals, table: Deals, columns: [deal_id, owner, amount]}}]
"""
DEALS = "deal_id,owner,status,amount,created_at,closed_at\n00017,=Ana,won,100.50,2026-01-02,2026-01-22\nD-2,Bo,open,70,2026-02-10,\n"


@pytest.fixture
def cloud(tmp_path):
    with microsoft365(tmp_path / "cloud", strict=True) as (cloud, running):
        cloud.running = running
        yield cloud
        assert running.violations == []


def configure(place, cloud, on_locked="wait"):
    place.write(
        "connector.yaml",
        YAML.format(
            tenant=TENANT, client=CLIENT_ID, user=USER, authority=cloud.authority, on_locked=on_locked,
            graph=cloud.running.url("graph"), identity=cloud.running.url("identity"),
        ),
    )  # fmt: skip


def run(place, *arguments):
    return place.connector("run", "pipeline", "--json", *arguments, SECRET=CLIENT_SECRET)


def stored(cloud, name="Pipeline.xlsx"):
    return cloud.folder / f"OneDrive {USER}" / "Sales" / name


def rows(path):
    book = load_workbook(io.BytesIO(path.read_bytes()))
    return [[cell.value for cell in row] for row in book["Deals"].iter_rows()]


def item(cloud):
    return cloud.user_drive.find("Sales/Pipeline.xlsx")


@pytest.fixture
def place(workplace, cloud):
    configure(workplace, cloud)
    workplace.write("deals.csv", DEALS)
    done = run(workplace)
    assert done.code == 0, done.err
    return workplace


def test_made_then_left_alone_then_refreshed(place, cloud):
    assert rows(stored(cloud)) == [["deal_id", "owner", "amount"], ["00017", "=Ana", 100.5], ["D-2", "Bo", 70]]
    versions = len(item(cloud).versions)
    assert run(place).manifest["sinks"][0]["outcome"] == "unchanged"
    assert len(item(cloud).versions) == versions
    place.write("deals.csv", DEALS.replace("70", "71"))
    (sink,) = run(place).manifest["sinks"]
    assert sink["outcome"] == "written"
    assert sink["version_before"] != sink["version_after"]
    assert rows(stored(cloud))[2] == ["D-2", "Bo", 71]
    assert len(item(cloud).versions) == versions + 1


def test_a_colleagues_column_stays_with_its_row(place, cloud):
    book = load_workbook(stored(cloud))
    sheet = book["Deals"]
    sheet["D1"], sheet["D3"] = "note", "call on Friday"
    del sheet.tables["Deals"]
    sheet.add_table(Table(displayName="Deals", ref="A1:D3"))
    book.save(stored(cloud))
    place.write("deals.csv", DEALS.replace("D-2,", "A-1,Cy,open,5,2026-02-11,\nD-2,"))
    assert run(place).code == 0
    assert [row for row in rows(stored(cloud)) if row[0] == "D-2"] == [["D-2", "Bo", 70, "call on Friday"]]
    assert [row for row in rows(stored(cloud)) if row[0] == "A-1"] == [["A-1", "Cy", 5, None]]


def test_while_it_is_open_the_run_says_try_later(place, cloud):
    cloud.user_drive.open_in_excel(item(cloud), "ann@acme.com")
    place.write("deals.csv", DEALS.replace("70", "71"))
    before = stored(cloud).read_bytes()
    done = run(place)
    assert done.code == 75
    assert "open" in done.err or "locked" in done.err
    assert stored(cloud).read_bytes() == before


def test_while_it_is_open_a_dated_copy_is_put_beside_it(place, cloud):
    configure(place, cloud, on_locked="copy")
    cloud.user_drive.open_in_excel(item(cloud), "ann@acme.com")
    place.write("deals.csv", DEALS.replace("70", "71"))
    done = run(place, "--at", "2026-03-02T06:00:00Z")
    assert done.code == 0, done.err
    assert "Pipeline (refresh 2026-03-02T0600).xlsx" in done.manifest["sinks"][0]["why"]
    assert rows(stored(cloud, "Pipeline (refresh 2026-03-02T0600).xlsx"))[2] == ["D-2", "Bo", 71]


def test_while_it_is_open_the_table_is_edited_inside_it(place, cloud):
    configure(place, cloud, on_locked="workbook")
    cloud.user_drive.open_in_excel(item(cloud), "ann@acme.com", mode="coauthoring")
    place.write("deals.csv", DEALS.replace("70", "71") + "D-3,@Cy,open,5,2026-02-11,\n")
    done = run(place)
    assert done.code == 0, done.err
    assert "inside the workbook" in done.manifest["sinks"][0]["why"]
    cloud.user_drive.close_in_excel(item(cloud))
    cloud.clock.sleep(600)
    cloud.workbooks.look(item(cloud))  # the service saves when everybody has gone
    assert rows(stored(cloud))[1:] == [["00017", "=Ana", 100.5], ["D-2", "Bo", 71], ["D-3", "@Cy", 5]]


@pytest.mark.parametrize("name", ["pipeline", "onedrive"])
def test_a_person_signs_in_for_a_flow_or_a_drive(workplace, cloud, monkeypatch, name):
    configure(workplace, cloud)
    signed = workplace.yaml.read_text().replace('client_secret: "${SECRET}"', "device_code: true").replace(f"          user: {USER}\n", "")
    workplace.yaml.write_text(signed)
    workplace.write("deals.csv", DEALS)
    before = run(workplace)
    assert (before.code, "connector login" in before.err + before.out) == (3, True)
    shown, echo = [], click.echo

    def person(message="", **more):
        echo(message, **more)
        if found := re.search("enter the code ([0-9A-F]+)", str(message)):
            shown.append(message)
            cloud.identity.approve(found[1], USER)

    monkeypatch.setattr(click, "echo", person)
    done = workplace.connector("login", name)
    assert (done.code, len(shown)) == (0, 1), done.err
    assert f"signed in: {USER}" in done.out
    assert run(workplace).code == 0
    assert rows(stored(cloud))[1][:2] == ["00017", "=Ana"]


def test_nobody_to_sign_in(workplace, cloud):
    configure(workplace, cloud)
    workplace.write("deals.csv", DEALS)
    wrong = workplace.connector("login", "onedriv", SECRET=CLIENT_SECRET)
    assert (wrong.code, "did you mean 'onedrive'?" in wrong.err) == (2, True), wrong.err
    for name in ("onedrive", "export", "pipeline"):
        idle = workplace.connector("login", name, SECRET=CLIENT_SECRET)
        assert (idle.code, "device_code: true" in idle.err) == (2, True), idle.err


def test_check_says_what_it_found_and_a_wrong_secret_is_exit_3(place):
    done = place.connector("check", SECRET=CLIENT_SECRET)
    assert done.code == 0, done.out
    wrong = place.connector("check", "--data", "elsewhere", SECRET="not-the-secret")  # without the token of the last hour
    assert wrong.code == 3
    assert "not-the-secret" not in wrong.out + wrong.err
    assert "→" in wrong.out


def test_no_secret_and_no_token_in_anything_that_is_kept(place, cloud):
    place.connector("run", "pipeline", "--log-level", "debug", "--log-format", "json", SECRET=CLIENT_SECRET)
    sent = [{name.lower(): value for name, value in logged.headers.items()} for logged in cloud.running.requests]
    tokens = [headers["authorization"].removeprefix("Bearer ") for headers in sent if "authorization" in headers]
    assert tokens
    kept = b"".join(path.read_bytes() for path in (place.folder / "data").rglob("*") if path.is_file() and "plugins" not in path.parts)
    printed = place.connector("history", "--json").out.encode()
    for secret in {CLIENT_SECRET, *tokens}:
        assert secret.encode() not in kept + printed


def test_the_manifest_lies_beside_the_workbook_when_asked_for(place, cloud):
    place.write("connector.yaml", place.yaml.read_text().replace("wait_seconds: 0", "wait_seconds: 0\n        manifest: true"))
    place.write("deals.csv", DEALS.replace("70", "71"))
    cloud.running.faults.add("manifest.json", status=403, times=None)
    first = run(place)
    assert first.code == 0, first.err
    assert any("no manifest" in warning for warning in first.manifest["warnings"])
    assert not stored(cloud, "Pipeline.manifest.json").exists()
    cloud.running.faults.clear()
    second = run(place)
    assert second.manifest["outcome"] == "unchanged"
    assert json.loads(stored(cloud, "Pipeline.manifest.json").read_text())["run_id"] == second.manifest["run_id"]
    before = stored(cloud, "Pipeline.manifest.json").read_bytes()
    assert run(place).manifest["outcome"] == "unchanged"
    assert stored(cloud, "Pipeline.manifest.json").read_bytes() == before
    place.write("deals.csv", DEALS.replace("70", "72"))
    third = run(place).manifest
    kept = json.loads(stored(cloud, "Pipeline.manifest.json").read_text())
    assert (kept["run_id"], kept["sinks"], kept["exit_code"]) == (third["run_id"], third["sinks"], 0)

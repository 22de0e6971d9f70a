"""The command line as a newcomer meets it: help, lists, starting points, and errors without a traceback."""

import json

import pytest

YAML = """
flows:
  pipeline:
    sources: {export: {type: files, tables: {deals: {path: deals.csv}}}}
    sinks: [{type: files, folder: out, format: csv, tables: [{from: deals, columns: [deal_id, amount]}]}]
"""
DEALS = "deal_id,status,amount,created_at,closed_at\nD-1,won,100.50,2026-01-02,2026-01-22\nD-2,open,70,2026-02-10,\n"


@pytest.fixture
def place(workplace):
    workplace.write("connector.yaml", YAML)
    workplace.write("deals.csv", DEALS)
    return workplace


def test_help_lists_every_command(place):
    done = place.connector("--help")
    assert done.code == 0
    for command in ("run", "check", "preview", "query", "history", "metrics", "schema", "plugins", "init", "demo"):
        assert f"\n  {command} " in done.out


def test_options_work_before_and_behind_the_command(place):
    (place.folder / "other.yaml").write_text(YAML)
    for arguments in (("--config", "other.yaml", "check"), ("check", "--config", "other.yaml")):
        assert place.connector(*arguments).code == 0
    assert place.connector("check", CONNECTOR_CONFIG="none.yaml").code == 2


def test_a_run_its_history_and_a_query(place):
    first = place.connector("run", "pipeline", "--json", "--at", "2026-03-02")
    assert first.code == 0, first.err
    assert first.manifest["outcome"] == "ok"
    assert first.manifest["sources"][0] | {"seconds": 0} == {
        "source": "export", "entity": "deals", "mode": "full", "rows_read": 2, "inserted": 2, "updated": 0, "deleted": 0,
        "watermark_before": None, "watermark_after": first.manifest["sources"][0]["watermark_after"], "requests": 0, "retries": 0, "seconds": 0,
    }  # fmt: skip
    assert first.manifest["metrics"]["revenue"] == 100.5
    assert (place.folder / "out" / "deals.csv").read_text() == "deal_id,amount\nD-1,100.5\nD-2,70\n"
    assert place.connector("query", "pipeline", "select status, amount from deals order by 1", "--format", "json").json() == [
        {"status": "open", "amount": 70},
        {"status": "won", "amount": 100.5},
    ]
    (run,) = place.connector("history", "pipeline", "--json").json()
    assert (run["outcome"], run["exit_code"], run["manifest"]["run_id"]) == ("ok", 0, first.manifest["run_id"])


def test_preview_writes_nothing_and_moves_nothing(place):
    listed = place.connector("preview", "pipeline", "--format", "json").json()
    assert {"table": "deals", "rows": 2, "title": listed[1]["title"]} in listed
    rows = place.connector("preview", "pipeline", "--table", "deals", "--format", "json", "--at", "2026-03-02").json()
    assert rows[0]["created_at"] == "2026-01-02"
    assert rows[0]["amount"] == 100.5
    assert rows[1]["closed_at"] is None
    assert rows[1]["age_days"] == 20
    assert not (place.folder / "out").exists()
    assert place.connector("history", "--json").json() == []
    assert place.connector("run", "pipeline", "--json").manifest["sources"][0]["mode"] == "full"


def test_a_dry_run_writes_nothing(place):
    done = place.connector("run", "pipeline", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert done.manifest["outcome"] == "dry run"
    assert done.manifest["sinks"][0]["outcome"] == "would write"
    assert not (place.folder / "out").exists()
    assert place.connector("query", "pipeline", "select 1").code == 2


def test_unchanged_data_writes_nothing_and_says_so(place):
    place.connector("run", "pipeline", "--at", "2026-03-02T06:00:00Z")
    written = (place.folder / "out" / "deals.csv").stat().st_mtime_ns
    again = place.connector("run", "pipeline", "--at", "2026-03-02T07:00:00Z")
    assert again.code == 0
    assert "unchanged" in again.out
    assert (place.folder / "out" / "deals.csv").stat().st_mtime_ns == written


def test_a_changed_row_is_counted(place):
    place.connector("run", "pipeline")
    place.write("deals.csv", DEALS.replace("70", "75").replace("D-1", "D-9"))
    (read,) = place.connector("run", "pipeline", "--json").manifest["sources"]
    assert (read["inserted"], read["updated"], read["deleted"]) == (1, 1, 1)


def test_fixed_rates_convert_into_the_reporting_currency(place):
    place.write("connector.yaml", YAML + "    model: {currency: EUR, rates: {USD: 0.5}}\n")
    place.write(
        "deals.csv",
        "deal_id,status,amount,currency,created_at,closed_at\nD-1,won,100,USD,2026-01-02,2026-01-22\nD-2,won,30,EUR,2026-01-02,2026-01-22\n",
    )
    assert place.connector("run", "pipeline", "--json").manifest["metrics"]["revenue"] == 80


def test_the_gate_keeps_yesterdays_file(place):
    place.write("connector.yaml", YAML + "    gate: {max_row_drop: 0.3}\n")
    place.connector("run", "pipeline")
    place.write("deals.csv", DEALS[: DEALS.index("D-2")])
    kept = place.connector("run", "pipeline")
    assert kept.code == 5
    assert "deals fell from 2 to 1 (50%; max_row_drop is 30%)" in kept.err
    assert "--accept" in kept.err
    assert "D-2" in (place.folder / "out" / "deals.csv").read_text()
    assert place.connector("run", "pipeline", "--accept").code == 0
    assert "D-2" not in (place.folder / "out" / "deals.csv").read_text()


def test_one_flow_that_fails_does_not_keep_the_others_from_running(place):
    other = (
        YAML.split("flows:\n")[1].replace("pipeline:", "broken:").replace("deals.csv", "none.csv").replace("folder: out", "folder: out2")
    )
    place.write("connector.yaml", "flows:\n" + other + YAML.split("flows:\n")[1])
    done = place.connector("run", "--all")
    assert done.code == 4
    assert "broken:" in done.err
    assert (place.folder / "out" / "deals.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run",), "name a flow, or --all"),
        (("run", "pipelin"), "did you mean 'pipeline'?"),
        (("preview", "pipeline", "--table", "deal"), "no table 'deal'; did you mean 'deals'?"),
        (("query", "pipeline", "select 1"), "there is no snapshot yet"),
        (("run", "pipeline", "--at", "yesterday"), "is not a date or time in ISO 8601"),
        (("init", "--template", "file"), "did you mean 'files'?"),
        (("init",), "is already there"),
        (("bogus",), "No such command"),
        (("metrics", "--log-level", "loud"), "Invalid value"),
    ],
)
def test_a_users_mistake_is_a_message_and_exit_code_2(place, arguments, said):
    done = place.connector(*arguments)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("select nothing from deals", "nothing"),
        ("drop table deals", "expected one SELECT"),
        ("select * from read_csv('connector.yaml')", "does not fit"),
        ("copy (select 1) to 'x.csv'", "expected one SELECT"),
    ],
)
def test_a_query_reads_tables_and_nothing_else(place, sql, said):
    place.connector("run", "pipeline")
    done = place.connector("query", "pipeline", sql)
    assert done.code == 2
    assert said in done.err
    assert not (place.folder / "x.csv").exists()


def test_init_writes_a_configuration_that_is_valid(workplace):
    assert workplace.connector("init").code == 0
    done = workplace.connector("check")
    assert "ok    configuration" in done.out
    assert done.code == 4  # the export it names is not there
    assert "no such file" in done.out


def test_metrics_and_schema_and_plugins_are_machine_readable(place):
    metrics = {metric["name"]: metric for metric in place.connector("metrics", "--json").json()}
    assert metrics["win_rate"]["unit"] == "percent"
    assert all(metric["formula"] and metric["definition"] for metric in metrics.values())
    assert place.connector("schema").json()["title"] == "connector.yaml"
    assert {"files", "excel"} <= {plugin["type"] for plugin in place.connector("plugins", "--json").json()}


def test_logs_as_json_lines_never_mix_with_the_output(place):
    done = place.connector("run", "pipeline", "--json", "--log-format", "json", "--log-level", "debug")
    for line in done.err.splitlines():
        json.loads(line)
    assert done.manifest["exit_code"] == 0

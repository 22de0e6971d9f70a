"""YAML to a configuration: every fault at once, with its place and what would be right."""

import json

import pytest

from connector.configfile import load, schema
from connector.errors import ConfigError
from connector.templates import templates

GOOD = """
x-shared: &drive {type: local, folder: out}
flows:
  pipeline:
    timezone: Europe/Berlin
    sources:
      export: {type: files, tables: {deals: {path: deals.csv}}}
    sinks:
      - {type: excel, drive: *drive, path: Pipeline.xlsx}
"""


def write(folder, text, name="connector.yaml"):
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def faults(path, env=None):
    with pytest.raises(ConfigError) as caught:
        load(path, env or {})
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_flow_is_read_and_its_paths_are_relative_to_the_file(tmp_path):
    config = load(write(tmp_path, GOOD), {})
    flow = config.flow("pipeline")
    assert flow.sources["export"].tables["deals"].path == str(tmp_path / "deals.csv")
    assert flow.zone.key == "Europe/Berlin"


def test_five_faults_are_reported_at_once_each_with_its_line(tmp_path):
    text = """flows:
  pipeline:
    timezone: Europe/Berln
    sources:
      export: {type: fils, tables: {}}
    model: {currancy: EUR, fiscal_year_start: 13}
    sinks:
      - {type: excel, drive: {type: local, folder: out}, path: Pipeline.xlsx, on_lockd: wait}
"""
    message = faults(write(tmp_path, text))
    assert message.startswith("5 faults")
    for line, said in [
        (3, "no time zone 'Europe/Berln'"),
        (5, "unknown type 'fils'; did you mean 'files'?"),
        (6, "flows.pipeline.model.currancy: unknown key; did you mean 'currency'?"),
        (6, "flows.pipeline.model.fiscal_year_start: input should be less than or equal to 12"),
        (8, "flows.pipeline.sinks.0.on_lockd: unknown key; did you mean 'on_locked'?"),
    ]:
        assert any(f"connector.yaml:{line}: " in row and said in row for row in message.splitlines()), (said, message)


def test_variables_come_from_the_environment_then_dotenv_then_the_default(tmp_path):
    (tmp_path / ".env").write_text("NAME=from-dotenv\nOTHER=from-dotenv\n")
    (tmp_path / "secret").write_text("from-file\n")
    text = GOOD.replace("Pipeline.xlsx", '"${NAME}/${OTHER}/${NONE:-fallback}/${file:secret}/$${x}.xlsx"')
    sink = load(write(tmp_path, text), {"NAME": "from-env"}).flow("pipeline").sinks[0]
    assert sink.path == "from-env/from-dotenv/fallback/from-file/${x}.xlsx"


def test_an_unset_variable_names_itself_and_its_key(tmp_path):
    message = faults(write(tmp_path, GOOD.replace("Pipeline.xlsx", '"${WORKBOOK}"')))
    assert "connector.yaml:9: flows.pipeline.sinks.0.path: the variable WORKBOOK is not set" in message


def test_a_missing_secret_file_names_its_key(tmp_path):
    assert "the file /no/such cannot be read" in faults(write(tmp_path, GOOD.replace("Pipeline.xlsx", '"${file:/no/such}"')))


def test_values_never_show(tmp_path):
    message = faults(
        write(tmp_path, GOOD.replace("timezone: Europe/Berlin", "fiscal: ${S}\n    retention: {days: '${S}'}")), {"S": "s3cr3t-value"}
    )
    assert "s3cr3t" not in message
    assert "flows.pipeline.retention.days" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("flows: [", "not YAML"),
        ("flows: {a: ${B}}", "in quotes"),
        ("flows:\n  a: 1\n  a: 2\n", "already stands on line 2"),
        ("- a\n", "expected a mapping"),
        ("flows: {}\n", "flows: "),
        ("flow: {}\n", "unknown key; did you mean 'flows'?"),
    ],
)
def test_a_file_that_is_no_configuration_says_why(tmp_path, text, said):
    assert said in faults(write(tmp_path, text))


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yaml", {})
    assert "connector init" in caught.value.remedy


def test_a_folder_is_merged_and_a_flow_twice_is_a_fault(tmp_path):
    write(tmp_path, GOOD, "a.yaml")
    write(tmp_path, GOOD.replace("pipeline:", "second:"), "b.yaml")
    assert list(load(tmp_path, {}).flows) == ["pipeline", "second"]
    write(tmp_path, GOOD, "c.yaml")
    assert "another file has a flow of this name" in faults(tmp_path)


def test_cron_is_proven(tmp_path):
    message = faults(write(tmp_path, GOOD.replace("timezone: Europe/Berlin", "schedule: {cron: 99 6 * * 1-5}")))
    assert "is not a cron expression" in message


def test_rates_are_numbers_or_a_file_table(tmp_path):
    good = GOOD.replace("timezone: Europe/Berlin", "model: {rates: {USD: 0.92}}")
    assert load(write(tmp_path, good), {}).flow("pipeline").model.rates == {"USD": 0.92}
    file = GOOD.replace("timezone: Europe/Berlin", "model: {rates: {path: rates.csv}}")
    assert load(write(tmp_path, file), {}).flow("pipeline").model.rates["path"] == str(tmp_path / "rates.csv")
    assert "the rate of USD is not a number" in faults(write(tmp_path, good.replace("0.92", "dear")))


def test_the_schema_knows_every_plugins_keys_and_admits_variables():
    document = schema()
    text = json.dumps(document)
    assert '"on_locked"' in text
    assert '"fiscal_year_start"' in text
    assert "^x-" in document["patternProperties"]
    excel = next(node for name, node in document["$defs"].items() if node.get("properties", {}).get("type", {}).get("const") == "excel")
    assert excel["additionalProperties"] is False
    retention = document["$defs"]["Retention"]["properties"]["days"]
    assert {"type": "string", "pattern": r"\$\{[^}]+\}"} in retention["anyOf"]


@pytest.mark.parametrize("name", sorted(templates()))
def test_every_template_is_a_valid_configuration(tmp_path, name):
    names = ("SF_DOMAIN", "SF_ID", "SF_SECRET", "TENANT", "APP_ID", "APP_SECRET", "OWNER")
    config = load(write(tmp_path, templates()[name].read_text("utf-8")), dict.fromkeys(names, "acme.example"))
    assert config.flow("pipeline").sinks

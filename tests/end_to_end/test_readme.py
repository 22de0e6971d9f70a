"""Every command and every YAML block of the README, done as it stands there; only the addresses lead to the sandbox."""

import re
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from cronsim import CronSim

from connector.cli import cli
from connector.sandbox.microsoft365 import SITE_HOST
from connector.sandbox.office import Office
from connector.sandbox.server import serve

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
CONFIGURATIONS = [text for language, text in BLOCKS if language == "yaml"]
#: commands that other tests play from beginning to end
PLAYED = {"connector sandbox": "test_sandbox_command.py", "connector schedule": "test_schedule.py", "connector demo": "test_demo.py"}


def commands():
    """The lines of the shell blocks, without comments."""
    lines = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.strip()]


def towards(running, office, text):
    """A configuration of the README as YAML, with `base_url` and its like added: nothing that it says is taken away."""
    document = yaml.safe_load(text)
    for flow in document["flows"].values():
        for source in flow["sources"].values():
            source["base_url"] = running.url(source["type"])
        for sink in flow["sinks"]:
            sink["drive"] |= {
                "base_url": running.url("graph"), "authority": running.url("identity"), "ca_bundle": str(office.cloud.authority),
            }  # fmt: skip
    return yaml.safe_dump(document, sort_keys=False)


@pytest.fixture(scope="module")
def open_office(tmp_path_factory):
    office = Office(tmp_path_factory.mktemp("office"), sizes=(70, 10))
    with serve(*office.services(), clock=office.cloud.clock) as running:
        known = office.addresses(running)
        names = {"SF_ID": known["SALESFORCE_ID"], "SF_SECRET": known["SALESFORCE_SECRET"]}
        yield office, running, {**known, **names}


@pytest.fixture(scope="module", params=range(len(CONFIGURATIONS)), ids=["tableau to onedrive", "salesforce to sharepoint"])
def place(request, open_office, tmp_path_factory, new_workplace):
    """A folder in which `connector init` has been run, and then the README's configuration put in place of the template."""
    office, running, variables = open_office
    place = new_workplace(tmp_path_factory.mktemp("readme"))
    begin = next(command for command in commands() if command.startswith("connector init"))
    made = place.connector(*shlex.split(begin)[1:])
    assert made.code == 0, made.err
    assert (place.folder / ".env.example").is_file()
    place.write("connector.yaml", towards(running, office, CONFIGURATIONS[request.param]))
    used = {name: variables[name] for name in re.findall(r"\$\{(\w+)\}", CONFIGURATIONS[request.param])}
    place.write(".env", "".join(f"{name}={value}\n" for name, value in used.items()))
    return place


def test_every_block_is_of_a_kind_that_is_tested_here():
    assert {language for language, _ in BLOCKS} == {"sh", "yaml", "cron"}
    assert len(CONFIGURATIONS) == 2


def test_every_command_of_the_readme_works(place):
    told = [command for command in commands() if command.startswith("connector ")]
    assert len(told) > 5
    for command in told:
        if command in PLAYED:
            assert list((ROOT / "tests").rglob(PLAYED[command])), command
        elif not command.startswith("connector init"):
            done = place.connector(*shlex.split(command)[1:])
            assert done.code == 0, f"{command}: {done.err}{done.out}"


def test_the_workbooks_are_where_the_readme_says(place, open_office):
    office, _, _ = open_office
    path = yaml.safe_load((place.folder / "connector.yaml").read_text("utf-8"))["flows"]["pipeline"]["sinks"][0]["path"]
    drives = {"Sales/Pipeline.xlsx": office.cloud.user_drive, "Reviews/Weekly.xlsx": office.cloud.library}
    place.connector("run", "pipeline")
    assert (drives[path].folder / path).stat().st_size > 5_000


def test_the_site_of_the_readme_is_the_sandboxs():
    assert f"https://{SITE_HOST}/sites/Sales" in CONFIGURATIONS[1]


@pytest.mark.parametrize("line", [line for language, text in BLOCKS if language == "cron" for line in text.splitlines()])
def test_the_crontab_line(line, place):
    fields, command = re.match(r"((?:\S+\s+){5})(.*)", line).groups()
    assert next(CronSim(fields.strip(), datetime(2026, 1, 1, tzinfo=UTC)))
    folder, runs = command.split(" && ")
    assert folder.startswith("cd ")
    program, *arguments = shlex.split(runs)
    assert program == ".venv/bin/connector"
    done = place.connector(*arguments)
    assert done.code == 0, done.err


def test_every_other_line_of_shell_is_make_or_the_environment_it_makes():
    others = [command for command in commands() if not command.startswith("connector ")]
    assert others.pop(others.index(". .venv/bin/activate"))
    for command in others:
        make, target = command.split()
        assert make == "make"
        planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert planned.returncode == 0, planned.stderr


@pytest.mark.parametrize("written", sorted(set(re.findall(r"`(connector [^`…]+)`", TEXT))))
def test_commands_within_sentences_exist(written):
    _, name, *arguments = shlex.split(written)
    assert cli.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", TEXT))))
def test_every_link_leads_somewhere(target):
    assert (ROOT / target).exists()

"""The crontab and the systemd units: the same due times, real paths, quoting that survives; judged by systemd itself where there is one."""

import random
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connector.cron import Plan
from connector.errors import ConfigError
from connector.schedule.crontab import crontab
from connector.schedule.place import Place
from connector.schedule.systemd import calendars_of, systemd

PLACE = Place(Path("/opt/connector/bin/python"), Path("/srv/sales/connector.yaml"), Path("/srv/sales/data"), "sales", "UTC")
ODD = Place(Path("/opt/my apps/python"), Path('/srv/50% "off" $x/connector.yaml'), Path("/srv/a'b/data"), "sales", "Europe/Berlin")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
START = datetime(2026, 1, 1, tzinfo=UTC)
EXPRESSIONS = [
    "0 6 * * 1-5", "*/15 * * * *", "5/20 8-18/2 * * *", "0 0 1 * *", "30 6 1,15 * MON", "0 9 13 * FRI", "0 7 * 1,4,7,10 *", "0 6 L * *",
    "0 6 LW * *", "0 6 * * 5L", "0 6 * * MON#1", "0 6 * * 1#2,3#5", "0 12 */2 * SUN", "0 12 1-7 * *", "59 23 31 12 *", "0 0 29 2 *",
    "15,45 */6 * * 0,6", "0 6 * * 7", "0 3 L,15 * *", "10 4 1 */3 2-4", "0 6 LW * 1", "*/7 5 * JAN-MAR *", "0 6 */31 * 2", "1 4 */9 * *",
]  # fmt: skip


def occurrences(calendar, count):
    """What systemd makes of it, in UTC, from the start of 2026."""
    command = ["systemd-analyze", "calendar", f"--iterations={count}", "--base-time=2025-12-31 23:59:59 UTC", calendar]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin:/bin"}).stdout
    stamps = re.findall(r"(?:Next elapse|Iter\. #\d+): \w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", told)
    return [datetime.fromisoformat(stamp).replace(tzinfo=UTC) for stamp in stamps]


def due_until(plan, end):
    dues = []
    for due in plan.dues(START - timedelta(seconds=1)):
        if due >= end:
            return dues
        dues.append(due)
    return dues


def same_as_systemd(plan, most=250):
    """The first due times of the plan, at most of a year, are those of all its calendars together."""
    end = next(due_after(plan, most), START + timedelta(days=366))
    told = {moment for calendar in calendars_of(plan) for moment in occurrences(calendar, most + 1) if moment < end}
    return sorted(told) == due_until(plan, end)


def due_after(plan, count):
    """The due time after `count` others, if there is one within a year."""
    for index, due in enumerate(plan.dues(START - timedelta(seconds=1))):
        if due > START + timedelta(days=366):
            return
        if index == count:
            yield due


@needs_systemd
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_systemd_comes_to_the_same_due_times_for_a_year(expression):
    assert same_as_systemd(Plan(expression))


@needs_systemd
def test_systemd_reads_the_time_zone_as_we_do():
    """In a year of two changes of the clock, at hours that are there every day and once."""
    assert same_as_systemd(Plan("0 6 * * 1-5", "Europe/Berlin"), most=370)
    assert same_as_systemd(Plan("30 18 1,15 * *", "Australia/Lord_Howe"), most=370)


def field(chance, least, most, names=()):
    parts = []
    for _ in range(chance.choice([1, 1, 2])):
        low, high = sorted(chance.sample(range(least, most + 1), 2))
        parts.append(
            chance.choice(["*", f"*/{chance.randint(2, 9)}", f"{low}", f"{low}-{high}", f"{low}-{high}/{chance.randint(2, 5)}", *names])
        )
    return ",".join(dict.fromkeys(parts))


@needs_systemd
@pytest.mark.soak
def test_systemd_agrees_on_many_expressions():
    chance = random.Random(11)
    agreed = 0
    while agreed < 400:
        expression = " ".join(
            (
                field(chance, 0, 59),
                field(chance, 0, 23),
                field(chance, 1, 31, ("L", "LW")),
                field(chance, 1, 12, ("JUN",)),
                field(chance, 0, 7, ("MON", "5L", "2#3")),
            )
        )
        try:
            calendars_of(Plan(expression))
        except ConfigError:
            continue
        assert same_as_systemd(Plan(expression), 120), expression
        agreed += 1


def test_what_calendars_look_like():
    assert calendars_of(Plan("0 6 * * 1-5", "Europe/Berlin")) == ["Mon..Fri *-*-* 06:00:00 Europe/Berlin"]
    assert calendars_of(Plan("*/15 8-18 * * *")) == ["*-*-* 08..18:00,15,30,45:00 UTC"]
    assert calendars_of(Plan("0 0 13 * 5")) == ["*-*-13 00:00:00 UTC", "Fri *-*-* 00:00:00 UTC"]  # cron's OR
    assert calendars_of(Plan("0 0 L * *")) == ["*-*~01 00:00:00 UTC"]
    with pytest.raises(ConfigError, match="no words for"):
        calendars_of(Plan("0 6 */2 * 5L"))


def units(text):
    """Path → text, split as the installing awk line splits."""
    found, name = {}, None
    for line in text.splitlines():
        if match := re.fullmatch(r"# (/\S+[.](?:service|timer))", line):
            name = match[1]
        if name:
            found[name] = found.get(name, "") + line + "\n"
    return found


def test_units_name_what_is_really_there(workplace):
    workplace.write(
        "connector.yaml",
        'flows: {a.b-c: {schedule: {cron: "0 6 * * *", jitter: 90}, sources: {x: {type: files, tables: {d: {path: d.csv}}}}}}',
    )
    done = workplace.connector("schedule", "--print", "systemd", "--data", "kept")
    assert done.code == 0, done.err
    found = units(done.out)
    assert set(found) == {"/etc/systemd/system/connector-a.b-c.service", "/etc/systemd/system/connector-a.b-c.timer"}
    service, timer = found["/etc/systemd/system/connector-a.b-c.service"], found["/etc/systemd/system/connector-a.b-c.timer"]
    command = shlex.split(re.search(r"^ExecStart=(.*)$", service, re.MULTILINE)[1])
    assert Path(command[0]).is_file()
    assert command[1:5] == ["-m", "connector", "run", "a.b-c"]
    assert command[command.index("--config") + 1] == str(workplace.yaml.resolve())
    assert command[command.index("--data") + 1] == str((workplace.folder / "kept").resolve())
    assert f"WorkingDirectory={workplace.folder.resolve()}\n" in service
    assert "RestartForceExitStatus=75\n" in service
    for line in ("OnCalendar=*-*-* 06:00:00 UTC", "Persistent=true", "RandomizedDelaySec=90"):
        assert f"{line}\n" in timer
    assert not (workplace.folder / "kept").exists()  # printing changes nothing


@needs_systemd
@pytest.mark.parametrize("place", [PLACE, ODD], ids=["plain", "odd"])
def test_systemd_accepts_the_units(tmp_path, place):
    """`systemd-analyze verify` wants the executable and the user to be there; everything else is as printed."""
    program = tmp_path / place.python.parent.name / "python"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    here = Place(program, place.config, place.data, "root", place.timezone)
    text = systemd({"f": Plan("0 6 L * *", "Europe/Berlin", jitter=5), "g": Plan("0 9 13 * FRI")}, here)
    paths = []
    for name, unit in units(text).items():
        paths.append(tmp_path / Path(name).name)
        paths[-1].write_text(unit)
    checked = subprocess.run(["systemd-analyze", "verify", "--man=no", *map(str, paths)], capture_output=True, text=True, check=False)
    ours = [line for line in checked.stderr.splitlines() if "connector-" in line]
    assert (checked.returncode, ours) == (0, [])


@pytest.mark.skipif(shutil.which("awk") is None, reason="awk is not installed")
def test_the_installing_line_of_the_head_writes_the_units(tmp_path):
    text = systemd({"f": Plan("0 6 * * *")}, PLACE).replace("/etc/systemd/system", str(tmp_path))
    (line,) = re.findall(r"^#   connector schedule --print systemd \| sudo (awk .*)$", text, re.MULTILINE)
    subprocess.run(line, shell=True, input=text, text=True, check=True)
    assert {path.name: path.read_text().strip() for path in tmp_path.iterdir()} == {
        Path(name).name: unit.strip() for name, unit in units(text).items()
    }


# ── crontab ───────────────────────────────────────────────────────────────────────────────────────


def test_the_crontab_groups_by_zone_and_says_who_understands_it():
    plans = {"late": Plan("0 18 * * *", "Europe/Berlin"), "here": Plan("*/5 * * * *"), "early": Plan("0 6 * * 1-5", "Europe/Berlin")}
    lines = crontab(plans, PLACE).splitlines()
    jobs = [line for line in lines if line and not line.startswith("#")]
    assert [job.split(" /opt")[0] for job in jobs] == ["*/5 * * * *", "CRON_TZ=Europe/Berlin", "0 18 * * *", "0 6 * * 1-5"]
    assert "Debian" in "\n".join(lines)
    assert "CRON_TZ" not in crontab({"here": Plan("*/5 * * * *")}, PLACE)  # the machine's own zone needs no word


def test_a_crontab_command_survives_cron_and_the_shell():
    """cron turns an unescaped % into a line break; sh then reads the rest."""
    (job,) = [line for line in crontab({"f": Plan("0 6 * * *", "Europe/Berlin")}, ODD).splitlines() if line.startswith("0 6")]
    command = job.split(maxsplit=5)[5]
    assert not re.search(r"(?<!\\)%", command)
    assert shlex.split(command.replace(r"\%", "%")) == ODD.command("f")


def test_what_only_some_crons_read_is_written_out():
    lines = crontab({"f": Plan("5/20 6 * * 1-5")}, PLACE).splitlines()
    assert any(line.startswith("5,25,45 6 * * 1-5 ") for line in lines)
    for expression in ("0 6 L * *", "0 6 * * 5L", "0 6 * * MON#1"):
        with pytest.raises(ConfigError, match="no cron reads") as caught:
            crontab({"f": Plan(expression)}, PLACE)
        assert "systemd" in caught.value.remedy

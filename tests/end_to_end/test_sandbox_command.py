"""`connector sandbox` as somebody uses it: started, tried with the configuration it prints, two runs with a week between them, stopped."""

import re
import signal
import socket

import pytest
import requests


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory, new_workplace):
    """One that is open; `told` is what it said when it opened."""
    place = new_workplace(tmp_path_factory.mktemp("sandbox"))
    process = place.start("sandbox", "--port", "0", "--out", "here")
    place.told = ""
    while "Ctrl-C" not in place.told and (line := process.stdout.readline()):
        place.told += line
    place.process = process
    yield place
    process.kill()
    process.communicate()


def on(place, *arguments):
    return place.connector(*arguments, "--config", "here/connector.yaml", "--data", "here/data")


def control(place):
    return re.search(r"curl (http://\S+)/connector\.yaml", place.told)[1]


def test_it_prints_addresses_and_the_configuration_it_has_written(sandbox):
    written = (sandbox.folder / "here/connector.yaml").read_text("utf-8")
    assert written in sandbox.told
    assert "${" not in written.replace("${…}", "")
    assert requests.get(f"{control(sandbox)}/connector.yaml", timeout=5).text == written
    for service in ("Salesforce", "HubSpot", "Tableau", "Microsoft Graph"):
        (address,) = re.findall(rf"  {service} +(http://127\.0\.0\.1:\d+)", sandbox.told)
        assert address in written
    assert requests.get(control(sandbox), timeout=5).text in sandbox.told


@pytest.mark.parametrize("days", ["0", "367", "x"])
def test_a_leap_too_long_is_refused(sandbox, days):
    assert requests.post(f"{control(sandbox)}/days/{days}", timeout=5).status_code in (400, 404)


def test_check_run_a_week_later_run_again_and_stop(sandbox):
    checked = on(sandbox, "check")
    assert checked.code == 0, checked.out
    assert "FAIL" not in checked.out
    first = on(sandbox, "run", "demo", "--json").manifest
    assert (sandbox.folder / "here/OneDrive sales@acme.com/Sales/Pipeline.xlsx").is_file()

    answer = requests.post(f"{control(sandbox)}/days/7", timeout=30).json()
    second = on(sandbox, "run", "demo", "--json", "--at", answer["now"]).manifest
    reads = {(read["source"], read["entity"]): read for read in second["sources"]}
    for crm in ("salesforce", "hubspot"):
        deals = reads[crm, "deals"]
        assert deals["mode"] == "incremental"
        assert deals["inserted"] + deals["updated"] > 0
    assert second["sinks"][0]["outcome"] == first["sinks"][0]["outcome"] == "written"

    sandbox.process.send_signal(signal.SIGINT)
    out, err = sandbox.process.communicate(timeout=20)
    assert (sandbox.process.returncode, err) == (0, "")
    assert out.strip().endswith("closed")


def test_a_port_that_is_taken_is_said(workplace):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = workplace.connector("sandbox", "--port", taken.getsockname()[1], "--out", "here")
    assert refused.code == 2
    assert "cannot listen on port" in refused.err

"""`connector check`: each thing looked at, how it stands, and the remedy when it does not; nothing is written."""

from connector.sandbox.microsoft365 import CLIENT_ID, USER
from sinks.drives.graph import GraphDrive, login


def found(drive):
    return {finding.what.rpartition(": ")[2]: finding for finding in drive.check()}


def test_all_is_well(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    before = (item.etag, item.ctag, len(item.versions))
    findings = found(world.drive())
    assert list(findings) == ["sign-in", "drive", "target", "write permission", "lock", "versions"]
    assert all(finding.ok for finding in findings.values())
    assert findings["sign-in"].detail == "connector: Files.ReadWrite.All"
    assert findings["target"].detail.startswith("Sales/Pipeline.xlsx, 3 bytes, last changed")
    assert findings["write permission"].detail == "proven without writing"
    assert (item.etag, item.ctag, len(item.versions)) == before
    assert world.cloud.uploads.open == {}


def test_a_target_that_will_be_created(world):
    findings = found(world.drive("New/Deep/P.xlsx"))
    assert findings["target"].detail == "will be created, with the folders that are missing"
    assert findings["write permission"].ok
    assert list(world.files.root.children) == []


def test_no_permission_at_all(world):
    world.cloud.app.roles = ()
    findings = found(world.drive())
    assert (findings["sign-in"].ok, findings["sign-in"].exit_code) == (False, 3)
    assert "no permission at all" in findings["sign-in"].detail
    assert "application permission Sites.Selected" in findings["sign-in"].remedy


def test_read_but_not_write(world):
    world.put("P.xlsx", b"old", world.cloud.library)
    world.cloud.app.roles = ("Sites.Selected",)
    world.cloud.site.grants[CLIENT_ID] = "read"
    findings = found(world.library("P.xlsx"))
    assert findings["target"].ok
    assert (findings["write permission"].ok, findings["write permission"].exit_code) == (False, 3)
    assert "grant" in findings["write permission"].remedy


def test_the_secret_is_wrong(world):
    world.cloud.app.secret = "another"
    (finding,) = world.drive().check()
    assert (finding.ok, finding.exit_code) == (False, 3)
    assert "secret is wrong" in finding.detail


def test_a_secret_that_was_revoked_while_the_last_token_is_still_good(world):
    world.put("Sales/Pipeline.xlsx", b"old")
    assert world.drive().version()
    world.cloud.app.secret = "another"
    assert world.drive().version(), "the token of the last run still serves"
    (finding,) = world.drive().check()
    assert (finding.ok, finding.exit_code) == (False, 3)
    assert "secret is wrong" in finding.detail


def test_somebody_has_it_open(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.files.open_in_excel(item, "ann@acme.com")
    lock = found(world.drive())["lock"]
    assert (lock.ok, lock.exit_code) == (False, 75)
    assert "open in Excel" in lock.detail
    assert "on_locked" in lock.remedy


def test_somebody_has_it_checked_out(world):
    item = world.put("P.xlsx", b"old", world.cloud.library)
    item.checked_out = {"user": {"id": "1", "displayName": "Ann"}}
    lock = found(world.library("P.xlsx"))["lock"]
    assert (lock.ok, lock.exit_code, lock.detail) == (False, 75, "checked out by Ann")


def test_versions(world):
    world.put("Sales/Pipeline.xlsx", b"1")
    assert found(world.drive())["versions"].detail == "one version so far"
    drive = world.drive()
    drive.store(world.local(b"2"), drive.version())
    assert found(world.drive())["versions"].detail == "2 versions kept"


def test_a_sign_in_that_nears_its_end(world):
    config = world.config(device_code=True)
    login(config, world.session(), lambda message: world.cloud.identity.approve(message.split("code ")[1].rstrip("."), USER))
    world.cloud.clock.sleep(70 * 86400)
    findings = found(GraphDrive(config, "P.xlsx", world.session()))
    assert (findings["sign-in"].ok, findings["sign-in"].exit_code) == (False, 3)
    assert "70 days ago" in findings["sign-in"].detail


def test_nobody_signed_in(world):
    (finding,) = GraphDrive(world.config(device_code=True), "P.xlsx", world.session()).check()
    assert (finding.ok, finding.exit_code, finding.remedy) == (False, 3, "run `connector login`")

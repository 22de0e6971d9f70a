"""The file path: one new version per store, never over somebody's edit, whatever Microsoft answers."""

import json

import pytest

from connector.api import Drive
from connector.errors import ConflictError, LockedError, TargetError, TransientError
from connector.sandbox.microsoft365 import CLIENT_ID
from sinks.drives.graph import GraphDrive

MEGABYTE = 1 << 20


def versions(world, path="Sales/Pipeline.xlsx", drive=None):
    return [version.number for version in (drive or world.files).find(path).versions]


def test_a_graph_drive_is_a_drive(world):
    drive: Drive = world.drive()
    assert isinstance(drive, GraphDrive)
    assert drive.name() == "OneDrive of sales@acme.com: Sales/Pipeline.xlsx"


def test_a_new_file_is_made_with_the_folders_it_needs(world):
    drive = world.drive("A/B ü/C#1/Pipeline 100%.xlsx")
    assert drive.version() is None
    assert drive.fetch(world.folder / "x") is None
    version = drive.store(world.local(b"first"), None)
    assert world.read("A/B ü/C#1/Pipeline 100%.xlsx") == b"first"
    assert version == drive.version() == world.drive("A/B ü/C#1/Pipeline 100%.xlsx").version()


def test_storing_replaces_the_content_of_the_same_item_with_one_new_version(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    drive = world.drive()
    version = drive.fetch(world.folder / "x")
    assert (world.folder / "x").read_bytes() == b"old"
    newer = drive.store(world.local(b"new"), version)
    assert (world.read(), versions(world)) == (b"new", [1, 2])
    assert world.files.find("Sales/Pipeline.xlsx").id == item.id
    assert newer not in (None, version)
    assert newer == drive.version()


def test_a_colleagues_edit_in_between_is_a_conflict_and_stays(world):
    world.put("Sales/Pipeline.xlsx", b"old")
    drive = world.drive()
    version = drive.fetch(world.folder / "x")
    world.put("Sales/Pipeline.xlsx", b"a colleague's work")
    with pytest.raises(ConflictError, match="was changed by somebody in the folder meanwhile") as conflict:
        drive.store(world.local(b"new"), version)
    assert conflict.value.exit_code == 75
    assert (world.read(), versions(world)) == (b"a colleague's work", [1, 2])


def test_an_edit_between_the_last_look_and_the_upload_is_refused_by_the_etag(world):
    world.put("Sales/Pipeline.xlsx", b"old")
    drive = world.drive()
    version = drive.fetch(world.folder / "x")
    put = drive._put

    def raced(item, content, *, single):
        world.put("Sales/Pipeline.xlsx", b"a colleague's work")
        return put(item, content, single=single)

    drive._put = raced
    with pytest.raises(ConflictError):
        drive.store(world.local(b"new"), version)
    assert world.read() == b"a colleague's work"
    assert [entry.status for entry in world.running.asked(r"^PUT .*/content$")] == [412]


def test_a_file_that_appeared_or_vanished_is_a_conflict(world):
    drive = world.drive()
    world.put("Sales/Pipeline.xlsx", b"theirs")
    with pytest.raises(ConflictError, match="exists by now"):
        drive.store(world.local(b"new"), None)
    version = drive.version()
    (world.files.folder / "Sales/Pipeline.xlsx").unlink()
    with pytest.raises(ConflictError, match="deleted"):
        drive.store(world.local(b"new"), version)


def test_two_first_runs_at_once_make_one_file(world):
    slow, fast = world.drive(), world.drive(session=world.session(folder=False))
    make = slow._create
    slow._create = lambda *given: (fast.store(world.local(b"fast", "f"), None), make(*given))[1]
    with pytest.raises(ConflictError, match="already exists"):
        slow.store(world.local(b"slow"), None)
    assert world.read() == b"fast"


def test_a_rename_or_move_by_a_teammate_is_followed_not_duplicated(world):
    drive = world.drive()
    version = drive.store(world.local(b"one"), None)
    item = world.files.find("Sales/Pipeline.xlsx")
    world.files.move(item, world.files.make_folder(world.files.root, "Archive", {}), "Renamed.xlsx")
    later = world.drive()
    assert later.version() == version
    later.store(world.local(b"two"), version)
    assert world.read("Archive/Renamed.xlsx") == b"two"
    assert world.files.find("Sales/Pipeline.xlsx") is None


def test_after_a_delete_the_path_counts_again(world):
    drive = world.drive()
    drive.store(world.local(b"one"), None)
    world.files.delete(world.files.find("Sales/Pipeline.xlsx"))
    assert world.drive().version() is None
    world.put("Sales/Pipeline.xlsx", b"put back")
    assert world.drive().version() is not None


def test_metadata_that_move_by_themselves_are_no_change(world):
    world.put("Sales/Pipeline.xlsx", b"old")
    drive = world.drive()
    version = drive.fetch(world.folder / "x")
    world.files.find("Sales/Pipeline.xlsx").etag_n += 5
    assert drive.version() == version
    find = drive.places.find

    def stale():  # the tag moves between our look and our upload
        item = find()
        world.files.find("Sales/Pipeline.xlsx").etag_n += 1
        return item

    drive.places.find = stale
    drive.store(world.local(b"new"), version)
    assert (world.read(), versions(world)) == (b"new", [1, 2])


def test_refusals_without_a_reason_are_overcome(world):
    world.put("Sales/Pipeline.xlsx", b"old")
    world.files.behaviour.spurious_conflict_every = 2
    world.files.behaviour.drifting_etag = True
    drive, version = world.drive(), None
    version = drive.version()
    for number in range(5):
        version = drive.store(world.local(b"new %d" % number), version)
    assert versions(world) == [1, 2, 3, 4, 5, 6]


def test_endless_refusals_end(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.running.faults.add(r"PUT .*/content", status=409, times=None)
    with pytest.raises(ConflictError, match="keeps refusing"):
        world.drive().store(world.local(b"new"), item.ctag)
    assert world.read() == b"old"


@pytest.mark.parametrize("how", [{"status": 504, "after": True}, {"status": 503, "after": True}, {"drop": True, "after": True}])
def test_a_success_whose_answer_was_lost_is_recognised(world, how):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.running.faults.add(r"PUT .*/content", **how)
    drive = world.drive()
    version = drive.store(world.local(b"new"), item.ctag)
    assert (world.read(), versions(world), version) == (b"new", [1, 2], drive.version())


@pytest.mark.parametrize("how", [{"status": 504, "after": True}, {"drop": True, "after": True}])
def test_a_new_file_whose_answer_was_lost_is_recognised(world, how):
    world.running.faults.add(r"PUT .*/content", **how)
    drive = world.drive()
    assert drive.store(world.local(b"new"), None) == drive.version()
    assert versions(world) == [1]


def test_sharepoints_rewriting_is_the_new_baseline_not_a_change(world, workbook):
    world.cloud.library.behaviour.promotion = True
    world.cloud.library.behaviour.promotion_bumps_ctag = True
    drive = world.library()
    content = workbook()
    version = drive.store(world.local(content), None)
    again = world.library()
    stands = again.fetch(world.folder / "x")
    assert (world.folder / "x").read_bytes() != content  # SharePoint put something in
    newer = again.store(world.local(workbook("more")), stands)
    assert newer == world.library().version()
    assert version is not None
    assert versions(world, drive=world.cloud.library) == [1, 2]


# ── locks and check-out ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [10, 11 * MEGABYTE])
def test_an_open_file_is_locked_and_left_alone(world, size):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.files.open_in_excel(item, "ann@acme.com")
    with pytest.raises(LockedError, match="is open in Excel") as locked:
        world.drive().store(world.local(bytes(size)), item.ctag)
    assert locked.value.exit_code == 75
    assert "on_locked" in locked.value.remedy
    assert (world.read(), versions(world)) == (b"old", [1])
    world.cloud.clock.sleep(31 * 60)  # the lease runs out
    world.drive().store(world.local(b"new"), item.ctag)
    assert world.read() == b"new"


def test_a_copy_beside_an_open_file(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.files.open_in_excel(item, "ann@acme.com")
    drive = world.drive()
    assert drive.store_copy(world.local(b"new"), "(refresh 2026-01-01T0600)") == "Pipeline (refresh 2026-01-01T0600).xlsx"
    assert world.read("Sales/Pipeline (refresh 2026-01-01T0600).xlsx") == b"new"
    drive.store_copy(world.local(b"newer"), "(refresh 2026-01-01T0600)")
    assert world.read("Sales/Pipeline (refresh 2026-01-01T0600).xlsx") == b"newer"
    assert world.read() == b"old"


def test_libraries_that_require_check_out(world):
    world.cloud.library.behaviour.checkout = True
    drive = world.library()
    version = drive.store(world.local(b"one"), None)
    item = world.cloud.library.find("Sales/Pipeline.xlsx")
    assert item.checked_out is None  # or nobody but us would see it
    drive.store(world.local(b"two"), version)
    assert (item.checked_out, item.path.read_bytes()) == (None, b"two")


def test_a_file_checked_out_by_a_teammate_names_them(world):
    item = world.put("Sales/Pipeline.xlsx", b"old", world.cloud.library)
    item.checked_out = {"user": {"id": "1", "displayName": "Ann"}}
    with pytest.raises(LockedError, match="checked out by Ann"):
        world.library().store(world.local(b"new"), item.ctag)
    assert item.checked_out


def test_a_run_killed_before_its_check_in_is_completed_by_the_next(world):
    item = world.put("Sales/Pipeline.xlsx", b"ours", world.cloud.library)
    item.checked_out = {"application": {"id": CLIENT_ID, "displayName": "connector"}}
    assert world.library().fetch(world.folder / "x") == item.ctag
    assert item.checked_out is None


def test_a_check_out_is_given_back_when_the_upload_fails(world):
    world.cloud.library.behaviour.checkout = True
    item = world.put("Sales/Pipeline.xlsx", b"old", world.cloud.library)
    world.running.faults.add(r"PUT .*/content", status=507, skip=1)
    with pytest.raises(TargetError, match="quota"):
        world.library().store(world.local(b"new"), item.ctag)
    assert (item.checked_out, item.path.read_bytes()) == (None, b"old")


# ── large files ───────────────────────────────────────────────────────────────────────────────────


def fragments(world):
    return [entry.headers["content-range"] for entry in world.running.asked("^PUT /_api")]


def test_large_files_go_in_fragments(world):
    drive = world.drive()
    version = drive.store(world.local(bytes(range(256)) * 4096 * 21), None)
    assert fragments(world) == ["bytes 0-10485759/22020096", "bytes 10485760-20971519/22020096", "bytes 20971520-22020095/22020096"]
    newer = drive.store(world.local(b"x" * 11 * MEGABYTE), version)
    assert (len(world.read()), versions(world)) == (11 * MEGABYTE, [1, 2])
    assert drive.fetch(world.folder / "x") == newer


def test_a_broken_upload_continues_where_it_broke_off(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.running.faults.add("PUT /_api", drop=True, skip=1, times=2)
    world.running.faults.add("PUT /_api", status=503, after=True, skip=1)
    world.drive().store(world.local(b"y" * 21 * MEGABYTE), item.ctag)
    assert (world.read(), versions(world)) == (b"y" * 21 * MEGABYTE, [1, 2])


def test_the_next_run_continues_an_upload_that_was_broken_off_for_good(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    content = bytes(range(256)) * 4096 * 21
    outage = world.running.faults.add("/_api", drop=True, skip=1, times=None)
    with pytest.raises(TransientError) as broken:
        world.drive().store(world.local(content), item.ctag)
    assert "tempauth" not in str(broken.value)
    (kept,) = (world.folder / "state").glob("upload-*.json")
    assert kept.stat().st_mode & 0o777 == 0o600
    outage.times = 0
    world.running.requests.clear()
    world.drive().store(world.local(content), item.ctag)
    assert fragments(world)[0].startswith("bytes 10485760-")
    assert (world.read(), list((world.folder / "state").glob("upload-*.json"))) == (content, [])


def test_a_broken_upload_of_other_bytes_is_given_up(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    outage = world.running.faults.add("/_api", drop=True, skip=1, times=None)
    with pytest.raises(TransientError):
        world.drive().store(world.local(b"a" * 21 * MEGABYTE), item.ctag)
    outage.times = 0
    world.drive().store(world.local(b"b" * 21 * MEGABYTE), item.ctag)
    assert world.read() == b"b" * 21 * MEGABYTE
    assert world.running.asked("^DELETE /_api")
    assert world.cloud.uploads.open == {}


def test_a_session_that_is_not_there_yet_or_no_more(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.cloud.uploads.flaky = True
    version = world.drive().store(world.local(b"c" * 11 * MEGABYTE), item.ctag)
    world.cloud.uploads.flaky = False
    world.running.faults.add("PUT /_api", status=404, skip=1)
    world.running.faults.add("GET /_api", status=404)
    world.drive().store(world.local(b"d" * 11 * MEGABYTE), version)
    assert (world.read(), versions(world)) == (b"d" * 11 * MEGABYTE, [1, 2, 3])


def test_an_upload_address_that_has_expired_is_replaced(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.running.faults.add("/_api", status=401, skip=1, times=2)
    world.drive().store(world.local(b"i" * 21 * MEGABYTE), item.ctag)
    assert (world.read(), versions(world)) == (b"i" * 21 * MEGABYTE, [1, 2])
    assert len(world.running.asked("createUploadSession")) == 2


def test_an_edit_during_a_long_upload_is_noticed_before_its_last_fragment(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    drive = world.drive()
    again = drive.places.again
    drive.places.again = lambda known: (world.put("Sales/Pipeline.xlsx", b"a colleague's work"), again(known))[1]
    with pytest.raises(ConflictError, match="during the upload"):
        drive.store(world.local(b"e" * 11 * MEGABYTE), item.ctag)
    assert world.read() == b"a colleague's work"
    assert world.cloud.uploads.open == {}


def test_a_last_fragment_refused_for_nothing_is_sent_in_one_piece(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.running.faults.add("PUT /_api", status=412, skip=1)
    world.drive().store(world.local(b"f" * 11 * MEGABYTE), item.ctag)
    assert (world.read(), versions(world)) == (b"f" * 11 * MEGABYTE, [1, 2])


def test_a_commit_whose_answer_was_lost_is_recognised(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.running.faults.add("PUT /_api", drop=True, after=True, skip=1)
    world.drive().store(world.local(b"g" * 11 * MEGABYTE), item.ctag)
    assert (world.read(), versions(world)) == (b"g" * 11 * MEGABYTE, [1, 2])


def test_personal_drives_get_large_files_in_one_protected_piece(world):
    personal = world.cloud.add_user("me@outlook.com", "Me", "personal")
    item = world.put("Pipeline.xlsx", b"old", personal)
    drive = world.drive("Pipeline.xlsx", drive_id=personal.id)
    drive.store(world.local(b"h" * 11 * MEGABYTE), item.ctag)
    assert versions(world, "Pipeline.xlsx", personal) == [1, 2]
    assert not world.running.asked("createUploadSession")


# ── downloads ─────────────────────────────────────────────────────────────────────────────────────


def test_a_truncated_download_continues(world):
    content = bytes(range(256)) * 12_000
    item = world.put("Sales/Pipeline.xlsx", content)
    world.running.faults.add("download.aspx", truncate=1_200_000)
    assert world.drive().fetch(world.folder / "x") == item.ctag
    assert (world.folder / "x").read_bytes() == content
    assert world.running.asked("download.aspx")[1].headers["range"].startswith("bytes=1")


def test_a_change_between_the_look_and_the_download_is_noticed(world):
    world.put("Sales/Pipeline.xlsx", b"old")
    drive = world.drive()
    find = drive.places.find
    drive.places.find = lambda: (find(), world.put("Sales/Pipeline.xlsx", b"newer"))[0]
    version = drive.fetch(world.folder / "x")
    assert (world.folder / "x").read_bytes() == b"newer"
    assert version == world.files.find("Sales/Pipeline.xlsx").ctag


def test_a_sound_package_with_another_hash_is_used(world, workbook, caplog):
    item = world.put("Sales/Pipeline.xlsx", workbook())
    item.current.hash = "AAAAAAAAAAAAAAAAAAAAAAAAAAA="
    assert world.drive().fetch(world.folder / "x") == item.ctag
    assert "other bytes than its checksum" in caplog.text


def test_a_checksum_that_is_not_there_yet_is_done_without(world):
    item = world.put("Sales/Pipeline.xlsx", b"just uploaded")
    item.current.hash = None
    assert world.drive().fetch(world.folder / "x") == item.ctag
    assert (world.folder / "x").read_bytes() == b"just uploaded"


def test_garbage_with_another_hash_is_not(world):
    item = world.put("Sales/Pipeline.xlsx", b"PK garbage")
    item.current.hash = "AAAAAAAAAAAAAAAAAAAAAAAAAAA="
    with pytest.raises(TransientError, match="keeps changing"):
        world.drive().fetch(world.folder / "x")


def test_encrypted_files_are_named_as_such(world):
    world.put("Sales/Pipeline.xlsx", bytes.fromhex("D0CF11E0A1B11AE1") + bytes(600))
    with pytest.raises(TargetError, match="sensitivity label") as refused:
        world.drive().fetch(world.folder / "x")
    assert refused.value.exit_code == 5


# ── patience ──────────────────────────────────────────────────────────────────────────────────────


def test_the_server_is_given_the_time_it_asks_for(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.running.faults.add(r"PUT .*/content", status=429, headers={"Retry-After": "17"})
    before = world.cloud.clock.now()
    world.drive().store(world.local(b"new"), item.ctag)
    assert (world.cloud.clock.now() - before).total_seconds() >= 17


def test_but_not_more_than_max_wait(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.running.faults.add(r"PUT .*/content", status=429, headers={"Retry-After": "3600"}, times=None)
    with pytest.raises(TransientError, match="patience"):
        world.drive(session=world.session(max_wait=60)).store(world.local(b"new"), item.ctag)


def test_a_full_drive_is_said_at_once(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.files.behaviour.quota = 5
    with pytest.raises(TargetError, match="quota is used up"):
        world.drive().store(world.local(b"new content"), item.ctag)
    assert len(world.running.asked(r"^PUT")) == 1


def test_what_is_remembered_holds_no_secret(world):
    world.drive().store(world.local(b"one"), None)
    (kept,) = (world.folder / "state").glob("drive-*.json")
    assert set(json.loads(kept.read_text())) == {"drive", "item"}

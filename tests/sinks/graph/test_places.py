"""Every way to say where the workbook is, and what happens when it is not there."""

import pytest
from pydantic import ValidationError

from connector.errors import AuthError, ConfigError, TargetError
from connector.sandbox.microsoft365 import CLIENT_ID, USER
from sinks.drives.graph import GraphDrive, OneDriveConfig, SharePointConfig, login
from sinks.drives.graph_names import LONGEST_PATH, names_of


def content_of(world, drive):
    drive.fetch(world.folder / "fetched")
    return (world.folder / "fetched").read_bytes()


def signed_in(world, **config):
    """A person has entered their code; a drive of theirs."""
    world.cloud.identity.users.setdefault(USER, world.cloud.identity.users[USER])
    config = world.config(device_code=True, **config)

    def prompt(message):
        world.cloud.identity.approve(message.split("code ")[1].rstrip("."), USER)

    assert login(config, world.session(), prompt) == USER
    return config


def test_a_persons_drive_by_name_by_id_and_as_oneself(world):
    world.put("Sales/Pipeline.xlsx", b"it")
    user = world.cloud.identity.users[USER]
    assert content_of(world, world.drive(user=USER)) == b"it"
    assert content_of(world, world.drive(user=user.id)) == b"it"
    assert content_of(world, world.drive(drive_id=world.files.id)) == b"it"
    own = signed_in(world)
    assert content_of(world, GraphDrive(own, "Sales/Pipeline.xlsx", world.session())) == b"it"
    assert "scope=https%3A%2F%2Fgraph.microsoft.com%2FFiles.ReadWrite+" in world.running.asked("devicecode")[0].body.decode()


def test_an_item_by_its_id_file_or_folder(world):
    item = world.put("Sales/Pipeline.xlsx", b"it")
    assert content_of(world, world.drive("", drive_id=world.files.id, item_id=item.id)) == b"it"
    assert content_of(world, world.drive("Pipeline.xlsx", drive_id=world.files.id, item_id=item.parent.id)) == b"it"
    assert content_of(world, world.drive("pipeline.XLSX", drive_id=world.files.id, item_id=item.id)) == b"it"
    with pytest.raises(ConfigError, match=r"leads to the file 'Pipeline.xlsx'"):
        world.drive("Other.xlsx", drive_id=world.files.id, item_id=item.id).version()


def test_a_share_link_to_a_file_or_to_a_folder(world):
    item = world.put("Sales/Pipeline.xlsx", b"it")
    world.cloud.graph.shares["https://acme-my.sharepoint.com/:x:/g/personal/ä"] = item
    world.cloud.graph.shares["https://acme-my.sharepoint.com/:f:/g/folder"] = item.parent
    assert content_of(world, world.drive("", share_url="https://acme-my.sharepoint.com/:x:/g/personal/ä?e=4xyz")) == b"it"
    folder = world.drive("New/Other.xlsx", share_url="https://acme-my.sharepoint.com/:f:/g/folder")
    folder.store(world.local(b"other"), None)
    assert world.read("Sales/New/Other.xlsx") == b"other"
    with pytest.raises(TargetError, match="shared link does not exist"):
        world.drive("", share_url="https://acme-my.sharepoint.com/:x:/g/gone").version()


def test_the_apps_own_folder(world):
    world.cloud.app.roles = ("Files.ReadWrite.AppFolder",)
    drive = world.drive("Pipeline.xlsx", user=USER, approot=True)
    drive.store(world.local(b"it"), None)
    assert world.read("Apps/connector/Pipeline.xlsx") == b"it"
    assert world.drive("Pipeline.xlsx", user=USER, approot=True).version() == drive.version()


def test_a_library_by_name_by_address_or_the_default_one(world):
    site = world.cloud.add_site("sites/Ops", "Ops", "Documents", "Weekly Reports")
    world.put("P.xlsx", b"default", site.libraries[0])
    world.put("P.xlsx", b"reports", site.libraries[1])

    def of(library, address="https://acme.sharepoint.com/sites/Ops"):
        return GraphDrive(SharePointConfig(site=address, library=library, **world.common()), "P.xlsx", world.session(folder=False))

    assert content_of(world, of(None)) == b"default"
    assert content_of(world, of("weekly reports")) == b"reports"
    for address in ("acme.sharepoint.com:/sites/Ops", "acme.sharepoint.com/sites/Ops/", site.id):
        assert content_of(world, of("Weekly Reports", address)) == b"reports"
    with pytest.raises(ConfigError, match="did you mean 'Weekly Reports'"):
        of("Weekly Report").version()
    with pytest.raises(TargetError, match="sites/Nowhere does not exist"):
        of(None, "https://acme.sharepoint.com/sites/Nowhere").version()


def test_where_paths_with_colons_do_not_work_folders_are_walked(world):
    for number in range(205):
        world.put(f"Sales/{number:03}.txt", b"")
    drive = world.drive("Sales/Sub/P.xlsx", cloud="china")
    assert drive.version() is None
    version = drive.store(world.local(b"one"), None)
    drive.store(world.local(b"two"), version)
    assert content_of(world, world.drive("Sales/Sub/P.xlsx", cloud="china")) == b"two"
    assert not [entry for entry in world.running.requests if entry.service == "graph" and ":" in entry.path]


def test_what_is_missing_is_named(world):
    with pytest.raises(TargetError, match=r"OneDrive of nobody@acme.com does not exist"):
        world.drive(user="nobody@acme.com").version()
    world.cloud.identity.users["new@acme.com"] = type(world.cloud.identity.users[USER])("new@acme.com", "New")
    with pytest.raises(TargetError, match="does not exist yet") as refused:
        world.drive(user="new@acme.com").version()
    assert "opens OneDrive once" in refused.value.remedy
    world.put("Folder/x.txt", b"")
    with pytest.raises(TargetError, match="is a folder"):
        world.drive("Folder").version()
    with pytest.raises(TargetError, match=r"a file is where the folder 'x.txt' should be"):
        world.drive("Folder/x.txt/P.xlsx").store(world.local(b""), None)
    with pytest.raises(ConfigError, match="no path"):
        world.drive("").version()


@pytest.mark.parametrize(
    "path",
    [
        "a<b.xlsx", "what?.xlsx", 'a"b', "a|b", "a\\b", "a:b", "a*b", "a//b", " a/b", "a /b", "a./b", "~$a.xlsx", "~a", "x_vti_y", "CON",
        "lpt1", ".lock", "desktop.ini", "forms/a.xlsx", "x" * 256, "/".join(["x" * 100] * 5),
    ],
)  # fmt: skip
def test_names_that_would_be_refused_are_refused_before_anything_is_sent(world, path):
    with pytest.raises(ConfigError, match="path"):
        world.drive(path)
    assert world.running.requests == []


@pytest.mark.parametrize("path", ["Forms.xlsx", "a/forms/b.xlsx", "100% #1 'a' (b) ü 名前.xlsx", "x" * 255, ".a", "a..b"])
def test_names_that_are_fine_are_let_through(path):
    assert "/".join(names_of(f"/{path}")) == path
    assert len(path) <= LONGEST_PATH


# ── permissions ───────────────────────────────────────────────────────────────────────────────────


def test_sites_selected_works_with_a_grant_and_not_without(world):
    world.cloud.app.roles = ("Sites.Selected",)
    world.put("P.xlsx", b"old", world.cloud.library)
    with pytest.raises(AuthError, match="may not be accessed") as refused:
        world.library("P.xlsx").version()
    assert "Sites.Selected" in refused.value.remedy
    world.cloud.site.grants[CLIENT_ID] = "read"
    drive = world.library("P.xlsx")
    version = drive.version()
    with pytest.raises(AuthError):
        drive.store(world.local(b"new"), version)
    world.cloud.site.grants[CLIENT_ID] = "write"
    drive.store(world.local(b"new"), version)
    assert world.read("P.xlsx", world.cloud.library) == b"new"


def test_a_grant_on_one_folder_is_enough_for_it(world):
    world.cloud.app.roles = ("Files.SelectedOperations.Selected",)
    item = world.put("Ours/P.xlsx", b"old", world.cloud.library)
    item.parent.grants[CLIENT_ID] = "write"
    drive = world.drive("P.xlsx", drive_id=world.cloud.library.id, item_id=item.parent.id)
    drive.store(world.local(b"new"), drive.version())
    assert world.read("Ours/P.xlsx", world.cloud.library) == b"new"
    other = world.put("Theirs/P.xlsx", b"old", world.cloud.library)
    with pytest.raises(AuthError):
        world.drive("P.xlsx", drive_id=world.cloud.library.id, item_id=other.parent.id).version()


def test_a_permission_granted_since_the_token_was_kept_is_found(world):
    world.put("Sales/Pipeline.xlsx", b"old")
    world.cloud.app.roles = ()
    with pytest.raises(AuthError):
        world.drive().version()
    world.cloud.app.roles = ("Files.ReadWrite.All",)
    assert world.drive().version()  # the kept token lacks it: another one is fetched, once
    assert len(world.running.asked("POST .*/token")) == 2


# ── tokens in use ─────────────────────────────────────────────────────────────────────────────────


def test_a_token_that_expired_on_the_way_is_renewed_once(world):
    world.put("Sales/Pipeline.xlsx", b"old")
    drive = world.drive()
    version = drive.version()
    world.cloud.identity.revoke_access_tokens()
    assert drive.version() == version
    assert [entry.status for entry in world.running.asked("items/")] == [401, 200]


def test_a_token_that_is_refused_again_is_an_error(world):
    world.running.faults.add("GET /v1.0/users", status=401, times=None)
    with pytest.raises(AuthError, match="refused the sign-in"):
        world.drive().version()
    assert len(world.running.asked("/v1.0/users")) == 2


def test_a_claims_challenge_is_answered(world):
    world.put("Sales/Pipeline.xlsx", b"old")
    drive = world.drive()
    drive.version()
    wanted = '{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}'
    world.cloud.graph.challenge = wanted
    assert drive.version()
    assert "1700000000" in world.running.asked("POST .*/token")[-1].form()["claims"]


# ── configuration ─────────────────────────────────────────────────────────────────────────────────

ONE = {"tenant": "t", "client_id": "c", "client_secret": "s", "user": "u"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"client_secret": None}, "exactly one of client_secret, certificate, federated_token, managed_identity, device_code"),
        ({"device_code": True}, "there is: client_secret, device_code"),
        ({"client_secret": " "}, "client_secret is empty"),
        ({"tenant": None}, "client_secret needs tenant and client_id"),
        ({"tenant": "common"}, "is for people"),
        ({"user": None}, "whose drive"),
        ({"drive_id": "d"}, "user and drive_id exclude each other"),
        ({"user": None, "share_url": "https://x", "approot": True}, "approot and share_url exclude each other"),
        ({"item_id": "i"}, "item_id needs drive_id"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_configurations_that_cannot_work_are_refused(change, words):
    given = {name: value for name, value in {**ONE, **change}.items() if value is not None}
    with pytest.raises(ValidationError, match=words):
        OneDriveConfig(**given)


def test_a_managed_identity_needs_nothing_else():
    assert OneDriveConfig(managed_identity=True, user="u").sign_in is not None
    assert "s3cret" not in repr(OneDriveConfig(**{**ONE, "client_secret": "s3cret"}))


@pytest.mark.parametrize(
    ("cloud", "login_host", "graph"),
    [
        ("global", "login.microsoftonline.com", "graph.microsoft.com"),
        ("us", "login.microsoftonline.us", "graph.microsoft.us"),
        ("us-dod", "login.microsoftonline.us", "dod-graph.microsoft.us"),
        ("china", "login.partner.microsoftonline.cn", "microsoftgraph.chinacloudapi.cn"),
    ],
)
def test_each_cloud_has_its_own_hosts(world, cloud, login_host, graph):
    config = OneDriveConfig(**ONE, cloud=cloud)
    sign_in = config.sign_in(world.session(folder=False))
    assert sign_in._authority == f"https://{login_host}/t"
    assert sign_in._scopes == [f"https://{graph}/.default"]
    assert config.graph_root == f"https://{graph}"

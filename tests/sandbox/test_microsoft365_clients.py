"""Clients that nobody here wrote, unmodified, against the sandbox: they believe they talk to Microsoft.

A proxy on loopback stands for the names login.microsoftonline.com and graph.microsoft.com; the sandbox's authority vouches for them.
"""

import json
import os
import shutil
import socket
import subprocess
import threading
from urllib.parse import urlsplit

import pytest
import requests

from connector.sandbox.microsoft365 import CLIENT_ID, CLIENT_SECRET, TENANT, USER, Microsoft365
from connector.sandbox.server import serve

LARGE = bytes(range(256)) * 4096 * 11


class Proxy:
    """CONNECT for two names; everything else is refused."""

    def __init__(self, hosts):
        self.hosts = hosts
        self.refused = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.open = [self.listener]
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.open.append(client)
            threading.Thread(target=self.connect, args=(client,), daemon=True).start()

    def connect(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        wanted = head.split()[1].decode()
        if wanted not in self.hosts:
            self.refused.append(wanted)
            client.sendall(b"HTTP/1.1 502 Not here\r\n\r\n")
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", self.hosts[wanted]))
        self.open.append(server)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=self.pump, args=(client, server), daemon=True).start()
        self.pump(server, client)

    @staticmethod
    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        for opened in self.open:
            opened.close()
        self.thread.join()


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    cloud = Microsoft365(tmp_path / "cloud")
    cloud.graph.tls = cloud.identity.tls
    with serve(*cloud.services(), clock=cloud.clock) as running:
        cloud.running = running
        ports = {name: urlsplit(running.url(name)).port for name in ("identity", "graph")}
        proxy = Proxy({"login.microsoftonline.com:443": ports["identity"], "graph.microsoft.com:443": ports["graph"]})
        for name, value in {
            "HTTPS_PROXY": proxy.url,
            "https_proxy": proxy.url,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "REQUESTS_CA_BUNDLE": str(cloud.authority),
            "CURL_CA_BUNDLE": str(cloud.authority),
        }.items():
            monkeypatch.setenv(name, value)
        yield cloud
        proxy.close()
        assert proxy.refused == []
        assert running.violations == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::SyntaxWarning")
def test_office365_rest_python_client(cloud, tmp_path):
    office = pytest.importorskip("office365.graph_client", reason="Office365-REST-Python-Client is not installed")
    client = office.GraphClient(tenant=TENANT).with_client_secret(CLIENT_ID, CLIENT_SECRET)
    drive = client.users[USER].drive
    drive.get().execute_query()
    assert drive.drive_type == "business"

    folder = drive.root.create_folder("Reports").execute_query()
    small = folder.upload("small.txt", b"one").execute_query()
    assert (small.name, cloud.user_drive.find("Reports/small.txt").path.read_bytes()) == ("small.txt", b"one")
    folder.upload("small.txt", b"two").execute_query()

    source = tmp_path / "large.bin"
    source.write_bytes(LARGE)
    large = folder.resumable_upload(str(source), chunk_size=10 * 327_680).execute_query()
    assert cloud.user_drive.find("Reports/large.bin").path.read_bytes() == LARGE

    names = [item.name for item in drive.root.get_by_path("Reports").children.get().execute_query()]
    assert sorted(names) == ["large.bin", "small.txt"]
    with (tmp_path / "back").open("wb") as file:
        drive.root.get_by_path("Reports/large.bin").download(file).execute_query()
    assert (tmp_path / "back").read_bytes() == LARGE
    versions = drive.root.get_by_path("Reports/small.txt").versions.get().execute_query()
    assert [version.properties["id"] for version in versions] == ["2.0", "1.0"]
    large.delete_object().execute_query()
    assert cloud.user_drive.find("Reports/large.bin") is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_o365(cloud, tmp_path):
    o365 = pytest.importorskip("O365", reason="O365 is not installed")
    from O365.utils.token import MemoryTokenBackend

    account = o365.Account((CLIENT_ID, CLIENT_SECRET), auth_flow_type="credentials", tenant_id=TENANT, token_backend=MemoryTokenBackend())
    assert account.authenticate()
    drive = account.storage(resource=USER).get_default_drive()
    root = drive.get_root_folder()
    folder = root.create_child_folder("Reports")
    source = tmp_path / "small.txt"
    for text in (b"one", b"two"):
        source.write_bytes(text)
        assert folder.upload_file(source).name == "small.txt"
    (tmp_path / "large.bin").write_bytes(LARGE)
    large = folder.upload_file(tmp_path / "large.bin")
    assert cloud.user_drive.find("Reports/large.bin").path.read_bytes() == LARGE
    assert large.hashes["quickXorHash"] == cloud.user_drive.find("Reports/large.bin").current.hash
    assert sorted(item.name for item in drive.get_item_by_path("/Reports").get_items()) == ["large.bin", "small.txt"]
    small = drive.get_item_by_path("/Reports/small.txt")
    assert [version.object_id for version in small.get_versions()] == ["2.0", "1.0"]
    assert large.download(to_path=tmp_path, name="back.bin")
    assert (tmp_path / "back.bin").read_bytes() == LARGE
    assert small.move(root)
    assert cloud.user_drive.find("small.txt").path.read_bytes() == b"two"
    assert large.delete()
    assert cloud.user_drive.find("Reports/large.bin") is None


@pytest.mark.skipif(shutil.which("rclone") is None, reason="rclone is not installed")
def test_rclone_copies_a_folder_both_ways(cloud, tmp_path):
    config = tmp_path / "rclone.conf"
    config.write_text(
        "[one]\ntype = onedrive\n"
        f"client_id = {CLIENT_ID}\nclient_secret = {CLIENT_SECRET}\n"
        f"drive_id = {cloud.user_drive.id}\ndrive_type = business\ntoken = {json.dumps(personal_token(cloud))}\n"
    )
    source = tmp_path / "source"
    files = {"a.txt": b"one", "Ünïcode & #1/b 100%.bin": LARGE, "deep/er/empty.txt": b"", "deep/c.txt": b"c" * 1000}
    for name, content in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)

    def rclone(*arguments):
        done = subprocess.run(
            ["rclone", "--config", config, "--ca-cert", cloud.authority, "--retries", "1", *arguments],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    rclone("copy", str(source), "one:Target")
    assert {name: cloud.user_drive.find(f"Target/{name}").path.read_bytes() for name in files} == files
    rclone("check", str(source), "one:Target")  # by quickXorHash
    rclone("copy", "one:Target", str(tmp_path / "back"))
    assert {
        str(path.relative_to(tmp_path / "back")): path.read_bytes() for path in (tmp_path / "back").rglob("*") if path.is_file()
    } == files
    (source / "a.txt").write_bytes(b"two")
    os.utime(source / "a.txt", (2e9, 2e9))
    rclone("sync", str(source), "one:Target")
    assert cloud.user_drive.find("Target/a.txt").path.read_bytes() == b"two"
    rclone("delete", "one:Target/deep")
    assert cloud.user_drive.find("Target/deep/c.txt") is None
    assert "b 100%.bin" in rclone("lsf", "-R", "one:Target")


def personal_token(cloud):
    """A person has signed in: what an OAuth client keeps. It has expired, so that the client must refresh it."""
    base = cloud.running.url("identity")

    def post(path, **form):
        return requests.post(f"{base}/{TENANT}/oauth2/v2.0/{path}", data={"client_id": CLIENT_ID, **form}, timeout=5).json()

    flow = post("devicecode", scope="https://graph.microsoft.com/Files.ReadWrite.All offline_access")
    cloud.identity.approve(flow["user_code"], USER)
    token = post("token", grant_type="urn:ietf:params:oauth:grant-type:device_code", device_code=flow["device_code"])
    return {**token, "expiry": "2020-01-01T00:00:00Z"}

"""A Microsoft 365 on loopback, and drives that talk to it. Every test ends with a client that behaved."""

import io

import openpyxl
import pytest

from connector.http import Network, Session
from connector.sandbox.microsoft365 import CLIENT_ID, CLIENT_SECRET, TENANT, USER, microsoft365
from sinks.drives.graph import GraphDrive, OneDriveConfig, SharePointConfig


@pytest.fixture
def world(tmp_path):
    """The cloud and its running services; `world.misbehave` lets a test expect violations."""
    with microsoft365(tmp_path / "cloud", strict=True) as (cloud, running):
        yield World(cloud, running, tmp_path)
        assert running.violations == []


class World:
    def __init__(self, cloud, running, folder):
        self.cloud, self.running, self.folder = cloud, running, folder
        self.files = cloud.user_drive

    def session(self, *, folder=True, **network):
        network = Network(ca_bundle=str(self.cloud.authority), **network)
        state = self.folder / "state" if folder else None
        clock = self.cloud.clock
        return Session(network, folder=state, sleep=clock.sleep, now=clock.now, jitter=lambda: 0.0)

    def common(self, **more):
        signed = (
            {} if {"device_code", "certificate", "federated_token", "managed_identity"} & more.keys() else {"client_secret": CLIENT_SECRET}
        )
        return {
            "tenant": TENANT,
            "client_id": CLIENT_ID,
            "base_url": self.running.url("graph"),
            "authority": self.running.url("identity"),
            "ca_bundle": str(self.cloud.authority),
            **signed,
            **more,
        }

    def config(self, **more):
        if not {"user", "drive_id", "share_url", "device_code"} & more.keys():
            more["user"] = USER
        return OneDriveConfig(**self.common(**more))

    def drive(self, path="Sales/Pipeline.xlsx", *, session=None, **more):
        return GraphDrive(self.config(**more), path, session or self.session())

    def library(self, path="Sales/Pipeline.xlsx", *, library="Documents", session=None, **more):
        site = f"https://{self.cloud.site.host}/{self.cloud.site.path}"
        return GraphDrive(SharePointConfig(site=site, library=library, **self.common(**more)), path, session or self.session())

    def put(self, path, content, drive=None):
        """A teammate's file, already there."""
        target = (drive or self.files).folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return (drive or self.files).find(path)

    def local(self, content, name="new.xlsx"):
        file = self.folder / name
        file.write_bytes(content)
        return file

    def read(self, path="Sales/Pipeline.xlsx", drive=None):
        return (drive or self.files).find(path).path.read_bytes()


@pytest.fixture
def workbook():
    """A small real workbook with a text in A1."""

    def make(text="hello"):
        book = openpyxl.Workbook()
        book.active["A1"] = text
        stream = io.BytesIO()
        book.save(stream)
        return stream.getvalue()

    return make

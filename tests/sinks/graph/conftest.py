"""A Microsoft 365 on loopback, and drives that talk to it. Every test ends with a client that behaved.

Where the published OpenAPI subset is at hand, every request the product made must be one it knows.
"""

import functools
import io
import json
import re
from pathlib import Path
from urllib.parse import unquote

import openpyxl
import pytest

from connector.http import Network, Session
from connector.sandbox.microsoft365 import CLIENT_ID, CLIENT_SECRET, TENANT, USER, microsoft365
from sinks.drives.graph import GraphDrive, OneDriveConfig, SharePointConfig

OPENAPI = Path(__file__).parents[4] / "shared" / "contracts" / "graph" / "drive_workbook.openapi.json"
#: documented addresses that the subset leaves out
ALSO = {
    "GET": [
        r"/(me|users/[^/]+)/drive(/special/approot)?",
        r"/sites/[^/:]+(:/[^:]+)?",
        r"/sites/[^/:]+/drives?",
        r"/drives/[^/]+/items/[^/:]+:/[^:]+",
        r"/drives/[^/]+/items/[^/]+/workbook/sessionInfoResource\(key='[^']+'\)",
    ],
}


@functools.cache
def operations():
    """(method, pattern, query parameters, properties of the body) of the OpenAPI subset, if it is there."""
    if not OPENAPI.exists():
        return ()
    found = []
    spec = json.loads(OPENAPI.read_text())
    for path, methods in spec["paths"].items():
        pattern = re.sub(r"\\\{path\\\}", "[^:]+", re.escape(path))
        pattern = re.compile(re.sub(r"\\\{[^}]*\\\}", "[^/]+", pattern))
        for method, operation in methods.items():
            names = {given["name"] for given in operation.get("parameters", ()) if given.get("in") == "query"}
            body = next(iter(operation.get("requestBody", {}).get("content", {}).values()), {}).get("schema", {})
            found.append((method.upper(), pattern, names | {"$select"}, properties(spec, body)))
    return tuple(found)


def properties(spec, schema):
    while "$ref" in schema:
        schema = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    parts = [properties(spec, part) for part in schema.get("allOf", ())]
    return set(schema.get("properties", ())).union(*parts)


def unknown(logged):
    """What is wrong with a request, by the OpenAPI subset; None when nothing is."""
    path = unquote(logged.path).removeprefix("/v1.0")
    if any(re.fullmatch(pattern, path) for pattern in ALSO.get(logged.method, ())):
        return None
    body = json.loads(logged.body) if logged.body.startswith(b"{") and logged.headers.get("content-type") == "application/json" else {}
    reasons = []
    for names, known in matches(
        logged.method, re.sub(r"(drives|items)/[^/:]+|address='[^']*'", lambda found: f"{found[1] or 'address'}/x", path)
    ):
        extra = {name for name in logged.query if name not in names and not name.startswith(("@microsoft.graph.", "$skiptoken"))}
        extra |= {name for name in body if name not in known and not name.startswith("@")}
        if not extra:
            return None
        reasons.append(f"unknown {sorted(extra)}")
    return f"{logged.line}: {'; '.join(reasons) or 'no such operation'}"


@functools.cache
def matches(method, path):
    path = path.replace("address/x", "address='x'")
    return [(names, known) for verb, pattern, names, known in operations() if verb == method and pattern.fullmatch(path)]


@pytest.fixture
def world(tmp_path):
    """The cloud and its running services."""
    with microsoft365(tmp_path / "cloud", strict=True) as (cloud, running):
        yield World(cloud, running, tmp_path)
        assert running.violations == []
        if operations():
            asked = [logged for logged in running.requests if logged.service == "graph"]
            assert [problem for logged in asked if (problem := unknown(logged))] == []


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

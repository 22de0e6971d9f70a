"""Publishing: uploads in chunks, jobs, data sources given back as .tdsx, and updates of the rows in a .hyper."""

from __future__ import annotations

import io
import json
import tempfile
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import Element

import pyarrow as pa
import pyarrow.parquet as pq

from connector.sandbox.server import Handler, Request, Response
from connector.sandbox.tableau.content import Column, Datasource, Kind, Row, Site, Workbook, luid
from connector.sandbox.tableau.wire import E, answer, parts, payload, refused

SINGLE_REQUEST: Final = 64 << 20
EXTRACT: Final = ("Extract", "Extract")
ARROW: Final[Mapping[Kind, pa.DataType]] = {
    "STRING": pa.string(),
    "INTEGER": pa.int64(),
    "REAL": pa.float64(),
    "DATE": pa.date32(),
    "DATETIME": pa.timestamp("us"),
    "BOOLEAN": pa.bool_(),
}
Published = tuple[str, str, Handler, str, frozenset[str]]


@dataclass(slots=True)
class JobPlan:
    """How the next job goes: done after so many polls, with 0 (success), 1 (failure) or 2 (cancelled) and these notes."""

    polls: int = 2
    finish: int = 0
    notes: str | None = None


@dataclass(slots=True)
class Job:
    id: str
    kind: str
    child: str | None
    of: Datasource | Workbook
    created_at: datetime
    plan: JobPlan
    work: Callable[[], None]
    polled: int = 0
    completed_at: datetime | None = None


@dataclass(slots=True)
class Publishing:
    """`plans` are used up by the jobs to come; readers see the old data until a job is done, and always when it fails."""

    site: Site
    plans: list[JobPlan] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    applied: dict[str, str] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def routes(self) -> Iterator[Published]:
        """Method, address below the site, handler, scope, query parameters."""
        modes = frozenset({"datasourceType", "overwrite", "append", "createnew", "replace", "asJob", "uploadSessionId"})
        none: frozenset[str] = frozenset()
        yield "POST", "/fileUploads", self.start_upload, "tableau:file_uploads:create", none
        yield "PUT", r"/fileUploads/(?P<upload>[^/]+)", self.append_upload, "tableau:file_uploads:create", none
        yield "POST", "/datasources", self.publish, "tableau:datasources:create", modes
        yield "GET", r"/datasources/(?P<source>[^/]+)", self.describe, "tableau:content:read", none
        yield "GET", r"/datasources/(?P<source>[^/]+)/content", self.download, "tableau:datasources:download", frozenset({"includeExtract"})
        yield "PATCH", r"/datasources/(?P<source>[^/]+)/data", self.update, "tableau:datasources:update", frozenset({"uploadSessionId"})
        yield "POST", r"/datasources/(?P<source>[^/]+)/refresh", self.refresh, "tableau:tasks:run", none
        yield "POST", r"/workbooks/(?P<workbook>[^/]+)/refresh", self.refresh, "tableau:tasks:run", none
        yield "GET", r"/jobs/(?P<job>[^/]+)", self.poll, "tableau:jobs:read", none

    # ── uploads ───────────────────────────────────────────────────────────────────────────────────

    def start_upload(self, request: Request) -> Response:
        with self._lock:
            name = f"{len(self.uploads) + 1}:{uuid.uuid4().hex}-1:0"
            self.uploads[name] = bytearray()
        return answer(E("fileUpload", {"uploadSessionId": name, "fileSize": 0}), status=201)

    def append_upload(self, request: Request) -> Response:
        with self._lock:
            upload = self.uploads.get(request.args["upload"])
            if upload is None:
                raise refused(404008, "Resource Not Found", "The upload session could not be found.")
            upload += parts(request).get("tableau_file", b"")
            size = len(upload) >> 20
        return answer(E("fileUpload", {"uploadSessionId": request.args["upload"], "fileSize": size}))

    def _uploaded(self, request: Request) -> bytes:
        with self._lock:
            blob = self.uploads.pop(request.query["uploadSessionId"], None)
        if blob is None:
            raise refused(400011, "Bad Request", "The upload session is not valid.")
        return bytes(blob)

    # ── data sources ──────────────────────────────────────────────────────────────────────────────

    def source(self, request: Request) -> Datasource:
        for source in self.site.datasources:
            if source.id == request.args["source"]:
                return source
        raise refused(404004, "Resource Not Found", f"Datasource '{request.args['source']}' could not be found.")

    def element(self, source: Datasource) -> Element:
        attributes = {
            "id": source.id,
            "name": source.name,
            "contentUrl": source.content_url,
            "description": source.description or None,
            "type": "hyper",
            "createdAt": source.created_at,
            "updatedAt": source.updated_at,
            "isCertified": source.certified,
            "hasExtracts": True,
            "encryptExtracts": False,
            "useRemoteQueryAgent": False,
        }
        project = E("project", {"id": source.project.id, "name": source.project.name})
        return E("datasource", attributes, project, E("owner", {"id": self.site.user_id}), E("tags"))

    def describe(self, request: Request) -> Response:
        return answer(self.element(self.source(request)))

    def publish(self, request: Request) -> Response:
        """A new data source, or the whole replacement of one of the same name in the same project, at once or as a job."""
        sent = parts(request)
        wanted = payload(sent.get("request_payload", b"")).find("datasource")
        if wanted is None or not wanted.get("name"):
            raise refused(400000, "Bad Request", "Payload is either malformed or incomplete.")
        home = wanted.find("project")
        project = next((project for project in self.site.projects if home is not None and project.id == home.get("id")), None)
        if project is None:
            raise refused(404005, "Resource Not Found", "The project could not be found.")
        if not project.writable:
            raise refused(403004, "Forbidden", "The user may not publish to this project.")
        blob = self._uploaded(request) if "uploadSessionId" in request.query else sent.get("tableau_datasource", b"")
        if "uploadSessionId" not in request.query and len(blob) > SINGLE_REQUEST:
            raise refused(413000, "Payload Too Large", "Larger files are uploaded in parts.")
        name = wanted.get("name", "")
        known = next((each for each in self.site.datasources if each.name == name and each.project is project), None)
        if known and request.query.get("overwrite") != "true":
            raise refused(403007, "Forbidden", f"A data source named '{name}' exists and may not be overwritten.")
        if not blob.startswith((b"Hyper", b"PK")):
            raise refused(400011, "Bad Request", "There was a problem publishing the file.")
        now = request.running.clock.now()
        source = known or Datasource(name, project, created_at=now)

        def work() -> None:
            self.replace(source, blob, now)
            source.description = wanted.get("description") or source.description
            if known is None:
                self.site.datasources.append(source)

        if request.query.get("asJob") == "true":
            return answer(self._job_element(self._job("PublishDatasource", None, source, work, now)), status=202)
        work()
        return answer(self.element(source), status=201)

    def replace(self, source: Datasource, blob: bytes, now: datetime) -> None:
        """From now on readers get this."""
        with self._lock:
            source.blob = blob
            source.updated_at = now
            source.columns = ()  # read from the blob when somebody asks
            source.rows = lambda: _rows(blob)

    def download(self, request: Request) -> Response:
        source = self.source(request)
        if not source.downloadable:
            raise refused(403004, "Forbidden", "The user does not have permission to download this data source.")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as package:
            package.writestr(f"{source.name}.tds", f"<datasource formatted-name='{luid('tds', source.id)}' version='18.1'/>")
            if request.query.get("includeExtract", "True").lower() == "true":
                blob = source.blob if source.blob is not None else hyper(_table(source))
                package.writestr(f"Data/Extracts/{source.name}.hyper", blob)
        disposition = f'name="tableau_datasource"; filename="{luid("file", source.name)}.tdsx"'
        return Response(200, buffer.getvalue(), {"Content-Type": "application/octet-stream", "Content-Disposition": disposition})

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────────

    def refresh(self, request: Request) -> Response:
        """The job of an extract refresh. It changes nothing: data sources here follow their company by themselves."""
        known: list[Datasource | Workbook] = [*self.site.datasources, *self.site.workbooks]
        wanted = request.args.get("source") or request.args["workbook"]
        of = next((each for each in known if each.id == wanted), None)
        if of is None:
            raise refused(404004 if "source" in request.args else 404006, "Resource Not Found", f"'{wanted}' could not be found.")
        job = self._job("RefreshExtract", "extractRefreshJob", of, lambda: None, request.running.clock.now())
        return answer(self._job_element(job), status=202)

    def update(self, request: Request) -> Response:
        """Insert, upsert, delete or replace rows by an uploaded .hyper; all actions or none, once per request id."""
        source = self.source(request)
        key = request.headers.get("RequestID")
        if not key:
            raise refused(400000, "Bad Request", "The RequestID header is missing.")
        with self._lock:
            if key in self.applied:
                return answer(self._job_element(self.jobs[self.applied[key]]), status=202)
            if source.blob is None:
                raise refused(400000, "Bad Request", "Only a data source published from a .hyper file can be updated.")
            blob = self._uploaded(request) if "uploadSessionId" in request.query else None
            actions = json.loads(request.body)["actions"]
            now = request.running.clock.now()
            job = self._job("UpdateUploadedFile", "updateUploadedFileJob", source, lambda: self._apply(source, actions, blob, now), now)
            self.applied[key] = job.id
        return answer(self._job_element(job), status=202)

    def _apply(self, source: Datasource, actions: Iterable[Mapping[str, Any]], blob: bytes | None, now: datetime) -> None:
        """All actions on a copy of the extract, which then takes its place. Raises ValueError for what does not fit."""
        assert source.blob is not None
        with tempfile.TemporaryDirectory() as folder:
            copy, rows = Path(folder, "extract.hyper"), Path(folder, "rows.parquet")
            copy.write_bytes(unpacked(source.blob))
            for action in actions:
                pq.write_table(read_hyper(blob or b"", (action.get("source-schema", "Extract"), action["source-table"])), rows)
                for sql in statements(action, rows):
                    run_sql(copy, sql)
            self.replace(source, copy.read_bytes(), now)

    def poll(self, request: Request) -> Response:
        with self._lock:
            job = self.jobs.get(request.args["job"])
            if job is None:
                raise refused(404031, "Resource Not Found", "The job could not be found.")
            job.polled += 1
            if job.polled >= job.plan.polls and job.completed_at is None:
                if job.plan.finish == 0:
                    try:
                        job.work()
                    except (KeyError, ValueError) as error:
                        job.plan = JobPlan(finish=1, notes=f"The data could not be changed: {error}")
                job.completed_at = request.running.clock.now()
            return answer(self._job_element(job))

    def _job(self, kind: str, child: str | None, of: Datasource | Workbook, work: Callable[[], None], now: datetime) -> Job:
        with self._lock:
            plan = self.plans.pop(0) if self.plans else JobPlan()
            job = Job(str(uuid.uuid4()), kind, child, of, now, plan, work)
            self.jobs[job.id] = job
        return job

    def _job_element(self, job: Job) -> Element:
        done = job.completed_at is not None
        attributes = {
            "id": job.id,
            "mode": "Asynchronous",
            "type": job.kind,
            "progress": 100 if done else 0,
            "createdAt": job.created_at,
            "startedAt": job.created_at if job.polled else None,
            "completedAt": job.completed_at,
            "finishCode": job.plan.finish if done else 1,  # before the end it says 1 and means nothing
        }
        notes = [E("notes", text=job.plan.notes)] if done and job.plan.notes else []
        if job.child:
            tag = "datasource" if isinstance(job.of, Datasource) else "workbook"
            return E("job", attributes, E(job.child, {}, E(tag, {"id": job.of.id, "name": job.of.name}), *notes))
        said = [E("statusNotes", {}, E("statusNote", {"type": "Error", "text": job.plan.notes}))] if notes else []
        return E("job", attributes, *said)


# ── .hyper ────────────────────────────────────────────────────────────────────────────────────────


def run_sql(file: Path, sql: str) -> pa.Table:
    """Let Hyper run a statement on a file. Needs pantab. Raises ValueError for what Hyper refuses."""
    import pantab  # noqa: PLC0415 — an extra; everything but extracts works without it

    try:
        return pantab.frame_from_hyper_query(file, sql, return_type="pyarrow")
    except RuntimeError as error:
        raise ValueError(str(error).split("\n")[0]) from error


def hyper(table: pa.Table) -> bytes:
    """A .hyper file with the table as Extract.Extract. Decimals go through Parquet: pantab's own writer refuses some."""
    import pantab  # noqa: PLC0415

    through = any(map(pa.types.is_decimal, table.schema.types))
    with tempfile.TemporaryDirectory() as folder:
        file, rows = Path(folder, "extract.hyper"), Path(folder, "rows.parquet")
        pantab.frame_to_hyper(table.schema.empty_table() if through else table, file, table=EXTRACT)
        if through:
            pq.write_table(table, rows)
            run_sql(file, f'insert into "Extract"."Extract" select * from external({_text(rows)})')
        return file.read_bytes()


def unpacked(blob: bytes) -> bytes:
    """The .hyper file itself, also when it was published inside a .tdsx."""
    if not blob.startswith(b"PK"):
        return blob
    with zipfile.ZipFile(io.BytesIO(blob)) as package:
        return package.read(next(name for name in package.namelist() if name.endswith(".hyper")))


def read_hyper(blob: bytes, table: tuple[str, str] = EXTRACT) -> pa.Table:
    """A table of a .hyper file. Needs pantab. Raises ValueError when it is not there."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "extract.hyper")
        file.write_bytes(unpacked(blob))
        return run_sql(file, f"select * from {'.'.join(map(_name, table))}")


def statements(action: Mapping[str, Any], rows: Path) -> Iterator[str]:
    """An action as SQL over the target and the rows that came with it. Raises ValueError for actions the sandbox does not know."""
    target = ".".join(_name(action.get(key, "Extract")) for key in ("target-schema", "target-table"))
    source, kind = f"external({_text(rows)})", action["action"]
    columns = ", ".join(_name(name) for name in pq.read_schema(rows).names)
    if kind not in ("insert", "upsert", "delete", "replace") or (kind in ("upsert", "delete") and "condition" not in action):
        raise ValueError(f"the sandbox knows no action {kind} like this")
    if kind == "replace":
        yield f"delete from {target}"
    elif kind != "insert":
        condition = action["condition"]
        pairs = condition["args"] if condition["op"] == "and" else [condition]
        match = " and ".join(f"s.{_name(pair['source-col'])} = t.{_name(pair['target-col'])}" for pair in pairs)
        yield f"delete from {target} t where exists (select 1 from {source} s where {match})"
    if kind != "delete":
        yield f"insert into {target} ({columns}) select {columns} from {source}"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(file: Path) -> str:
    return "'" + str(file).replace("'", "''") + "'"


def columns_of(blob: bytes) -> tuple[Column, ...]:
    """The fields a published .hyper file has."""
    return tuple(Column(field.name, _kind(field.type), _numeric(field.type)) for field in read_hyper(blob).schema)


def _rows(blob: bytes) -> Iterator[Row]:
    for batch in read_hyper(blob).to_batches():
        yield from batch.to_pylist()


def _table(source: Datasource) -> pa.Table:
    schema = pa.schema([pa.field(column.caption, ARROW[column.kind]) for column in source.columns])
    columns: dict[str, list[Any]] = {column.caption: [] for column in source.columns}
    for row in source.rows():
        for column in source.columns:
            value = row.get(column.key)
            columns[column.caption].append(float(value) if column.kind == "REAL" and value is not None else value)  # type: ignore[arg-type]
    return pa.table(columns, schema=schema)


def _kind(kind: pa.DataType) -> Kind:
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    if pa.types.is_integer(kind):
        return "INTEGER"
    if _numeric(kind):
        return "REAL"
    if pa.types.is_date(kind):
        return "DATE"
    return "DATETIME" if pa.types.is_timestamp(kind) else "STRING"


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))

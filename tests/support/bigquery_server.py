"""BigQuery on this machine: the Storage Read API over real gRPC, and the REST of metadata, queries and loads.

Tables are Arrow tables in memory; a query is known by its text. A session keeps the rows as they are when it
is created, or were at its snapshot, and cuts them into streams, of which each response has a few rows. Faults
can be switched on. Written from Google's documentation; shares no code with the product.
"""

import contextlib
import dataclasses
import datetime
import io
import json
import re
import threading
import time
from collections.abc import Callable
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import grpc
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet
from google.cloud.bigquery_storage_v1 import types

SERVICE = "google.cloud.bigquery.storage.v1.BigQueryRead"
_COMPARE = {">=": compute.greater_equal, ">": compute.greater, "<": compute.less, "=": compute.equal}


@dataclasses.dataclass
class Stored:
    """A table with its earlier contents."""

    versions: list[tuple[float, pa.Table]]
    """(seconds, content), oldest first."""
    kind: str = "TABLE"
    denied: bool = False
    denied_columns: frozenset = frozenset()

    @property
    def rows(self) -> pa.Table:
        return self.versions[-1][1]

    def at(self, moment: float) -> pa.Table:
        return [rows for seconds, rows in self.versions if seconds <= moment][-1]


class BigQuery:
    """The service. `environment` names it to clients."""

    def __init__(self, streams: int = 3, response_rows: int = 7):
        self.tables: dict[str, Stored] = {}
        self.queries: dict[str, tuple[pa.Table, list[str]]] = {}
        self.streams, self.response_rows = streams, response_rows
        self.sessions: list[types.ReadSession] = []
        self.jobs: dict[str, dict] = {}
        self.offsets: list[int] = []
        """Of all ReadRows requests."""
        self.breaks: list[int] = []
        """For each of the next ReadRows requests, after how many responses it breaks."""
        self.broken = grpc.StatusCode.UNAVAILABLE
        self.expired = False
        self.datasets = {"my-shop.events": "EU"}
        """Location of each dataset that outputs can be loaded into."""
        self.read_object: Callable[[str], bytes] | None = None
        """Content of an object by its address."""
        self.refuses: list[tuple[str, str]] = []
        """(reason, message) of each of the next load jobs, which fail."""
        self.loads: list[str] = []
        """Names of all load jobs that were begun."""
        self.lost_answers = 0
        """Of how many of the next load jobs the answer is lost: the client sees 503."""
        self._streams: dict[str, pa.Table] = {}
        self._lock = threading.Lock()
        self._grpc = grpc.server(futures.ThreadPoolExecutor(8))
        calls = {
            "CreateReadSession": grpc.unary_unary_rpc_method_handler(
                self._create, types.CreateReadSessionRequest.deserialize, types.ReadSession.serialize
            ),
            "ReadRows": grpc.unary_stream_rpc_method_handler(
                self._read, types.ReadRowsRequest.deserialize, types.ReadRowsResponse.serialize
            ),
        }
        self._grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, calls),))
        storage_port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        self._rest = ThreadingHTTPServer(("127.0.0.1", 0), _Rest)
        self._rest.service = self
        threading.Thread(target=self._rest.serve_forever, args=(0.05,), daemon=True).start()
        self.environment = {
            "BIGQUERY_EMULATOR_HOST": f"http://127.0.0.1:{self._rest.server_address[1]}",
            "BIGQUERY_STORAGE_EMULATOR_HOST": f"127.0.0.1:{storage_port}",
        }

    def close(self) -> None:
        self._grpc.stop(None)
        self._rest.shutdown()
        self._rest.server_close()

    def store(self, name: str, rows: pa.Table, **facts) -> Stored:
        """Creates a table, or replaces its content."""
        with self._lock:
            versions = self.tables[name].versions if name in self.tables else []
            self.tables[name] = Stored([*versions, (time.time(), rows)], **facts)
        return self.tables[name]

    def _create(self, request: types.CreateReadSessionRequest, context) -> types.ReadSession:
        wanted = request.read_session
        _, project, _, dataset, _, table = wanted.table.split("/")
        stored = self.tables.get(f"{project}.{dataset}.{table}")
        if stored is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Not found: Table {project}:{dataset}.{table}")
        fields = list(wanted.read_options.selected_fields) or stored.rows.column_names
        if stored.denied or stored.denied_columns & set(fields):
            column = next(iter(stored.denied_columns & set(fields)), None)
            what = f"on column {project}.{dataset}.{table}.{column}" if column else "bigquery.tables.getData"
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"Access Denied: User has no permission {what}")
        moment = time.time()
        if "snapshot_time" in wanted.table_modifiers:
            moment = wanted.table_modifiers.snapshot_time.timestamp()
        try:
            rows = _restricted(stored.at(moment), wanted.read_options.row_restriction).select(fields)
        except (KeyError, ValueError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"request failed: {error}")
        parent = f"{request.parent}/locations/us/sessions/s{len(self.sessions)}"
        session = types.ReadSession(wanted)
        session.name = parent
        session.expire_time = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=6)
        session.estimated_row_count = rows.num_rows
        session.arrow_schema.serialized_schema = rows.schema.serialize().to_pybytes()
        step = max(1, -(-rows.num_rows // self.streams))
        for start in range(0, rows.num_rows, step):
            name = f"{parent}/streams/{start}"
            self._streams[name] = rows.slice(start, step)
            session.streams.append(types.ReadStream(name=name))
        self.sessions.append(session)
        return session

    def _read(self, request: types.ReadRowsRequest, context):
        with self._lock:
            self.offsets.append(request.offset)
            left = self.breaks.pop(0) if self.breaks else None
        if self.expired:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, "request failed: session expired at 2026-01-01"
            )
        if request.read_stream not in self._streams:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Not found: stream {request.read_stream}")
        rows = self._streams[request.read_stream]
        schema = rows.schema.serialize().to_pybytes()
        for start in range(request.offset, rows.num_rows, self.response_rows):
            if left == 0:
                break
            left = None if left is None else left - 1
            part = rows.slice(start, self.response_rows).combine_chunks().to_batches()[0]
            answer = types.ReadRowsResponse(row_count=part.num_rows)
            answer.arrow_record_batch.serialized_record_batch = part.serialize().to_pybytes()
            if start == request.offset:
                answer.arrow_schema.serialized_schema = schema
            yield answer
        if left is not None:
            context.abort(self.broken, "the stream broke")


def _restricted(rows: pa.Table, condition: str) -> pa.Table:
    if not condition:
        return rows
    found = re.fullmatch(r"(\w+) (>=|>|<|=) (\d+)", condition)
    if not found:
        raise ValueError(f"row filter {condition!r} is not understood")
    return rows.filter(_COMPARE[found[2]](rows[found[1]], int(found[3])))


_TYPES = [
    (pa.types.is_boolean, "BOOLEAN"), (pa.types.is_integer, "INTEGER"), (pa.types.is_floating, "FLOAT"),
    (pa.types.is_decimal, "NUMERIC"), (pa.types.is_timestamp, "TIMESTAMP"), (pa.types.is_date, "DATE"),
    (pa.types.is_struct, "RECORD"),
]  # fmt: skip


def _field(field: pa.Field) -> dict:
    kind, mode = field.type, "NULLABLE"
    if pa.types.is_list(kind):
        kind, mode = kind.value_type, "REPEATED"
    name = next((name for test, name in _TYPES if test(kind)), "STRING")
    return {"name": field.name, "type": name, "mode": mode}


class _Denied(Exception):
    pass


class _Rest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict | None) -> None:
        parts = unquote(urlsplit(self.path).path).removeprefix("/bigquery/v2/projects/").split("/")
        try:
            found, code = self._found(parts, body), 200
        except KeyError as error:
            found, code = _failure(404, "notFound", f"Not found: Table {error.args[0]}"), 404
        except FileExistsError as error:
            found, code = _failure(409, "duplicate", f"Already Exists: Job {error}"), 409
        except ConnectionError:
            found, code = _failure(503, "backendError", "the answer is lost"), 503
        except _Denied as error:
            found, code = _failure(403, "accessDenied", f"Access Denied: Table {error}"), 403
        except ValueError as error:
            found, code = _failure(400, "invalidQuery", str(error)), 400
        data = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(data)

    def _found(self, parts: list[str], body: dict | None) -> dict:
        service = self.server.service
        match parts:
            case [project, "datasets", dataset, "tables", table]:
                return _table(service, project, dataset, table)
            case [project, "datasets", dataset]:
                return _dataset(service, project, dataset)
            case [project, "jobs"] if "load" in body["configuration"]:
                return _load(service, project, body)
            case [project, "jobs"]:
                return _run(service, project, body)
            case [_, "jobs", job]:
                return service.jobs[job]
            case [_, "queries", job]:
                return _results(service, job)
        raise ValueError(f"{self.path} is not known here")


def _failure(code: int, reason: str, message: str) -> dict:
    return {"error": {"code": code, "message": message, "errors": [{"reason": reason, "message": message}]}}


def _table(service: BigQuery, project: str, dataset: str, table: str) -> dict:
    stored = service.tables[f"{project}.{dataset}.{table}"]
    if stored.denied:
        raise _Denied(f"{project}:{dataset}.{table}: Permission bigquery.tables.get denied")
    return {
        "kind": "bigquery#table", "id": f"{project}:{dataset}.{table}", "type": stored.kind,
        "tableReference": {"projectId": project, "datasetId": dataset, "tableId": table},
        "schema": {"fields": [_field(field) for field in stored.rows.schema]},
        "numRows": str(stored.rows.num_rows), "numBytes": str(stored.rows.nbytes),
        "lastModifiedTime": str(int(stored.versions[-1][0] * 1000)),
    }  # fmt: skip


def _run(service: BigQuery, project: str, body: dict) -> dict:
    query = body["configuration"]["query"]["query"]
    if query not in service.queries:
        raise ValueError(f"Syntax error: {query}\nat [1:1]")
    rows, referenced = service.queries[query]
    job = body.get("jobReference", {}).get("jobId", f"dry{len(service.jobs)}")
    names = ("projectId", "datasetId", "tableId")
    tables = [dict(zip(names, name.split("."), strict=True)) for name in referenced]
    target = dict(zip(names, (project, "_anonymous", f"anon{len(service.jobs)}"), strict=True))
    dry = body["configuration"].get("dryRun", False)
    if not dry:
        service.store(".".join(target.values()), rows)
    service.jobs[job] = {
        "kind": "bigquery#job", "id": f"{project}:US.{job}", "status": {"state": "DONE"},
        "jobReference": {"projectId": project, "jobId": job, "location": "US"},
        "configuration": {
            "jobType": "QUERY", "dryRun": dry, "query": {"query": query, "destinationTable": target},
        },
        "statistics": {"query": {"statementType": "SELECT", "referencedTables": tables}},
    }  # fmt: skip
    return service.jobs[job]


def _dataset(service: BigQuery, project: str, dataset: str) -> dict:
    name = f"{project}.{dataset}"
    if name == "my-shop.secret":
        raise _Denied(f"{project}:{dataset}: Permission bigquery.datasets.get denied")
    reference = {"projectId": project, "datasetId": dataset}
    return {"kind": "bigquery#dataset", "datasetReference": reference, "location": service.datasets[name]}


def _load(service: BigQuery, project: str, body: dict) -> dict:
    """Runs a load job of Parquet files, before it answers; it loads all of them or none."""
    job, load = body["jobReference"]["jobId"], body["configuration"]["load"]
    assert body["jobReference"]["location"] == service.datasets["my-shop.events"]
    if job in service.jobs:
        raise FileExistsError(job)
    service.loads.append(job)
    target = load["destinationTable"]
    status: dict = {"state": "DONE"}
    rows = 0
    if service.refuses:
        reason, message = service.refuses.pop(0)
        status["errorResult"] = {"reason": reason, "message": message}
    else:
        files = [parquet.read_table(io.BytesIO(service.read_object(uri))) for uri in load["sourceUris"]]
        content = pa.concat_tables(files)
        assert load["sourceFormat"] == "PARQUET" and load["parquetOptions"]["enableListInference"]
        name = ".".join(target[part] for part in ("projectId", "datasetId", "tableId"))
        if load["writeDisposition"] != "WRITE_TRUNCATE" and name in service.tables:
            content = pa.concat_tables([service.tables[name].rows, content])
        service.store(name, content)
        rows = content.num_rows
    service.jobs[job] = {
        "kind": "bigquery#job", "id": f"{project}:EU.{job}", "status": status,
        "jobReference": body["jobReference"], "configuration": {"jobType": "LOAD", "load": load},
        "statistics": {"load": {"outputRows": str(rows)}},
    }  # fmt: skip
    if service.lost_answers:
        service.lost_answers -= 1
        raise ConnectionError
    return service.jobs[job]


def _results(service: BigQuery, job: str) -> dict:
    found = service.jobs[job]
    rows, _ = service.queries[found["configuration"]["query"]["query"]]
    return {
        "kind": "bigquery#getQueryResultsResponse", "jobReference": found["jobReference"],
        "jobComplete": True, "totalRows": str(rows.num_rows),
        "schema": {"fields": [_field(field) for field in rows.schema]},
    }  # fmt: skip

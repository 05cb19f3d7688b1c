"""Google Cloud Storage in memory, over real HTTP, for gcsfs and TensorFlow's own gs:// client.

It answers what the two ask: JSON API (list, stat, media, rewrite, move, delete, batch), uploads (media,
multipart, resumable) with ifGenerationMatch, and ranges of media under /bucket/object. Shares no code with
the product. Faults can be switched on: some requests are then answered 503, half of them after they acted,
as a lost answer would look.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
import uuid
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import google_crc32c

BUCKET = "bucket"
# gcsfs deletes in batches only where the address looks like Google's.
PREFIX = "/storage.googleapis.com"


class Failure(Exception):
    """An answer other than success."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class StoredObject(NamedTuple):
    """One version of an object."""

    content: bytes
    generation: int
    updated: str


class Store:
    """The bucket's objects and unfinished uploads; every public method is one atomic operation."""

    def __init__(self):
        self.lock = threading.RLock()
        self.objects: dict[str, StoredObject] = {}
        self.uploads: dict[str, dict] = {}
        self.moved: dict[str, tuple] = {}
        self.generation = 1_700_000_000_000_000
        self.requests: list[str] = []
        self.location = "US-EAST5"
        self.fail_every = 0
        """Every so many requests one is answered 503, the same one thrice in a row at most; 0: none."""
        self.failures: dict[str, int] = {}
        self.gate = None
        """A tests.support.gcs_gate.Gate that holds requests back."""

    def get(self, name: str, query: dict) -> StoredObject:
        found = self.objects.get(name)
        if found is None or query.get("generation", str(found.generation)) != str(found.generation):
            raise Failure(404, f"No such object: {BUCKET}/{name}")
        return found

    def put(self, name: str, content: bytes, query: dict) -> StoredObject:
        self.check(name, query)
        self.generation += 1
        self.objects[name] = StoredObject(bytes(content), self.generation, _now())
        return self.objects[name]

    def delete(self, name: str, query: dict) -> None:
        self.get(name, query)
        self.check(name, query)
        del self.objects[name]

    def check(self, name: str, query: dict) -> None:
        """Raises 412 when the precondition does not hold."""
        if "ifGenerationMatch" in query:
            found = self.objects.get(name)
            if int(query["ifGenerationMatch"]) != (found.generation if found else 0):
                raise Failure(412, "At least one of the pre-conditions you specified did not hold.")

    def fails(self, number: int, request: str) -> bool:
        """Whether the request is to be answered 503; clients give up after six of them."""
        due = self.fail_every > 0 and number % self.fail_every == 0 and self.failures.get(request, 0) < 3
        self.failures[request] = self.failures.get(request, 0) + 1 if due else 0
        return due

    def list(self, query: dict) -> dict:
        """A page of names and of prefixes up to the delimiter."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        limit, token = int(query.get("maxResults", 1000)), query.get("pageToken", "")
        items, prefixes = {}, {}
        for name in sorted(self.objects):
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            key = prefix + head + delimiter if found else name
            if key <= token or key in prefixes:
                continue
            if len(items) + len(prefixes) == limit:
                return _page(items, prefixes) | {"nextPageToken": max([*items, *prefixes])}
            (prefixes if found else items)[key] = name
        return _page(items, prefixes)

    def describe(self, name: str) -> dict:
        found = self.objects[name]
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": BUCKET,
            "generation": str(found.generation),
            "metageneration": "1",
            "size": str(len(found.content)),
            "md5Hash": base64.b64encode(hashlib.md5(found.content).digest()).decode(),
            "crc32c": base64.b64encode(google_crc32c.Checksum(found.content).digest()).decode(),
            "updated": found.updated,
            "timeCreated": found.updated,
            "storageClass": "STANDARD",
            "contentType": "application/octet-stream",
        }


def _page(items: dict, prefixes: dict) -> dict:
    return {"kind": "storage#objects", "items": list(items), "prefixes": sorted(prefixes)}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


class Answer(NamedTuple):
    """Status, body and headers."""

    code: int
    body: bytes = b""
    headers: dict = {}


def _json(document: dict, code: int = 200) -> Answer:
    return Answer(code, json.dumps(document).encode(), {"Content-Type": "application/json"})


class Request(NamedTuple):
    """What the handlers below need of a request."""

    method: str
    path: str
    query: dict
    headers: Message
    body: bytes
    base: str
    """scheme://host that the client used."""


def answer(store: Store, request: Request) -> Answer:
    """Routes one request. Raises Failure."""
    for pattern, handler in _ROUTES:
        if match := re.fullmatch(pattern, request.path):
            parts = [unquote(part) if part is not None else None for part in match.groups()]
            return handler(store, request, *parts)
    raise Failure(404, f"no route for {request.method} {request.path}")


def _bucket(store: Store, request: Request, rest: str | None) -> Answer:
    found = {"kind": "storage#bucket", "name": BUCKET, "id": BUCKET, "location": store.location}
    return _json(found)


def _list(store: Store, request: Request) -> Answer:
    page = store.list(request.query)
    return _json(page | {"items": [store.describe(name) for name in page["items"]]})


def _object(store: Store, request: Request, name: str) -> Answer:
    if request.method == "DELETE":
        store.delete(name, request.query)
        return Answer(204)
    found = store.get(name, request.query)
    return _media(found, request) if request.query.get("alt") == "media" else _json(store.describe(name))


def _xml_object(store: Store, request: Request, name: str) -> Answer:
    return _media(store.get(name, request.query), request)


def _media(found: StoredObject, request: Request) -> Answer:
    size = len(found.content)
    headers = {"X-Goog-Generation": str(found.generation), "Content-Type": "application/octet-stream"}
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range") or "")
    if not match:
        return Answer(200, found.content, headers)
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1 if first and last else size, size)
    if start >= size:
        return Answer(416, b"", {"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Answer(206, found.content[start:stop], headers)


def _copy(store: Store, request: Request, source: str, how: str, _: str | None, target: str) -> Answer:
    token = request.headers.get("X-Goog-GCS-Idempotency-Token")
    if token not in store.moved:
        store.put(target, store.get(source, {}).content, request.query)
        if how == "moveTo" and source != target:
            store.delete(source, {})
    if token:
        store.moved[token] = (source, target)
    resource = store.describe(target)
    if how == "rewriteTo":
        size = {"totalBytesRewritten": resource["size"], "objectSize": resource["size"]}
        return _json({"kind": "storage#rewriteResponse", "done": True, **size, "resource": resource})
    return _json(resource)


def _upload(store: Store, request: Request) -> Answer:
    query = request.query
    if "upload_id" in query:
        return _resume(store, request, query["upload_id"])
    if query["uploadType"] == "resumable":
        name = query.get("name") or json.loads(request.body)["name"]
        number = uuid.uuid4().hex
        store.uploads[number] = {"name": name, "query": query, "content": bytearray(), "done": False}
        address = f"{request.base}/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&upload_id={number}"
        return Answer(200, b"", {"Location": f"{address}&name={quote(name, safe='')}"})
    name, content = query.get("name"), request.body
    if query["uploadType"] == "multipart":
        name, content = _parts(request)
    store.put(name, content, query)
    return _json(store.describe(name))


def _parts(request: Request) -> tuple[str, bytes]:
    """Name and content of a multipart upload."""
    boundary = re.search(r'boundary="?([^";]+)"?', request.headers["Content-Type"]).group(1).encode()
    first = request.body.split(b"--" + boundary, 2)[1]
    # gcsfs separates lines by \n alone, so a \r before the last one is content.
    line = b"\r\n" if first.startswith(b"\r\n") else b"\n"
    metadata = json.loads(first.split(line * 2, 1)[1])
    rest = request.body[request.body.index(first) + len(first) :]
    content = rest.split(line * 2, 1)[1]
    return metadata["name"], content[: content.rindex(line + b"--" + boundary + b"--")]


def _resume(store: Store, request: Request, number: str) -> Answer:
    upload = store.uploads.get(number)
    if upload is None:
        raise Failure(404, "no such upload")
    if request.method == "DELETE":
        del store.uploads[number]
        return Answer(499)
    if upload["done"]:
        return _json(store.describe(upload["name"]))
    content, spans = upload["content"], request.headers.get("Content-Range", f"bytes 0-/{len(request.body)}")
    start, total = re.fullmatch(r"bytes (?:(\d+)-\d*|\*)/(\d+|\*)", spans).groups()
    if start is not None and int(start) <= len(content):
        content += request.body[len(content) - int(start) :]
    if total != "*" and len(content) >= int(total):
        store.put(upload["name"], content, upload["query"])
        upload["done"], upload["content"] = True, b""
        return _json(store.describe(upload["name"]))
    return Answer(308, b"", {"Range": f"bytes=0-{len(content) - 1}"} if content else {})


def _batch(store: Store, request: Request) -> Answer:
    parts = []
    for number, part in enumerate(re.split(rb"\r?\n--[^\n]+\n", b"\n" + request.body)):
        if not (match := re.search(rb"(DELETE|GET) (\S+) HTTP", part)):
            continue
        inner = urlsplit(match.group(2).decode())
        try:
            found = answer(store, request._replace(method="DELETE", path=inner.path, query=_query(inner)))
        except Failure as failure:
            found = _failed(failure)
        head = f"Content-ID: <response-{number}>\r\n\r\nHTTP/1.1 {found.code} X\r\n\r\n".encode()
        parts.append(b"--batch_x\r\nContent-Type: application/http\r\n" + head + found.body + b"\r\n")
    body = b"".join(parts) + b"--batch_x--\r\n"
    return Answer(200, body, {"Content-Type": "multipart/mixed; boundary=batch_x"})


def _failed(failure: Failure) -> Answer:
    message = str(failure)
    error = {"code": failure.code, "message": message, "errors": [{"message": message}]}
    return _json({"error": error}, failure.code)


def _query(url) -> dict:
    return dict(parse_qsl(url.query, keep_blank_values=True))


_ROUTES = [
    (r"/batch.*", _batch),
    (rf"/(?:resumable/)?upload/storage/v1/b/{BUCKET}/o", _upload),
    (rf"/storage/v1/b/{BUCKET}(/iam.*|/storageLayout)?", _bucket),
    (rf"/storage/v1/b/{BUCKET}/o/?", _list),
    (rf"/storage/v1/b/{BUCKET}/o/([^/]+)/(rewriteTo|moveTo)/(b/{BUCKET}/)?o/([^/]+)", _copy),
    (rf"(?:/download)?/storage/v1/b/{BUCKET}/o/([^/]+)", _object),
    (rf"/{BUCKET}/(.+)", _xml_object),
]


class Handler(BaseHTTPRequestHandler):
    """One connection; the server has `store` and `scheme`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, *unused):
        pass

    def handle_any(self):
        url = urlsplit(self.path)
        base = f"{self.server.scheme}://{self.headers['Host']}"
        path = url.path
        if path.startswith(PREFIX):
            path, base = path.removeprefix(PREFIX), base + PREFIX
        request = Request(self.command, path, _query(url), self.headers, self._body(), base)
        store = self.server.store
        with store.lock:
            held = store.gate if store.gate and store.gate.is_due(request) else None
        if held:
            held.wait()
        with store.lock:
            store.requests.append(f"{self.command} {path}")
            number = len(store.requests)
            lost = held and held.lost
            failing = lost or store.fails(number, f"{self.command} {self.path}")
            after = failing and not lost and number // store.fail_every % 2
            try:
                found = Answer(503) if failing and not after else answer(store, request)
            except Failure as failure:
                found = _failed(failure)
        if failing:
            found = _failed(Failure(503, "backendError"))
        self._send(found)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, found: Answer) -> None:
        with contextlib.suppress(ConnectionError):  # the client may have been killed
            self.send_response(found.code)
            for name, value in {"Content-Length": str(len(found.body)), **found.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(found.body)


class Server(ThreadingHTTPServer):
    """Serves a Store on a free port of this machine, from a thread of its own until `close`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, store: Store, context=None):
        """With an ssl.SSLContext, over TLS."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.store, self.scheme = store, "https" if context else "http"
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, request, client_address):
        pass  # killed clients leave torn connections

    def close(self) -> None:
        """Stops it."""
        self.shutdown()
        self.server_close()
        self._thread.join()

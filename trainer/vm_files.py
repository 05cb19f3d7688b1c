"""Files and the log of a job, as the machine that runs it reaches them. Standard library only.

Credentials are tokens of the machine's own account, asked of its metadata server and kept in memory only.
"""

import collections
import http.client
import json
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

CHUNK_BYTES = 256 << 10  # the log's pieces: the last one is replaced as it grows
TRIES = 6
LAST_LINES = 40
_ENDS = ("stopping", "succeeded", "failed", "cancelled")  # events after which no machine is needed
_COUNT = r"[0-9][0-9,]{0,25}"
_NUMBER = r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?(?:e[-+]?[0-9]{1,4})?|nan|inf)"
_PROGRESS = re.compile(
    rf"step ({_COUNT})/({_COUNT})(?: \([0-9]+%\))?(?:\s+loss ({_NUMBER})(?!\S))?(?:\s+({_COUNT}) examples/s)?"
)


def progress(line: str) -> dict:
    """Step, total, loss and examples_per_second of a line of the trainer's log, as far as it has them."""
    match = _PROGRESS.search(line)
    if not match:
        return {}
    step, total, loss, rate = match.groups()
    found = {"step": int(step.replace(",", "")), "total": int(total.replace(",", ""))}
    if loss is not None:
        found["loss"] = float(loss)
    if rate is not None:
        found["examples_per_second"] = float(rate.replace(",", ""))
    return found


def say(text: str) -> None:
    """A line of the log, of which this process's output is a part."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


class Metadata:
    """The machine's metadata server; elsewhere it does not answer, and nothing is known."""

    def __init__(self):
        host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
        self._base = f"http://{host}/computeMetadata/v1/instance"
        self._token, self._expires = None, 0.0

    def get(self, name: str) -> str:
        """A value under instance/. Raises OSError."""
        request = urllib.request.Request(f"{self._base}/{name}", headers={"Metadata-Flavor": "Google"})
        return ask(request, 10).decode()

    def worker(self) -> int:
        """Number of this machine in its slice; 0 where machines are not numbered. Raises OSError."""
        try:
            return int(patiently(lambda: self.get("attributes/agent-worker-number"), "metadata server"))
        except OSError as error:
            # Any other guess could make two machines take themselves for the first.
            if isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code == 404:
                return 0
            raise

    def authorization(self) -> dict:
        """Headers of a request to Google. Raises OSError."""
        if time.monotonic() > self._expires - 60:
            try:
                found = json.loads(self.get("service-accounts/default/token"))
                token, seconds = found["access_token"], float(found["expires_in"])
            except (ValueError, KeyError, TypeError) as error:  # not its text, which may hold a token
                raise OSError(f"the metadata server's token is none ({type(error).__name__})") from None
            self._token, self._expires = token, time.monotonic() + seconds
        return {"Authorization": f"Bearer {self._token}"}


class Directory:
    """The job's files on a disk."""

    def __init__(self, path: str):
        self._path = path

    def get(self, name: str) -> bytes:
        """Content of a file."""
        with open(os.path.join(self._path, name), "rb") as file:
            return file.read()

    def put(self, name: str, content: bytes) -> None:
        """Replaces a file at once."""
        path = os.path.join(self._path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.tmp", "wb") as file:
            file.write(content)
        os.replace(f"{path}.tmp", path)


class Bucket:
    """The job's files in Google Cloud Storage."""

    def __init__(self, path: str, metadata: Metadata):
        bucket, _, prefix = path.removeprefix("gs://").partition("/")
        host = os.environ.get("STORAGE_EMULATOR_HOST", "https://storage.googleapis.com").rstrip("/")
        self._objects = f"{host}/storage/v1/b/{bucket}/o"
        self._uploads = f"{host}/upload/storage/v1/b/{bucket}/o?uploadType=media&name="
        self._prefix, self._metadata = prefix, metadata

    def get(self, name: str) -> bytes:
        """Content of an object."""
        return self._ask("GET", f"{self._objects}/{self._quoted(name)}?alt=media")

    def put(self, name: str, content: bytes) -> None:
        """Replaces an object."""
        self._ask("POST", self._uploads + self._quoted(name), content)

    def _quoted(self, name: str) -> str:
        return urllib.parse.quote(f"{self._prefix}/{name}", safe="")

    def _ask(self, method: str, url: str, content: bytes = None) -> bytes:
        headers = {"Content-Type": "application/octet-stream", **self._metadata.authorization()}
        return ask(urllib.request.Request(url, content, headers, method=method))


class Events:
    """The job's events, read on from number to number: there are no gaps.

    Args:
      files: the job's files.
      attempt: this machine's.
    """

    def __init__(self, files, attempt: int):
        self._files, self._attempt, self._number = files, attempt, 1

    def end(self) -> str:
        """Why this machine is not wanted any more, in words; "" while it is. Raises OSError."""
        while (event := self._read()) is not None:
            if event["type"] in _ENDS:
                return f"the job's record: {event['type']} {event['reason']}".rstrip()
            if event["attempt"] > self._attempt:
                return f"the job's record: attempt {event['attempt']} has begun"
            self._number += 1
        return ""

    def _read(self) -> dict | None:
        try:
            return json.loads(self._files.get(f"events/{self._number:06}.json"))
        except FileNotFoundError:
            return None
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise


def ask(request: urllib.request.Request, seconds: float = 60) -> bytes:
    """Body of the answer to one HTTP request. Raises OSError."""
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.read()
    except http.client.HTTPException as error:  # an answer that was cut off
        raise OSError(f"{type(error).__name__}: {error}") from error


def patiently(action, what: str, tries: int = TRIES):
    """Result of `action`, tried again with pauses of 1, 2, 4 ... seconds. Raises its last OSError."""
    for attempt in range(tries):
        try:
            return action()
        except OSError as error:
            forbidden = isinstance(error, urllib.error.HTTPError) and error.code in (400, 401, 403, 404)
            if forbidden or attempt == tries - 1:
                raise OSError(f"{what}: {error}") from error
            say(f"{what}: {error}; trying again")
            time.sleep(2**attempt)


class Log:
    """Copies the log file's new bytes to the job's files, piece by piece."""

    def __init__(self, path: str, files, prefix: str):
        self._path, self._files, self._prefix = path, files, prefix
        self._shipped = 0
        self._lock = threading.Lock()

    def ship(self) -> None:
        """Copies what is new. Raises OSError; the next call copies it then."""
        with self._lock, open(self._path, "rb") as file:
            size = os.path.getsize(self._path)
            while self._shipped < size:
                number = self._shipped // CHUNK_BYTES
                file.seek(number * CHUNK_BYTES)
                content = file.read(CHUNK_BYTES)
                self._files.put(f"{self._prefix}{number:06}.txt", content)
                self._shipped = number * CHUNK_BYTES + len(content)

    def last_lines(self) -> list:
        """The end of the log."""
        with open(self._path, encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in collections.deque(file, LAST_LINES)]

    def latest_progress(self) -> dict:
        """Of the last line that has any."""
        with open(self._path, "rb") as file:
            file.seek(max(os.path.getsize(self._path) - (16 << 10), 0))
            lines = file.read().decode(errors="replace").splitlines()
        return next((found for found in map(progress, reversed(lines)) if found), {})

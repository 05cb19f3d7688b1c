"""Files of a job, as the machine that runs it reads and writes them. Standard library only.

Credentials are tokens of the machine's own account, which its metadata server issues; they stay in memory.
"""

import contextlib
import http.client
import itertools
import json
import math
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from trainer.vm.log import JobFiles

TRIES = 6
_ENDS = ("stopping", "succeeded", "failed", "cancelled")  # events after which no machine is needed


def say(text: str) -> None:
    """Prints a line for the log. Never raises: a full disk must not keep a machine from ending."""
    with contextlib.suppress(OSError, ValueError):
        print(time.strftime("%H:%M:%S"), text, flush=True)


class Metadata:
    """The metadata server, which answers on Google's machines only."""

    def __init__(self) -> None:
        host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
        self._base = f"http://{host}/computeMetadata/v1/instance"
        self._token, self._expires = "", -math.inf

    def get(self, name: str) -> str:
        """A value under instance/. Raises OSError."""
        request = urllib.request.Request(f"{self._base}/{name}", headers={"Metadata-Flavor": "Google"})
        return ask(request, 10).decode()

    def worker(self) -> int:
        """Number of this machine in its slice; 0 where machines have no number. Raises OSError."""
        try:
            return int(self.get("attributes/agent-worker-number"))
        except urllib.error.HTTPError as error:
            # After any other error two machines could both take themselves for the first.
            if error.code == 404:
                return 0
            raise
        except ValueError as error:
            raise OSError(f"the metadata server's worker number is not a number: {error}") from None

    def forget_token(self) -> None:
        """Makes the next call request a new token, because this one was rejected."""
        self._expires = -math.inf

    def authorization(self) -> dict[str, str]:
        """Headers of a request to Google. Raises OSError."""
        if time.monotonic() > self._expires - 60:
            try:
                found = json.loads(self.get("service-accounts/default/token"))
                token, seconds = found["access_token"], float(found["expires_in"])
            except (ValueError, KeyError, TypeError) as error:  # not its text, which may hold a token
                raise OSError(f"the metadata server's token is invalid ({type(error).__name__})") from None
            self._token, self._expires = token, time.monotonic() + seconds
        return {"Authorization": f"Bearer {self._token}"}


class Directory:
    """The job's files on a disk."""

    def __init__(self, path: str) -> None:
        self._path = path

    def get(self, name: str) -> bytes:
        """Content of a file."""
        with open(os.path.join(self._path, name), "rb") as file:
            return file.read()

    def put(self, name: str, content: bytes) -> None:
        """Replaces a file atomically; it survives a power loss."""
        path = os.path.join(self._path, name)
        directory, temporary = os.path.dirname(path), f"{path}.{os.getpid()}.tmp"
        os.makedirs(directory, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def remove(self, name: str) -> None:
        """Deletes a file."""
        os.unlink(os.path.join(self._path, name))

    def names(self, prefix: str) -> list[str]:
        """Names of files with this prefix."""
        directory = os.path.dirname(prefix)
        try:
            found = os.listdir(os.path.join(self._path, directory))
        except FileNotFoundError:
            return []
        return [name for name in (f"{directory}/{name}" for name in found) if name.startswith(prefix)]


class Bucket:
    """The job's files in Google Cloud Storage."""

    def __init__(self, path: str, metadata: Metadata) -> None:
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

    def remove(self, name: str) -> None:
        """Deletes an object."""
        self._ask("DELETE", f"{self._objects}/{self._quoted(name)}")

    def names(self, prefix: str) -> list[str]:
        """Names of objects with this prefix, up to the 1,000 of one answer."""
        found = json.loads(self._ask("GET", f"{self._objects}?prefix={self._quoted(prefix)}"))
        start = f"{self._prefix}/"
        return [item["name"].removeprefix(start) for item in found.get("items", [])]

    def _quoted(self, name: str) -> str:
        return urllib.parse.quote(f"{self._prefix}/{name}", safe="")

    def _ask(self, method: str, url: str, content: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/octet-stream", **self._metadata.authorization()}
        try:
            return ask(urllib.request.Request(url, content, headers, method=method))
        except urllib.error.HTTPError as error:
            if error.code == 401:
                self._metadata.forget_token()
            raise


class Events:
    """The job's events, read by number: there are no gaps.

    Args:
      files: the job's files.
      attempt: this machine's.
    """

    def __init__(self, files: JobFiles, attempt: int) -> None:
        self._files, self._attempt, self._number = files, attempt, 1

    def end(self) -> str:
        """Why this machine must stop, in words; "" while it need not. Raises OSError."""
        while (event := self._read()) is not None:
            type_, attempt = event.get("type"), event.get("attempt", 0)
            if type_ in _ENDS:
                return f"the job's record: {type_} {event.get('reason', '')}".rstrip()
            if isinstance(attempt, int) and attempt > self._attempt:
                return f"the job's record: attempt {attempt} has begun"
            self._number += 1
        return ""

    def _read(self) -> dict[str, Any] | None:
        """The next event; {} when it is unreadable, None when it does not exist yet."""
        try:
            event = json.loads(self._files.get(f"events/{self._number:06}.json"))
            return event if isinstance(event, dict) else {}
        except (ValueError, RecursionError):
            say(f"event {self._number} is unreadable; skipped")
            return {}
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
            return bytes(answer.read())
    except http.client.HTTPException as error:  # a truncated answer
        raise OSError(f"{type(error).__name__}: {error}") from error


_Result = TypeVar("_Result")


def patiently(action: Callable[[], _Result], what: str, tries: int = TRIES) -> _Result:
    """Result of `action`, retried with pauses of 1, 2, 4 ... seconds. Raises its last OSError."""
    for attempt in itertools.count():
        try:
            return action()
        except OSError as error:
            forbidden = isinstance(error, urllib.error.HTTPError) and error.code in (400, 403, 404)
            if forbidden or attempt >= tries - 1:
                raise OSError(f"{what}: {error}") from error
            say(f"{what}: {error}; retrying")
            time.sleep(2**attempt)
    raise AssertionError("not reached")

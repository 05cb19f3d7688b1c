"""A lease: lets one process at a time use a place in an object store, as long as the process lives.

An object names the holder. It is created, renewed, taken over and deleted only on the condition that its
generation (the store's number of the object's version) is the expected one, so if two processes try at once,
one succeeds. The holder renews it every RENEW_SECONDS. A waiting process watches the generation, using only
its own clock, and takes over when it has not changed for STALE_SECONDS. A holder that was suspended longer
than that finds out in `check`.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from typing import Any, NamedTuple

from absl import logging

from configs.errors import UserError
from configs.system import storage

RENEW_SECONDS = 15.0
STALE_SECONDS = 60.0


class LeaseHeld(Exception):
    """Another process holds the lease or lock; the message names it."""


class _Held(NamedTuple):
    """The object's content and generation."""

    holder: dict[str, Any]
    generation: str

    def __str__(self) -> str:
        return f"host {self.holder.get('host')}, pid {self.holder.get('pid')}"


class Lease:
    """Held from construction until `close`.

    Args:
      path: gs:// address of the object.
      renew_seconds, stale_seconds: must be the same for all users of an object.

    Raises:
      LeaseHeld: the holder is alive.
      OSError: the store cannot be written.
    """

    def __init__(
        self, path: str, *, renew_seconds: float = RENEW_SECONDS, stale_seconds: float = STALE_SECONDS
    ):
        self._path, self._object = path, _Object(path)
        self._renew_seconds, self._stale_seconds = renew_seconds, stale_seconds
        self._identity = {
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _now(),
            "token": uuid.uuid4().hex,
        }
        self._mutex, self._stop = threading.Lock(), threading.Event()
        self._lost: str | None = None
        self._confirmed = _clock()
        try:
            self._generation = self._acquire()
        except (LeaseHeld, OSError):
            raise
        except Exception as error:  # permissions, credentials: each file system has its own errors
            raise OSError(f"{type(error).__name__}: {error}") from None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Confirms that this process still holds the lease; asks the store if the last renewal is old.

        Raises:
          UserError: another process took over, or the store does not answer.
        """
        if not self._lost and _clock() - self._confirmed > self._stale_seconds / 2:
            try:
                self._renew()
            except Exception as error:  # each file system has its own errors
                raise UserError(
                    f"{self._path}: cannot renew this lease ({error}), so another process may take over; "
                    "rerun the same command when the store answers"
                ) from None
        if self._lost:
            raise UserError(
                f"{self._path}: {self._lost} took over because this process did not renew its lease in time; "
                "wait for it to end, then rerun the same command"
            )

    @property
    def lost(self) -> bool:
        """Whether another process is known to have taken over."""
        return self._lost is not None

    def close(self) -> None:
        """Releases the lease; only logs a failure, since a lease that is not renewed expires."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        try:
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # another process has it now
                self._object.delete(self._generation)
        except Exception as error:  # each file system has its own errors
            logging.warning("%s: cannot be deleted and stays until it expires: %s", self._path, error)

    def _acquire(self) -> str:
        watched, since = None, _clock()
        while True:
            held = self._object.read()
            if held and held.holder.get("token") == self._identity["token"]:
                return held.generation  # it was written, only the answer got lost
            now = _clock()
            if held and held.generation != watched and watched is not None:
                raise LeaseHeld(str(held))
            stale = held and watched is not None and now - since >= self._stale_seconds
            if not held or stale or self._is_dead(held.holder):
                with contextlib.suppress(FileExistsError):  # another process was faster: look again
                    self._confirmed = now
                    generation = self._object.write(self._content(), held.generation if held else "0")
                    if held:
                        logging.warning("%s: taken over from %s, which has ended", self._path, held)
                    return generation
                continue
            if watched is None:
                watched, since = held.generation, now
                logging.info("%s: held by %s; waiting to see whether that process is alive", self._path, held)
            time.sleep(min(2.0, self._stale_seconds / 10))

    def _is_dead(self, holder: dict[str, Any]) -> bool:
        """Whether the holder is a process of this machine that has ended."""
        if not self._identity["machine"] or holder.get("machine") != self._identity["machine"]:
            return False
        try:
            os.kill(int(holder["pid"]), 0)
        except ProcessLookupError:
            return True
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return False

    def _keep(self) -> None:
        while not self._stop.wait(self._renew_seconds) and not self._lost:
            try:
                self._renew()
            except Exception as error:  # each file system has its own errors; check() tries again
                logging.warning("%s: cannot renew this lease: %s", self._path, error)

    def _renew(self) -> None:
        """Renews once; records whether another process has taken over."""
        with self._mutex:
            if self._lost:
                return
            asked = _clock()
            try:
                self._generation = self._object.write(self._content(), self._generation)
            except FileExistsError:
                held = self._object.read()
                if not held or held.holder.get("token") != self._identity["token"]:
                    self._lost = str(held) if held else "a process that has ended since"
                    return
                self._generation = held.generation  # it was written, only the answer got lost
            self._confirmed = asked

    def _content(self) -> bytes:
        return json.dumps({**self._identity, "renewed": _now()}).encode()


class _Object:
    """An object of Google Cloud Storage, changed only if its generation is as expected ("0": no object).

    gcsfs supports only the precondition "no object", so this calls the JSON API through gcsfs's session,
    retries and credentials. A failed precondition raises FileExistsError.
    """

    def __init__(self, path: str):
        self._fs, place = storage.filesystem(path)
        self._bucket, _, self._key = place.partition("/")

    def read(self) -> _Held | None:
        while True:
            try:
                found = self._fs.call("GET", "b/{}/o/{}", self._bucket, self._key, json_out=True)
            except FileNotFoundError:
                return None
            with contextlib.suppress(FileNotFoundError):  # it was replaced between the two requests
                _, content = self._fs.call(
                    *("GET", "b/{}/o/{}", self._bucket, self._key),
                    **{"alt": "media", "generation": found["generation"]},
                )
                return _Held(_parse(content), found["generation"])

    def write(self, content: bytes, generation: str) -> str:
        address = self._fs.base.removesuffix("storage/v1/") + "upload/storage/v1/b/{}/o"
        written = self._fs.call(
            *("POST", address, self._bucket),
            **{"uploadType": "media", "name": self._key, "ifGenerationMatch": generation},
            headers={"Content-Type": "application/json"},
            data=content,
            json_out=True,
        )
        return str(written["generation"])

    def delete(self, generation: str) -> None:
        self._fs.call("DELETE", "b/{}/o/{}", self._bucket, self._key, ifGenerationMatch=generation)


def _parse(content: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(content)
    except ValueError:
        holder = None
    return holder if isinstance(holder, dict) else {}


def _machine() -> str | None:
    """An identifier of this machine and process namespace: containers have process numbers of their own."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{socket.gethostname()} {file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _clock() -> float:
    """Seconds of a clock that also runs while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

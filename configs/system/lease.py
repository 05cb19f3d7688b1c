"""One process at a time on a place in an object store: a lease, kept up as long as its process lives.

An object names the holder. It is made, renewed, taken over and deleted only under its generation, the number
that the store gives each version, so of two processes that try the same one succeeds. A holder renews it
every RENEW_SECONDS; who waits watches the generation, by its own clock alone, and takes over when it has
stood still for STALE_SECONDS. A process that was asleep longer than that finds out in `check`.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from typing import NamedTuple

from absl import logging

from configs.errors import UserError
from configs.system import storage

RENEW_SECONDS = 15.0
STALE_SECONDS = 60.0


class LeaseHeld(Exception):
    """Another process holds it; its text says which."""


class _Held(NamedTuple):
    """The object as it was read."""

    holder: dict
    generation: str

    def __str__(self):
        return f"host {self.holder.get('host')}, pid {self.holder.get('pid')}"


class Lease:
    """Held from its making until `close`.

    Args:
      path: gs:// address of the object.
      renew_seconds, stale_seconds: pace; all who use one object must agree on it.

    Raises:
      LeaseHeld: its holder is alive.
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
        except Exception as error:  # rights, credentials: each file system has its own errors
            raise OSError(f"{type(error).__name__}: {error}") from None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Confirms that this process still holds it, asking the store when the last renewal is old.

        Raises:
          UserError: another process took over, or the store cannot be asked.
        """
        if not self._lost and _clock() - self._confirmed > self._stale_seconds / 2:
            try:
                self._renew()
            except Exception as error:  # each file system has its own errors
                raise UserError(
                    f"{self._path}: cannot be renewed, so another process may take over; stopping ({error})"
                ) from None
        if self._lost:
            raise UserError(
                f"{self._path}: {self._lost} took over while this process was not heard of; stopping, "
                "because two must not write the same place"
            )

    @property
    def lost(self) -> bool:
        """Whether another process is known to have taken over."""
        return self._lost is not None

    def close(self) -> None:
        """Gives it back; a failure is logged, since a lease without renewals ends by itself."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        try:
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # then it is not ours any more
                self._object.delete(self._generation)
        except Exception as error:  # each file system has its own errors
            logging.warning("%s is left behind: %s", self._path, error)

    def _acquire(self) -> str:
        watched, since = None, _clock()
        while True:
            held = self._object.read()
            if held and held.holder.get("token") == self._identity["token"]:
                return held.generation  # written, and only the answer was lost
            now = _clock()
            if held and held.generation != watched and watched is not None:
                raise LeaseHeld(str(held))
            stale = held and watched is not None and now - since >= self._stale_seconds
            if not held or stale or self._is_dead(held.holder):
                with contextlib.suppress(FileExistsError):  # another was faster: look again
                    self._confirmed = now
                    generation = self._object.write(self._content(), held.generation if held else "0")
                    if held:
                        logging.warning("%s: taken over from %s, which is gone", self._path, held)
                    return generation
                continue
            if watched is None:
                watched, since = held.generation, now
                logging.info("%s is held by %s; watching whether it is alive", self._path, held)
            time.sleep(min(2.0, self._stale_seconds / 10))

    def _is_dead(self, holder: dict) -> bool:
        """Whether the holder was a process of this machine that has ended."""
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
            except Exception as error:  # each file system has its own errors; check() asks again
                logging.warning("%s: not renewed: %s", self._path, error)

    def _renew(self) -> None:
        """One renewal; notes when another process has taken over."""
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
                self._generation = held.generation  # written, and only the answer was lost
            self._confirmed = asked

    def _content(self) -> bytes:
        return json.dumps({**self._identity, "renewed": _now()}).encode()


class _Object:
    """An object of Google Cloud Storage, changed under its generation ("0": there is none).

    gcsfs itself knows the precondition "there is none" only, so this speaks the JSON API through its session,
    retries and credentials. A failed precondition is FileExistsError.
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
            with contextlib.suppress(FileNotFoundError):  # replaced between the two requests
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
        return written["generation"]

    def delete(self, generation: str) -> None:
        self._fs.call("DELETE", "b/{}/o/{}", self._bucket, self._key, ifGenerationMatch=generation)


def _parse(content: bytes) -> dict:
    try:
        holder = json.loads(content)
    except ValueError:
        holder = None
    return holder if isinstance(holder, dict) else {}


def _machine() -> str | None:
    """What tells this machine's processes from others: a container has process numbers of its own."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{socket.gethostname()} {file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _clock() -> float:
    """Seconds that also pass while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

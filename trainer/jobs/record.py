"""A job's record: a directory with its facts and an append-only list of events, local or in a bucket.

  job.json               what was submitted; never changes
  events/000001.json     one event each; the state of the job is what its events add up to
  config.yaml, *.whl, constraints.txt      what the machine installs and trains
  attempts/001/          what the machine of an attempt wrote: heartbeat.json, log/, final.json
  .lock                  held by the supervisor

An event gets the number after the last one that its writer has read, and is created only if that number is
free. So no event is overwritten or lost, and a writer that decided on an old state learns of it.

An unreadable file counts as absent, an unreadable event as one that changes nothing; both are logged. A torn
file must not keep anyone from ending a job and deleting its slice.
"""

import calendar
import json
import os
import socket
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from absl import logging

from configs.errors import UserError
from configs.system import storage
from trainer.jobs.machine_files import valid_final, valid_heartbeat

FINAL = ("succeeded", "failed", "cancelled")
# `requesting` is written before a slice is requested and `queued` after, so that a supervisor that takes over
# in between looks for it. From `stopping` on the outcome is settled; only the slice remains to be deleted.
TYPES = (
    *("submitted", "requesting", "queued", "provisioning", "ready", "running", "resumed"),
    *("preempted", "refused", "stopping", *FINAL),
)


_NO_TIME = "1970-01-01T00:00:00Z"
# What reading JSON of any content raises.
_TORN = (ValueError, TypeError, KeyError, RecursionError)
_FIELDS = {"type": str, "time": str, "attempt": int, "reason": str}


class UnreadableFacts(UserError):
    """The file of what was submitted is torn."""


class Outdated(Exception):
    """Another process has added an event since the record was read."""


class Event(NamedTuple):
    """One line of a job's history."""

    number: int
    time: str
    """UTC, ISO 8601."""
    type: str
    attempt: int
    """Number of the requested slice, from 1; 0: none was requested yet."""
    reason: str
    """Why, in words; "" without a reason."""
    outcome: str = ""
    """Of `stopping`: the state that the job will end in."""
    exit_code: int | None = None
    """Of the trainer, when it ended by itself."""
    answered: bool = False
    """Of `stopping`: the service has rejected the request of a slice, so none is on its way."""
    unseen: bool = False
    """Of an end: this account may not see whether a slice is left."""
    saved_step: int | None = None
    """Of `preempted`: the newest step that the attempt is known to have saved."""
    by: str = ""
    """Host and process that added it."""

    @property
    def seconds(self) -> float:
        """Time of the event, seconds since 1970."""
        return calendar.timegm(time.strptime(self.time, "%Y-%m-%dT%H:%M:%SZ"))


@dataclass(frozen=True)
class JobState:
    """What events add up to."""

    state: str
    """As the type of the last event; `resumed` is running."""
    attempt: int = 0
    reason: str = ""
    outcome: str = ""
    exit_code: int | None = None
    since: float = 0.0
    """When the job entered this state."""
    by: str = ""
    """Host and process that wrote the last event."""
    idle_attempts: int = 0
    """Attempts in a row, up to the last, that never began to train."""
    vain_attempts: int = 0
    """Attempts in a row, up to the last, that saved no step beyond those saved before."""
    saved_step: int = 0
    """Newest step that ended attempts are known to have saved."""
    mute_attempts: int = 0
    """Attempts in a row whose slice came up and never wrote a heartbeat."""
    unconfirmed: bool = False
    """Whether a slice was requested, and neither seen nor rejected."""
    answered: bool = False
    """As `stopping` had it."""
    unseen: bool = False
    """As the end had it."""
    preemptions: int = 0
    ready_since: float | None = None
    """When the slice of the attempt came up; None while none is."""
    billed_seconds: float = 0.0
    """Time that slices of earlier attempts were up."""
    number: int = 0
    """Of the last event."""

    def up_seconds(self, now: float) -> float:
        """Time that slices were up, to `now` at most."""
        return self.billed_seconds + (max(now - self.ready_since, 0) if self.ready_since else 0.0)


def fold(events: list[Event]) -> JobState:
    """The state after all events, in their order."""
    state = JobState("submitted")
    for event in events:
        state = _after(state, event) if event.type in TYPES else replace(state, number=event.number)
    return state


def _after(state: JobState, event: Event) -> JobState:
    new: dict[str, Any] = {
        "state": event.type,
        "reason": event.reason,
        "since": event.seconds,
        "number": event.number,
    }
    new |= {"attempt": event.attempt, "by": event.by}
    if event.type == "requesting":
        new |= {"idle_attempts": state.idle_attempts + 1, "unconfirmed": True}
        new["vain_attempts"] = state.vain_attempts + 1
    elif event.type == "ready":
        new["ready_since"] = event.seconds
    elif event.type in ("running", "resumed"):
        new |= {"state": "running", "idle_attempts": 0, "mute_attempts": 0}
        new |= {"ready_since": state.ready_since or event.seconds}
    elif event.type == "stopping":
        new |= {"outcome": event.outcome, "exit_code": event.exit_code, "answered": event.answered}
    elif event.type in FINAL:
        new["unseen"] = event.unseen
    answers = ("queued", "provisioning", "ready", "running", "resumed", "preempted", "refused")
    if event.type in answers or event.answered:
        new["unconfirmed"] = False
    if event.type in ("preempted", "refused", *FINAL):
        new |= {"billed_seconds": state.up_seconds(event.seconds), "ready_since": None}
    if event.type == "preempted":
        new["preemptions"] = state.preemptions + 1
        new["mute_attempts"] = state.mute_attempts + (state.state == "ready")
        if (event.saved_step or 0) > state.saved_step:
            new |= {"saved_step": event.saved_step, "vain_attempts": 0}
    return replace(state, **new)


class JobRecord:
    """The record at `path`; each call reads what was added since the last one.

    Raises (all methods):
      OSError: the place cannot be read or written.
    """

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        self.id = self.path.rpartition("/")[2]
        self._events: list[Event] = []
        self._facts: dict[str, Any] | None = None
        self._noted: set[str] = set()  # files that were found torn

    @classmethod
    def create(cls, path: str, facts: dict[str, Any]) -> "JobRecord":
        """Creates the record with its first event. Raises FileExistsError: the job exists already."""
        record = cls(path)
        storage.make_directory(f"{record.path}/events")
        storage.create_bytes(f"{record.path}/job.json", json.dumps(facts, indent=1).encode())
        record.append("submitted")
        return record

    @property
    def facts(self) -> dict[str, Any]:
        """What was submitted. Raises UserError: there is no such job, or its facts are unreadable."""
        if self._facts is None:
            path = f"{self.path}/job.json"
            try:
                facts = json.loads(storage.read_bytes(path))
            except (FileNotFoundError, NotADirectoryError):
                raise UserError(f"{self.path}: no job here; `lazytower jobs list` shows all jobs") from None
            except (ValueError, RecursionError) as error:
                raise UnreadableFacts(f"{path}: unreadable ({error})") from None
            if not isinstance(facts, dict):
                raise UnreadableFacts(f"{path}: unreadable (not a mapping)")
            self._facts = facts
        return self._facts

    def events(self) -> list[Event]:
        """All events up to now."""
        names = storage.names(f"{self.path}/events")
        for name in names:
            number = name.removesuffix(".json")
            if number.isdigit() and int(number) == len(self._events) + 1:
                self._events.append(self._read_event(name, int(number)))
        return list(self._events)

    def known_events(self) -> list[Event]:
        """Those that have been read so far."""
        return list(self._events)

    def _read_event(self, name: str, number: int) -> Event:
        path = f"{self.path}/events/{name}"
        try:
            return _event(json.loads(storage.read_bytes(path)), number)
        except _TORN as error:
            logging.warning("%s: unreadable (%s: %s); skipped", path, type(error).__name__, error)
            return Event(number, _NO_TIME, "unreadable", 0, "")

    def state(self) -> JobState:
        """The state up to now."""
        return fold(self.events())

    def append(self, type_: str, attempt: int = 0, reason: str = "", **fields: Any) -> Event:
        """Adds an event after those that were read last.

        Args:
          type_: one of TYPES.
          attempt: the attempt it is about.
          reason: in words.
          **fields: outcome, exit_code, answered, unseen, saved_step.

        Raises:
          Outdated: another event has its number by now; read and decide again.
        """
        assert type_ in TYPES, type_
        event = Event(
            number=len(self._events) + 1,
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            type=type_,
            attempt=attempt,
            reason=reason,
            by=f"{socket.gethostname()} {os.getpid()}",
            **fields,
        )
        content = json.dumps({**event._asdict(), "token": uuid.uuid4().hex}).encode()
        try:
            storage.create_bytes(f"{self.path}/events/{event.number:06}.json", content)
        except FileExistsError:
            raise Outdated(f"{self.path}: event {event.number} exists already") from None
        self._events.append(event)
        return event

    def is_deleted(self) -> bool:
        """Whether the job's files are gone, not merely out of reach."""
        return not storage.exists(f"{self.path}/job.json")

    def attempt_path(self, attempt: int) -> str:
        """Directory of what an attempt's machine writes."""
        return f"{self.path}/attempts/{attempt:03}"

    def final(self, attempt: int) -> dict[str, Any] | None:
        """What the machine wrote at the end of an attempt, as `valid_final`; None while it has not."""
        return valid_final(self._read(f"{self.attempt_path(attempt)}/final.json"))

    def heartbeat(self, attempt: int) -> dict[str, Any] | None:
        """The machine's last heartbeat in an attempt, as `valid_heartbeat`; None: none yet."""
        return valid_heartbeat(self._read(f"{self.attempt_path(attempt)}/heartbeat.json"))

    def _read(self, path: str) -> Any:
        """A machine's file, any JSON; None when it is missing, or torn, which is logged once."""
        try:
            content = storage.read_bytes(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            if path not in self._noted:
                logging.warning("%s: unreadable (%s); ignored", path, error)
                self._noted.add(path)
            return None


def _event(document: dict[str, Any], number: int) -> Event:
    """An event as written, without fields of other versions. Raises one of _TORN."""
    for name, kind in _FIELDS.items():
        if not isinstance(document[name], kind):
            raise TypeError(f"{name} is {document[name]!r}")
    event = Event(**{name: document[name] for name in Event._fields if name in document})
    event.seconds  # noqa: B018 - raises when it is not a time
    saved = event.saved_step if isinstance(event.saved_step, int) else None
    return event._replace(number=number, saved_step=saved)


def find_jobs(staging: str) -> list[JobRecord]:
    """Records of all jobs in a staging directory, oldest first by name."""
    paths = (storage.join(staging, name) for name in storage.names(staging))
    return [JobRecord(path) for path in paths if storage.exists(f"{path}/job.json")]

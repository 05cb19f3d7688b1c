"""Durations by the clock of the watching process, since clocks of other hosts may be hours off."""

import socket
import time
from collections.abc import Hashable
from typing import Any

from trainer.jobs.record import JobState


class Stopwatch:
    """How long a value has stayed the same, as far as this process has watched."""

    def __init__(self) -> None:
        self._value: Hashable = None
        self._since = time.monotonic()

    def seconds(self, value: Hashable) -> float:
        """Since the value last changed; 0 when it differs from that of the last call."""
        if value != self._value:
            self._value, self._since = value, time.monotonic()
        return time.monotonic() - self._since


class Watch:
    """The durations that decisions about one job rest on."""

    def __init__(self) -> None:
        self._state, self._sign, self._up = Stopwatch(), Stopwatch(), Stopwatch()

    def state_seconds(self, job: JobState) -> float:
        """Since the job entered its state, at least; exact when this host recorded it."""
        watched = self._state.seconds(job.number)
        return max(watched, _since_noted_here(job, job.since))

    def silent_seconds(self, sign: Hashable) -> float:
        """Since the machine's last heartbeat; `sign` differs from one heartbeat to the next."""
        return self._sign.seconds(sign)

    def up_seconds(self, job: JobState, beat: dict[str, Any] | None) -> float:
        """Since the attempt's slice came up, at least; also by the machine's own clock."""
        watched = self._up.seconds((job.attempt, job.ready_since))
        if job.ready_since is None:
            return 0.0
        return max(watched, float(beat["up_seconds"]) if beat else 0.0)


def _since_noted_here(job: JobState, noted: float) -> float:
    """By the time of an event, if this host's clock gave it; else 0."""
    host = job.by.rpartition(" ")[0]
    return time.time() - noted if host == socket.gethostname() else 0.0

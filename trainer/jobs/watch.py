"""How long things last, by the clock of the process that watches: clocks of other hosts may be hours off."""

import socket
import time

from trainer.jobs.record import JobState


class Stopwatch:
    """How long a value has stayed the same, as far as this process has watched."""

    def __init__(self):
        self._value, self._since = None, time.monotonic()

    def seconds(self, value) -> float:
        """Since the value last changed; 0 when it is another than at the last call."""
        if value != self._value:
            self._value, self._since = value, time.monotonic()
        return time.monotonic() - self._since


class Watch:
    """The durations that decisions about one job rest on."""

    def __init__(self):
        self._state, self._sign, self._up = Stopwatch(), Stopwatch(), Stopwatch()

    def state_seconds(self, job: JobState) -> float:
        """Since the job came into its state, at least; all of it when this host wrote that down."""
        watched = self._state.seconds(job.number)
        return max(watched, _since_noted_here(job, job.since))

    def silent_seconds(self, sign: tuple) -> float:
        """Since the machine's last sign of life; `sign` differs whenever there was one."""
        return self._sign.seconds(sign)

    def up_seconds(self, job: JobState, beat: dict | None) -> float:
        """Since the attempt's slice came up, at least, with what its machine says of its own clock."""
        watched = self._up.seconds((job.attempt, job.ready_since))
        if job.ready_since is None:
            return 0.0
        return max(watched, beat["up_seconds"] if beat else 0.0)


def _since_noted_here(job: JobState, noted: float) -> float:
    """By the time of an event, which counts only when it was taken from the clock of this host."""
    host = job.by.rpartition(" ")[0]
    return time.time() - noted if host == socket.gethostname() else 0.0

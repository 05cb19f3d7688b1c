"""Brings a job to its end: asks for slices, watches them, queues again what was taken away, and deletes all.

What to do next is decided by `next_action`, from what is recorded and what is seen and nothing else, so a
supervisor may be killed at any point and followed by another. What it decides is recorded before it is done.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from absl import logging

from configs.lease import LeaseHeld
from configs.load import load_config
from trainer.job_record import FINAL, JobRecord, JobState, Outdated
from trainer.launchers import LAUNCHERS
from trainer.launchers.base import Launcher, LaunchError, Refused, SliceState, Unreachable
from trainer.launchers.tpu_api import CALL_SECONDS
from trainer.run_lock import Lock, lock_directory
from trainer.vm import DEADLINE_GRACE_SECONDS

# Errors of object stores that pass, by the module they are from; gcsfs has no errors of Python's own.
_STORE_ERRORS = ("gcsfs", "aiohttp", "google.auth")
_MUTE_ATTEMPTS = 3  # more would only cost: what the machines cannot start, they never will
# For the machine to save and stop by itself when launch.max_seconds is over.
_END_SECONDS = DEADLINE_GRACE_SECONDS + 120.0
# For a request that was on its way when its sender was killed to arrive, be it at the last try of its call.
_SETTLE_SECONDS = CALL_SECONDS + 30.0
_TAKE_BACK_PAUSES = (1.0, 5.0, 15.0, 30.0)  # between tries to delete what was asked for too late


@dataclass(frozen=True)
class Observed:
    """All that a decision rests on."""

    job: JobState
    slice: SliceState
    """Of the job's attempt; absent when there was none."""
    final: dict | None
    """What the attempt's machine wrote at its end; read after the slice, which the machine deletes itself."""
    beating: bool
    """Whether the attempt's machine has ever given a sign of life."""
    silent_seconds: float
    """Since its last sign of life, or since the slice came up; as long as this supervisor has watched."""
    now: float
    """Seconds since 1970, as events' times."""


class Action(NamedTuple):
    """What to do next: record, create, delete, wait or done."""

    kind: str
    event: str = ""
    """To record, with its reason and, for `stopping`, outcome and exit code."""
    reason: str = ""
    outcome: str = ""
    exit_code: int | None = None
    attempt: int | None = None
    """None: the present one."""


_WAIT, _DELETE = Action("wait"), Action("delete")


def next_action(seen: Observed, launch) -> Action:
    """The next step of a job.

    Args:
      seen: the record and the world.
      launch: the config's launch section, for its limits.
    """
    job = seen.job
    gone = seen.slice.kind == "absent"
    if job.state in FINAL:
        return Action("done") if gone else _deletion(seen)
    if job.state == "stopping":
        if not gone:
            return _deletion(seen)
        if job.unconfirmed and seen.now < job.since + _SETTLE_SECONDS:
            return _WAIT
        return Action("record", job.outcome, job.reason)
    if job.state in ("preempted", "refused"):
        return _again(seen, launch) if gone else _deletion(seen)
    if job.state == "submitted":
        return Action("record", "requesting", attempt=1)
    if seen.final is not None:
        final = seen.final
        return _stop(final["state"], final["reason"], final["exit_code"])
    return _while_alive(seen, launch)


def _deletion(seen: Observed) -> Action:
    return _WAIT if seen.slice.kind == "deleting" else _DELETE


def _stop(outcome: str, reason: str, exit_code: int | None = None) -> Action:
    return Action("record", "stopping", reason, outcome, exit_code)


def _again(seen: Observed, launch) -> Action:
    """After a preemption or refusal whose slice is deleted."""
    job = seen.job
    if job.attempt > launch.retries:
        return _stop("failed", f"given up after {job.attempt} attempts (launch.retries): {job.reason}")
    if job.mute_attempts >= _MUTE_ATTEMPTS:
        return _stop("failed", f"{job.mute_attempts} slices in a row came up and said nothing: {job.reason}")
    doublings = min(max(job.idle_attempts - 1, 0), 20)
    pause = min(launch.backoff_seconds * 2**doublings, launch.max_backoff_seconds)
    if seen.now < job.since + pause:
        return _WAIT
    return Action("record", "requesting", attempt=job.attempt + 1)


def _while_alive(seen: Observed, launch) -> Action:
    """From the request of a slice to its end, whatever that will be."""
    job, kind = seen.job, seen.slice.kind
    if kind == "absent":
        if job.state == "requesting" and not seen.beating:
            return Action("create")
        return Action("record", "preempted", seen.slice.reason or "the slice is gone")
    if kind == "lost":
        return Action("record", "preempted", seen.slice.reason)
    if kind == "refused":
        return Action("record", "refused", seen.slice.reason)
    if kind == "failed":
        return _stop("failed", seen.slice.reason)
    if job.state == "requesting":
        return Action("record", "queued")
    if kind == "provisioning" and job.state == "queued":
        return Action("record", "provisioning")
    # Also a slice that was up and is, say, being repaired: the limits go on counting.
    was_up = job.ready_since is not None and job.state in ("ready", "running")
    return _while_up(seen, launch) if kind == "ready" or was_up else _WAIT


def _while_up(seen: Observed, launch) -> Action:
    job = seen.job
    if job.state in ("queued", "provisioning"):
        return Action("record", "ready")
    if job.state == "ready" and seen.beating:
        return Action("record", "resumed" if job.attempt > 1 else "running")
    if seen.silent_seconds > launch.heartbeat_timeout_seconds:
        return Action("record", "preempted", f"up, but silent for {seen.silent_seconds:.0f} s: hung")
    if job.ready_since and seen.now > job.ready_since + launch.max_seconds + _END_SECONDS:
        return _stop("failed", f"not done after launch.max_seconds {launch.max_seconds:g}")
    return _WAIT


class _Watch:
    """Since when the machine of an attempt has been silent, by this process's clock alone."""

    def __init__(self):
        self._last, self._since = None, time.monotonic()

    def silent_seconds(self, sign: tuple) -> float:
        """`sign` differs whenever there was a sign of life."""
        if sign != self._last:
            self._last, self._since = sign, time.monotonic()
        return time.monotonic() - self._since


def open_job(path: str) -> tuple[JobRecord, object, Launcher]:
    """(record, config, launcher) of a job. Raises UserError: there is none."""
    record = JobRecord(path)
    facts = record.facts
    config = load_config(f"{record.path}/config.yaml")
    return record, config, LAUNCHERS[config.launch.kind](config, record.path, facts)


def supervise(path: str, steps: int | None = None, tick: Callable[[], None] = lambda: None) -> JobState:
    """Brings a job to its end, and returns how that was.

    Args:
      path: the job's directory.
      steps: stop after so many decisions, or at the first wait; None: at the end.
      tick: called after every decision.

    Raises:
      LeaseHeld: another supervisor is at work.
      UserError: there is no such job.
    """
    record, config, launcher = open_job(path)
    lock = lock_directory(record.path)
    try:
        return _run(record, config.launch, launcher, lock, steps, tick)
    finally:
        lock.close()


def _run(record, launch, launcher, lock, steps, tick) -> JobState:
    watch, done = _Watch(), 0
    while True:
        try:
            lock.check()
            seen = observe(record, launcher, watch)
            action = next_action(seen, launch)
            if action.kind == "done":
                return seen.job
            pause = _act(action, seen.job, record, launcher, lock)
        except Outdated as error:
            logging.info("%s; looking again", error)
            continue
        except LaunchError as error:
            if (job := _unseen_end(record, error)) is not None:
                return job
            action, pause = _patience(error), True
        except Exception as error:
            if not is_passing(error):
                raise
            action, pause = _patience(error), True
        tick()
        done += 1
        if steps is not None and (done >= steps or action.kind == "wait"):
            return record.state()
        if pause:
            time.sleep(launch.poll_seconds)


def _unseen_end(record: JobRecord, error: LaunchError) -> JobState | None:
    """The end of a job whose request was answered with no, and whose slice may not even be looked for."""
    job = record.state()
    if job.state == "stopping" and job.answered:
        logging.warning("attempt %d: whether a slice is left cannot be seen: %s", job.attempt, error)
        with contextlib.suppress(Outdated):
            record.append(job.outcome, job.attempt, job.reason, unseen=True)
        job = record.state()
    return job if job.state in FINAL and job.unseen else None


def is_passing(error: Exception) -> bool:
    """Whether an error is of the network or a service, so that waiting may help."""
    return isinstance(error, Unreachable | OSError) or type(error).__module__.startswith(_STORE_ERRORS)


def _patience(error: Exception) -> Action:
    logging.warning("%s: %s; trying again", type(error).__name__, " ".join(str(error).split()))
    return _WAIT


def observe(record: JobRecord, launcher: Launcher, watch: _Watch) -> Observed:
    """Looks at the record, the slice and the machine's files, in the order that a decision needs."""
    job = record.state()
    if not job.attempt:
        return Observed(job, SliceState("absent"), None, False, 0.0, time.time())
    state = launcher.observe(job.attempt)
    # After the slice: the machine writes its outcome before it deletes the slice.
    final, beat = record.final(job.attempt), record.heartbeat(job.attempt)
    up = state.kind == "ready" or job.ready_since is not None  # going down and up again is no sign of life
    sign = (job.attempt, up, beat and (beat["boot"], beat["count"]))
    return Observed(job, state, final, beat is not None, watch.silent_seconds(sign), time.time())


def _act(action: Action, job: JobState, record: JobRecord, launcher: Launcher, lock: Lock) -> bool:
    """Whether what was done shows only after a while."""
    attempt = job.attempt if action.attempt is None else action.attempt
    if action.kind == "delete":
        logging.info("deleting the slice of attempt %d", attempt)
        launcher.delete(attempt)
    elif action.kind == "create":
        return _create(record, launcher, lock, attempt)
    elif action.kind == "record":
        fields = {"outcome": action.outcome, "exit_code": action.exit_code}
        record.append(action.event, attempt, action.reason, **fields)
        logging.info("attempt %d: %s", attempt, f"{action.event} {action.reason}".rstrip())
    return action.kind != "record"


def _create(record: JobRecord, launcher: Launcher, lock: Lock, attempt: int) -> bool:
    """Whether the request was accepted."""
    lock.check()  # again: this process may have slept since it looked
    try:
        launcher.create(attempt)
        return True
    except Refused as refusal:
        record.append("refused", attempt, str(refusal))
        logging.warning("attempt %d: %s", attempt, refusal)
    except LaunchError as error:
        # An earlier try of the call may have made a slice: it is looked for before the job is called failed.
        record.append("stopping", attempt, str(error), outcome="failed", answered=True)
        logging.error("%s", error)
    finally:
        _take_back(record, launcher, attempt)
    return False


def _take_back(record: JobRecord, launcher: Launcher, attempt: int) -> None:
    """Deletes the slice that was just asked for when the job has ended or gone on without it meanwhile.

    Who ended it may have looked before the request arrived. The lease does not matter: if it is lost, nobody
    else looks for this slice any more.
    """
    for pause in (*_TAKE_BACK_PAUSES, None):
        try:
            job = record.state()
            if job.attempt == attempt and job.state not in ("stopping", *FINAL):
                return
            logging.warning("attempt %d was asked for too late: the job is %s; deleting", attempt, job.state)
            return launcher.delete(attempt)
        except Exception as error:
            if pause is None or not is_passing(error):
                raise
            _patience(error)
            time.sleep(pause)


def cancel(path: str) -> JobState:
    """Ends a job: nothing is queued again, its slice is deleted. Waits until that is so.

    Raises:
      UserError: there is no such job.
    """
    record, config, _ = open_job(path)
    while (job := record.state()).state not in (*FINAL, "stopping"):
        try:
            record.append("stopping", job.attempt, "cancelled by the user", outcome="cancelled")
        except Outdated:
            continue
    while True:
        try:
            return supervise(path)
        except LeaseHeld:  # its supervisor does it
            if (job := record.state()).state in FINAL:
                return job
            time.sleep(min(config.launch.poll_seconds, 2.0))

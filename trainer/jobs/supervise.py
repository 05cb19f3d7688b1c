"""Brings a job to its end: requests slices, watches them, queues the job again, and deletes all slices.

trainer.jobs.decisions decides on each step from the record and what is observed, and nothing else, so a
supervisor may be killed at any point and replaced by another. Each decision is recorded before it is carried
out.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from absl import logging

from configs.errors import UserError
from configs.sections.launch import CommonLaunchConfig
from trainer.jobs.config import JobConfig, JobMachines
from trainer.jobs.decisions import WAIT, Action, Observed, next_action
from trainer.jobs.record import FINAL, JobRecord, JobState, Outdated
from trainer.jobs.watch import Watch
from trainer.launchers.base import LaunchError, Refused, SliceState, Unreachable
from trainer.run_lock import Lock, lock_directory

# Transient errors of object stores, by their modules: gcsfs raises few of Python's own exceptions.
_STORE_ERRORS = (
    *("gcsfs", "aiohttp", "asyncio", "fsspec", "google.auth", "google.api_core", "requests", "urllib3"),
)
# Errors of a disk that waiting does not change.
_LASTING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
_PAUSES = (1.0, 5.0, 15.0, 30.0)  # between retries
# `cancel` retries transient errors for so many seconds, and those that only the user can fix so many times.
_CANCEL_SECONDS, _CANCEL_DENIALS = 900.0, 3
_CANCEL_POLL_SECONDS = 2.0


_Result = TypeVar("_Result")


def open_job(path: str) -> tuple[JobRecord, JobConfig, JobMachines]:
    """(record, config, machines) of a job. Raises UserError: there is no such job."""
    record = JobRecord(path)
    config = JobConfig(record)
    return record, config, JobMachines(record, config)


def supervise(path: str, steps: int | None = None, tick: Callable[[], None] = lambda: None) -> JobState:
    """Brings a job to its end, and returns its last state.

    Args:
      path: the job's directory.
      steps: stop after so many decisions, or at the first wait; None: at the end.
      tick: called after every decision.

    Raises:
      LeaseHeld: another supervisor is running.
      UserError: there is no such job, or its directory was deleted meanwhile; its slice is gone then.
      SliceMayStay: the directory was deleted, and it is unknown whether the slice is gone.
    """
    # Without a limit of steps nothing is gained by giving up.
    pauses = _PAUSES if steps is not None else itertools.chain(_PAUSES, itertools.repeat(60.0))
    record, config, launcher = _patiently(lambda: open_job(path), pauses)
    lock = _patiently(lambda: lock_directory(record.path), pauses)
    try:
        return _run(record, config.launch, launcher, lock, steps, tick)
    finally:
        lock.close()


def _patiently(action: Callable[[], _Result], pauses: Iterable[float] = _PAUSES) -> _Result:
    """Result of `action`, retried after each pause while its error is transient."""
    for pause in pauses:
        try:
            return action()
        except Exception as error:
            if not is_passing(error) or isinstance(error, _LASTING):
                raise
            _warn(error)
            time.sleep(pause)
    return action()


def _run(
    record: JobRecord,
    launch: CommonLaunchConfig,
    launcher: JobMachines,
    lock: Lock,
    steps: int | None,
    tick: Callable[[], None],
) -> JobState:
    watch, done = Watch(), 0
    while True:
        try:
            if record.is_deleted():
                break
            _check(lock)
            action, job, pause = _turn(record, launch, launcher, lock, watch)
        except Exception as error:
            if not (isinstance(error, LaunchError) or is_passing(error)):
                raise
            _warn(error)
            action, pause = WAIT, True
        if action is None:
            continue
        if action.kind == "done":
            return job
        tick()
        done += 1
        if steps is not None and (done >= steps or action.kind == "wait"):
            return record.state()
        if pause:
            time.sleep(launch.poll_seconds)
    raise _abandoned(record, launcher, launch.poll_seconds)


def _abandoned(record: JobRecord, launcher: JobMachines, pause: float) -> UserError:
    """Deletes the slice of a job whose directory was deleted, which nothing else would do; says so."""
    trouble = _Trouble(record, launcher, "its directory was deleted")
    attempt = trouble.attempt
    while True:
        try:
            launcher.delete(attempt)
            if launcher.observe(attempt).kind == "absent":
                return UserError(
                    f"{record.path}: the job's directory was deleted, so the job has ended; no "
                    f"{launcher.noun} is left"
                )
            trouble.is_over()
        except Exception as error:
            trouble.bear(error)
        time.sleep(pause)


def _turn(
    record: JobRecord, launch: CommonLaunchConfig, launcher: JobMachines, lock: Lock | None, watch: Watch
) -> tuple[Action | None, JobState, bool]:
    """Observes, decides and acts once: (the action, the state before, whether its effect takes a while).

    The action is None when another process has changed the record meanwhile. Without a lock no slice may be
    requested.
    """
    try:
        if lock is not None:
            _report(record, launcher)
        seen = observe(record, launcher, watch)
        action = next_action(seen, launch)
        if action.kind == "done":
            return action, seen.job, False
        return action, seen.job, _act(action, seen.job, record, launcher, lock)
    except Outdated as error:
        logging.info("%s; looking again", error)
        return None, record.state(), False
    except LaunchError as error:
        if (job := _unseen_end(record, error)) is None:
            raise
        return Action("done"), job, False


def _report(record: JobRecord, launcher: JobMachines) -> None:
    """Lets the launcher write what the attempt's machine cannot, unless the job is being ended."""
    job = record.state()
    if job.attempt and job.state not in (*FINAL, "stopping", "requesting"):
        launcher.report(job.attempt)


def _check(lock: Lock) -> None:
    """Raises UserError: another process took over; Unreachable: it may have, so nothing may be done now."""
    try:
        lock.check()
    except UserError as error:
        if lock.lost:
            raise
        raise Unreachable(str(error)) from None


def _unseen_end(record: JobRecord, error: LaunchError) -> JobState | None:
    """The final state of a job whose request was rejected and whose slice this account may not look for."""
    job = record.state()
    if job.state == "stopping" and job.answered:
        logging.warning("attempt %d: cannot see whether anything is left: %s", job.attempt, error)
        with contextlib.suppress(Outdated):
            record.append(job.outcome, job.attempt, job.reason, unseen=True)
        job = record.state()
    return job if job.state in FINAL and job.unseen else None


def is_passing(error: Exception) -> bool:
    """Whether an error of the network or a service is transient, so that waiting may help."""
    return isinstance(error, Unreachable | OSError) or type(error).__module__.startswith(_STORE_ERRORS)


def _warn(error: Exception) -> None:
    logging.warning("%s: %s; retrying", type(error).__name__, " ".join(str(error).split()))


def observe(record: JobRecord, launcher: JobMachines, watch: Watch) -> Observed:
    """Reads the record, the slice and the machine's files, in the order that a decision needs."""
    job = record.state()
    waited, settle = watch.state_seconds(job), launcher.settle_seconds
    if not job.attempt:
        return Observed(job, SliceState("absent"), None, False, 0.0, waited, 0.0, settle, None)
    state = launcher.observe(job.attempt)
    # After the slice: the machine writes its outcome before it deletes the slice.
    final, beat = record.final(job.attempt), record.heartbeat(job.attempt)
    up = state.kind == "ready" or job.ready_since is not None  # going down and up again is not a heartbeat
    sign = (job.attempt, up, beat and (beat["boot"], beat["count"]))
    silent, up_seconds = watch.silent_seconds(sign), watch.up_seconds(job, beat)
    saved = beat["progress"].get("saved") if beat else None
    return Observed(job, state, final, beat is not None, silent, waited, up_seconds, settle, saved)


def _act(action: Action, job: JobState, record: JobRecord, launcher: JobMachines, lock: Lock | None) -> bool:
    """Carries out an action; whether its effect takes a while."""
    attempt = job.attempt if action.attempt is None else action.attempt
    if action.kind == "delete":
        logging.info("removing the %s of attempt %d", launcher.noun, attempt)
        launcher.delete(attempt)
    elif action.kind == "create":
        assert lock is not None, "only a supervisor requests slices"
        return _create(record, launcher, lock, attempt)
    elif action.kind == "record":
        fields = {"exit_code": action.exit_code, "saved_step": action.saved_step}
        record.append(action.event, attempt, action.reason, outcome=action.outcome, **fields)
        logging.info("attempt %d: %s", attempt, f"{action.event} {action.reason}".rstrip())
    return action.kind != "record"


def _create(record: JobRecord, launcher: JobMachines, lock: Lock, attempt: int) -> bool:
    """Requests a slice; whether the request was accepted."""
    _check(lock)  # again: this process may have been suspended since
    try:
        launcher.create(attempt)
        return True
    except Refused as refusal:
        record.append("refused", attempt, str(refusal))
        logging.warning("attempt %d: %s", attempt, refusal)
    except LaunchError as error:
        # An earlier try of the call may have created a slice: look for it before the job counts as failed.
        record.append("stopping", attempt, str(error), outcome="failed", answered=True)
        logging.error("%s", error)
    finally:
        _take_back(record, launcher, attempt)
    return False


def _take_back(record: JobRecord, launcher: JobMachines, attempt: int) -> None:
    """Deletes the slice that was just requested if the job has ended or moved on without it meanwhile.

    The process that ended the job may have looked before the request arrived. Do so without the lease too: no
    other process looks for this slice any more.
    """
    for pause in (*_PAUSES, 60.0, 120.0, None):
        try:
            job = record.state()
            if job.attempt == attempt and job.state not in ("stopping", *FINAL):
                return
            logging.warning("attempt %d was requested too late (job %s); deleting it", attempt, job.state)
            return launcher.delete(attempt)
        except Exception as error:
            known = isinstance(error, LaunchError) or is_passing(error)
            if pause is None or not known:
                logging.error("attempt %d: %s", attempt, launcher.left(attempt))
                raise
            _warn(error)
            time.sleep(pause)


class SliceMayStay(UserError):
    """A job is being ended, but it is unknown whether its slice is gone."""


def cancel(path: str) -> JobState:
    """Ends a job: queues it no more, deletes its slice, and waits until the slice is gone.

    No lease is needed: from `stopping` on every remaining action may be repeated. So a supervisor that hangs,
    or has lost its permissions, does not block this.

    Raises:
      UserError: there is no such job.
      SliceMayStay: the service was unreachable for too long, or the user must fix something; names what may
        be left, and the command that deletes it.
    """
    pauses = itertools.chain(_PAUSES, itertools.repeat(60.0, int(_CANCEL_SECONDS // 60)))
    record, config, launcher = _patiently(lambda: open_job(path), pauses)
    pause = min(config.launch.poll_seconds, _CANCEL_POLL_SECONDS)
    _record_cancellation(record, launcher, pause)
    trouble, watch = _Trouble(record, launcher, "cancelled"), Watch()
    while True:
        try:
            action, job, waits = _turn(record, config.launch, launcher, None, watch)
            trouble.is_over()
        except Exception as error:
            trouble.bear(error)
            action, waits = WAIT, True
        if action is not None and action.kind == "done":
            return job
        if waits:
            time.sleep(pause)


def _record_cancellation(record: JobRecord, launcher: JobMachines, pause: float) -> None:
    """Adds `stopping`, unless the job is ending already; deletes its slice even while that fails."""
    trouble = _Trouble(record, launcher, "the cancellation is not recorded")
    while True:
        try:
            if (job := record.state()).state in (*FINAL, "stopping"):
                return
            record.append("stopping", job.attempt, "cancelled by the user", outcome="cancelled")
        except Outdated:
            continue
        except Exception as error:
            trouble.bear(error)
            try:
                launcher.delete(trouble.attempt)
            except Exception as second:
                trouble.bear(second)
            time.sleep(pause)


class _Trouble:
    """Errors in a row while a job is being ended.

    Args:
      record, launcher: of the job.
      outcome: what is done so far, in words.
    """

    def __init__(self, record: JobRecord, launcher: JobMachines, outcome: str) -> None:
        self._record, self._launcher, self._outcome = record, launcher, outcome
        self.is_over()

    @property
    def attempt(self) -> int:
        """The last known one; at least 1, since a request may be on its way."""
        return max([event.attempt for event in self._record.known_events()] + [1])

    def is_over(self) -> None:
        """Called when something has succeeded."""
        self._since, self._denials = time.monotonic(), 0

    def bear(self, error: Exception) -> None:
        """Returns when retrying may help. Raises SliceMayStay, or the error itself when it is a bug."""
        if not (isinstance(error, LaunchError) or is_passing(error)):
            raise error
        _warn(error)
        self._denials += isinstance(error, LaunchError)
        if self._denials >= _CANCEL_DENIALS or time.monotonic() - self._since > _CANCEL_SECONDS:
            why, left = " ".join(str(error).split()), self._launcher.left(self.attempt)
            again = f"rerun `lazytower jobs cancel {self._record.path}` to check again"
            raise SliceMayStay(f"{self._record.id}: {self._outcome}, but {why}; {left}; {again}") from None

"""Brings a job to its end: asks for slices, watches them, queues again what was taken away, and deletes all.

What to do next is decided by trainer.jobs.decisions, from what is recorded and what is seen and nothing else,
so a supervisor may be killed at any point and followed by another. What it decides is recorded before it is
done.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable

from absl import logging

from configs.errors import UserError
from trainer.jobs.config import JobConfig, JobMachines
from trainer.jobs.decisions import WAIT, Action, Observed, next_action
from trainer.jobs.record import FINAL, JobRecord, JobState, Outdated
from trainer.jobs.watch import Watch
from trainer.launchers.base import Launcher, LaunchError, Refused, Slices, SliceState, Unreachable
from trainer.run_lock import Lock, lock_directory

# Errors of object stores that pass, by the module they are from; gcsfs has no errors of Python's own.
_STORE_ERRORS = (
    *("gcsfs", "aiohttp", "asyncio", "fsspec", "google.auth", "google.api_core", "requests", "urllib3"),
)
# Errors of a disk that waiting does not change.
_LASTING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
_PAUSES = (1.0, 5.0, 15.0, 30.0)  # between tries of what must not be given up at once
# `cancel` waits out what passes for so long, and asks so often where only the user can help.
_CANCEL_SECONDS, _CANCEL_DENIALS = 900.0, 3
_CANCEL_POLL_SECONDS = 2.0


def open_job(path: str) -> tuple[JobRecord, JobConfig, Launcher]:
    """(record, config, launcher) of a job. Raises UserError: there is none."""
    record = JobRecord(path)
    config = JobConfig(record)
    return record, config, JobMachines(record, config)


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
    # A supervisor that is ending the job has no reason to give up.
    pauses = _PAUSES if steps is not None else itertools.chain(_PAUSES, itertools.repeat(60.0))
    record, config, launcher = _patiently(lambda: open_job(path), pauses)
    lock = _patiently(lambda: lock_directory(record.path), pauses)
    try:
        return _run(record, config.launch, launcher, lock, steps, tick)
    finally:
        lock.close()


def _patiently(action, pauses: Iterable[float] = _PAUSES):
    """Result of `action`, tried again after each pause while its error is of the kind that passes."""
    for pause in pauses:
        try:
            return action()
        except Exception as error:
            if not is_passing(error) or isinstance(error, _LASTING):
                raise
            _warn(error)
            time.sleep(pause)
    return action()


def _run(record, launch, launcher, lock, steps, tick) -> JobState:
    watch, done = Watch(), 0
    while True:
        try:
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


def _turn(record, launch, launcher, lock, watch) -> tuple[Action | None, JobState, bool]:
    """Looks, decides and acts once; (what was done, the job before, whether it shows only after a while).

    Nothing was done when somebody else has changed the record meanwhile.
    """
    try:
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


def _check(lock: Lock) -> None:
    """Raises UserError: another process took over; Unreachable: it may have, so nothing may be done now."""
    try:
        lock.check()
    except UserError as error:
        if lock.lost:
            raise
        raise Unreachable(str(error)) from None


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


def _warn(error: Exception) -> None:
    logging.warning("%s: %s; trying again", type(error).__name__, " ".join(str(error).split()))


def observe(record: JobRecord, launcher: Slices, watch: Watch) -> Observed:
    """Looks at the record, the slice and the machine's files, in the order that a decision needs."""
    job = record.state()
    waited, settle = watch.state_seconds(job), launcher.settle_seconds
    if not job.attempt:
        return Observed(job, SliceState("absent"), None, False, 0.0, waited, 0.0, settle, None)
    state = launcher.observe(job.attempt)
    # After the slice: the machine writes its outcome before it deletes the slice.
    final, beat = record.final(job.attempt), record.heartbeat(job.attempt)
    up = state.kind == "ready" or job.ready_since is not None  # going down and up again is no sign of life
    sign = (job.attempt, up, beat and (beat["boot"], beat["count"]))
    silent, up_seconds = watch.silent_seconds(sign), watch.up_seconds(job, beat)
    saved = beat["progress"].get("saved") if beat else None
    return Observed(job, state, final, beat is not None, silent, waited, up_seconds, settle, saved)


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
        fields["saved_step"] = action.saved_step
        record.append(action.event, attempt, action.reason, **fields)
        logging.info("attempt %d: %s", attempt, f"{action.event} {action.reason}".rstrip())
    return action.kind != "record"


def _create(record: JobRecord, launcher: Launcher, lock: Lock, attempt: int) -> bool:
    """Whether the request was accepted."""
    _check(lock)  # again: this process may have slept since it looked
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
    for pause in (*_PAUSES, 60.0, 120.0, None):
        try:
            job = record.state()
            if job.attempt == attempt and job.state not in ("stopping", *FINAL):
                return
            logging.warning("attempt %d was asked for too late: the job is %s; deleting", attempt, job.state)
            return launcher.delete(attempt)
        except Exception as error:
            known = isinstance(error, LaunchError) or is_passing(error)
            if pause is None or not known:
                logging.error("attempt %d: %s", attempt, launcher.left(attempt))
                raise
            _warn(error)
            time.sleep(pause)


class SliceMayStay(UserError):
    """A job is being ended, and whether its slice is gone could not be seen."""


def cancel(path: str) -> JobState:
    """Ends a job: nothing is queued again, its slice is deleted. Waits until that is so.

    No lease is needed: from `stopping` on all that is left to do may be done twice. So a supervisor that
    hangs, or has no rights any more, is in nobody's way.

    Raises:
      UserError: there is no such job.
      SliceMayStay: the service could not be asked for too long, or only the user can change that; says what
        may be left, and the command that deletes it.
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


def _record_cancellation(record: JobRecord, launcher: Slices, pause: float) -> None:
    """Adds `stopping`, unless the job is ending already; while that fails, its slice is deleted anyway."""
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
      outcome: what has been reached so far, in words.
    """

    def __init__(self, record: JobRecord, launcher: Slices, outcome: str):
        self._record, self._launcher, self._outcome = record, launcher, outcome
        self.is_over()

    @property
    def attempt(self) -> int:
        """The last that is known; at least 1, since a request may be on its way."""
        return max([event.attempt for event in self._record.known_events()] + [1])

    def is_over(self) -> None:
        """Something has succeeded."""
        self._since, self._denials = time.monotonic(), 0

    def bear(self, error: Exception) -> None:
        """Returns when it is worth going on. Raises SliceMayStay, or the error when it is a bug."""
        if not (isinstance(error, LaunchError) or is_passing(error)):
            raise error
        _warn(error)
        self._denials += isinstance(error, LaunchError)
        if self._denials >= _CANCEL_DENIALS or time.monotonic() - self._since > _CANCEL_SECONDS:
            why, left = " ".join(str(error).split()), self._launcher.left(self.attempt)
            again = f"rerun `lazytower jobs cancel {self._record.path}` to look again"
            raise SliceMayStay(f"{self._record.id}: {self._outcome}, but {why}; {left}; {again}") from None

"""The next step of a job, decided from its record and what is observed, and nothing else."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from configs.sections.launch import CommonLaunchConfig
from trainer.jobs.record import FINAL, JobState
from trainer.launchers.base import SliceState
from trainer.vm.program import DEADLINE_GRACE_SECONDS

_MUTE_ATTEMPTS = 3  # a program that three machines could not start will not start on a fourth
# Time in which the machine saves and stops by itself after launch.max_seconds.
_END_SECONDS = DEADLINE_GRACE_SECONDS + 120.0


@dataclass(frozen=True)
class Observed:
    """All that a decision rests on."""

    job: JobState
    slice: SliceState
    """Of the job's attempt; absent when there was none."""
    final: dict[str, Any] | None
    """What the attempt's machine wrote at its end; read after the slice, which the machine deletes itself."""
    beating: bool
    """Whether the attempt's machine has ever written a heartbeat."""
    silent_seconds: float
    """Since its last heartbeat, or since the slice came up; at most since this supervisor began."""
    state_seconds: float
    """Since the job entered its state, at least: by the clock of the process that decides."""
    up_seconds: float
    """Since the attempt's slice came up, at least."""
    settle_seconds: float
    """How long a request may take to become visible after the process that sent it has died."""
    saved_step: int | None
    """Newest step that the attempt is known to have saved."""


class Action(NamedTuple):
    """What to do next: record, create, delete, wait or done."""

    kind: str
    event: str = ""
    """To record, with its reason and, for `stopping`, outcome and exit code."""
    reason: str = ""
    outcome: str = ""
    exit_code: int | None = None
    attempt: int | None = None
    """None: the current one."""
    saved_step: int | None = None
    """Of `preempted`."""


WAIT = Action("wait")
_DELETE = Action("delete")


def next_action(seen: Observed, launch: CommonLaunchConfig) -> Action:
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
        came_up = seen.beating or seen.final is not None
        if job.unconfirmed and not came_up and seen.state_seconds < seen.settle_seconds:
            return WAIT
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
    return WAIT if seen.slice.kind == "deleting" else _DELETE


def _stop(outcome: str, reason: str, exit_code: int | None = None) -> Action:
    return Action("record", "stopping", reason, outcome, exit_code)


def _preempted(seen: Observed, reason: str) -> Action:
    return Action("record", "preempted", reason, saved_step=seen.saved_step)


def _again(seen: Observed, launch: CommonLaunchConfig) -> Action:
    """The next step after a preemption or refusal, once the slice is deleted."""
    job = seen.job
    if job.vain_attempts > launch.retries:
        vain = f"{job.vain_attempts} attempts in a row that saved no new step (launch.retries)"
        return _stop("failed", f"gave up after {vain}: {job.reason}")
    if job.mute_attempts >= _MUTE_ATTEMPTS:
        return _stop(
            "failed", f"{job.mute_attempts} slices in a row came up without a heartbeat: {job.reason}"
        )
    doublings = min(max(job.idle_attempts - 1, 0), 20)
    pause = min(launch.backoff_seconds * 2**doublings, launch.max_backoff_seconds)
    if seen.state_seconds < pause:
        return WAIT
    return Action("record", "requesting", attempt=job.attempt + 1)


def _while_alive(seen: Observed, launch: CommonLaunchConfig) -> Action:
    """The next step from the request of a slice to its end."""
    job, kind = seen.job, seen.slice.kind
    if kind == "absent":
        if job.state == "requesting" and not seen.beating:
            return Action("create")
        return _preempted(seen, seen.slice.reason or "the slice is gone")
    if kind == "lost":
        return _preempted(seen, seen.slice.reason)
    if kind == "refused":
        return Action("record", "refused", seen.slice.reason)
    if kind == "failed":
        return _stop("failed", seen.slice.reason)
    if job.state == "requesting":
        return Action("record", "queued")
    if kind == "provisioning" and job.state == "queued":
        return Action("record", "provisioning")
    # Also a slice that was up and is being repaired, for example: its limits still apply.
    was_up = job.ready_since is not None and job.state in ("ready", "running")
    return _while_up(seen, launch) if kind == "ready" or was_up else WAIT


def _while_up(seen: Observed, launch: CommonLaunchConfig) -> Action:
    job = seen.job
    if job.state in ("queued", "provisioning"):
        return Action("record", "ready")
    if job.state == "ready" and seen.beating:
        return Action("record", "resumed" if job.attempt > 1 else "running")
    if seen.silent_seconds > launch.heartbeat_timeout_seconds:
        return _preempted(
            seen, f"hung: the slice is up, but has sent no heartbeat for {seen.silent_seconds:.0f} s"
        )
    if job.ready_since and seen.up_seconds > launch.max_seconds + _END_SECONDS:
        return _stop("failed", f"not done within launch.max_seconds {launch.max_seconds:g}")
    return WAIT

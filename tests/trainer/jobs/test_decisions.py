"""What the supervisor decides: every case by itself."""

import pytest

from configs.sections.launch import LocalLaunchConfig
from trainer.jobs.decisions import Action, Observed, next_action
from trainer.jobs.record import JobState
from trainer.launchers.base import SliceState
from trainer.launchers.tpu_api import CALL_SECONDS
from trainer.launchers.tpu_slices import TpuSlices

LIMITS = LocalLaunchConfig(
    retries=3, backoff_seconds=10, max_backoff_seconds=35, heartbeat_timeout_seconds=100
)
DONE = {"state": "succeeded", "reason": "", "exit_code": 0}


def decide(state: str, slice_: str, **more) -> Action:
    """The action in a job's state while its slice is in another."""
    job = {name: more.pop(name) for name in list(more) if name in JobState.__dataclass_fields__}
    seen = {"final": None, "beating": False, "silent_seconds": 0.0, "state_seconds": 0.0, "up_seconds": 0.0}
    seen |= {"settle_seconds": TpuSlices.settle_seconds, "saved_step": None} | more
    reason = f"{slice_} because"
    return next_action(
        Observed(JobState(state, **{"attempt": 1, **job}), SliceState(slice_, reason), **seen), LIMITS
    )


@pytest.mark.parametrize(
    ("state", "slice_", "more", "kind", "event"),
    [
        ("submitted", "absent", {}, "record", "requesting"),
        ("requesting", "absent", {}, "create", ""),
        ("requesting", "absent", {"beating": True}, "record", "preempted"),
        ("requesting", "waiting", {}, "record", "queued"),
        ("requesting", "ready", {}, "record", "queued"),
        ("requesting", "absent", {"final": DONE}, "record", "stopping"),
        ("queued", "waiting", {}, "wait", ""),
        ("queued", "provisioning", {}, "record", "provisioning"),
        ("queued", "absent", {}, "record", "preempted"),
        ("queued", "refused", {}, "record", "refused"),
        ("queued", "failed", {}, "record", "stopping"),
        ("provisioning", "provisioning", {}, "wait", ""),
        ("provisioning", "ready", {}, "record", "ready"),
        ("ready", "ready", {}, "wait", ""),
        ("ready", "ready", {"beating": True}, "record", "running"),
        ("ready", "ready", {"beating": True, "attempt": 2}, "record", "resumed"),
        ("ready", "ready", {"silent_seconds": 101}, "record", "preempted"),
        ("running", "ready", {"beating": True}, "wait", ""),
        ("running", "ready", {"beating": True, "silent_seconds": 101}, "record", "preempted"),
        ("running", "provisioning", {"beating": True}, "wait", ""),
        ("running", "lost", {"beating": True}, "record", "preempted"),
        ("running", "absent", {"beating": True}, "record", "preempted"),
        ("running", "absent", {"beating": True, "final": DONE}, "record", "stopping"),
        ("running", "deleting", {"beating": True}, "wait", ""),
        ("running", "ready", {"ready_since": 1.0, "up_seconds": 800_000.0}, "record", "stopping"),
        ("running", "provisioning", {"ready_since": 1.0, "silent_seconds": 101}, "record", "preempted"),
        ("running", "deleting", {"ready_since": 1.0, "silent_seconds": 101}, "record", "preempted"),
        ("ready", "waiting", {"ready_since": 1.0, "up_seconds": 800_000.0}, "record", "stopping"),
        ("ready", "provisioning", {"ready_since": 1.0}, "wait", ""),
        ("queued", "waiting", {"ready_since": 1.0, "silent_seconds": 101}, "wait", ""),
        ("preempted", "lost", {}, "delete", ""),
        ("preempted", "deleting", {}, "wait", ""),
        ("preempted", "absent", {"state_seconds": 5.0}, "wait", ""),
        ("preempted", "absent", {"state_seconds": 11.0}, "record", "requesting"),
        ("refused", "refused", {}, "delete", ""),
        ("refused", "absent", {"attempt": 4, "vain_attempts": 4}, "record", "stopping"),
        ("preempted", "absent", {"attempt": 40, "state_seconds": 11.0}, "record", "requesting"),
        ("preempted", "absent", {"mute_attempts": 2, "state_seconds": 11.0}, "record", "requesting"),
        ("preempted", "absent", {"mute_attempts": 3}, "record", "stopping"),
        ("stopping", "ready", {"outcome": "failed"}, "delete", ""),
        ("stopping", "deleting", {"outcome": "failed"}, "wait", ""),
        ("stopping", "absent", {"outcome": "cancelled"}, "record", "cancelled"),
        (
            "stopping",
            "absent",
            {"outcome": "cancelled", "unconfirmed": True, "state_seconds": 5.0},
            "wait",
            "",
        ),
        ("stopping", "absent", {"outcome": "failed", "unconfirmed": True, "final": DONE}, "record", "failed"),
        ("stopping", "absent", {"outcome": "x", "unconfirmed": True, "settle_seconds": 0.0}, "record", "x"),
        ("succeeded", "absent", {}, "done", ""),
        ("cancelled", "ready", {}, "delete", ""),
    ],
)
def test_decisions(state, slice_, more, kind, event):
    action = decide(state, slice_, **more)
    assert (action.kind, action.event) == (kind, event)


@pytest.mark.parametrize(("idle", "pause"), [(0, 10), (1, 10), (2, 20), (3, 35), (60, 35)])
def test_the_pause_doubles_up_to_its_limit(idle, pause):
    assert decide("refused", "absent", idle_attempts=idle, state_seconds=pause - 1).kind == "wait"
    again = decide("refused", "absent", idle_attempts=idle, state_seconds=pause)
    assert (again.event, again.attempt) == ("requesting", 2)


def test_the_outcome_is_the_machine_s():
    failed = {"state": "failed", "reason": "training ended with exit code 2", "exit_code": 2}
    action = decide("running", "ready", final=failed)
    assert action == Action("record", "stopping", failed["reason"], "failed", 2)
    assert decide("stopping", "absent", outcome="failed", reason="why").reason == "why"


def test_a_cancelled_request_is_waited_for_as_long_as_a_call_may_take():
    assert TpuSlices.settle_seconds > CALL_SECONDS
    more = {"outcome": "cancelled", "unconfirmed": True}
    assert decide("stopping", "absent", state_seconds=CALL_SECONDS, **more).kind == "wait"
    after = decide("stopping", "absent", state_seconds=TpuSlices.settle_seconds + 1, **more)
    assert after.event == "cancelled"

"""Whole lives of jobs under the supervisor, in a random world."""

import random
import shutil
import types

import pytest

from configs.errors import UserError
from configs.load import parse_config
from configs.sections.launch import LocalLaunchConfig
from tests.support.documents import document
from trainer.jobs import supervise as module
from trainer.jobs import watch as job_watch
from trainer.jobs.record import FINAL, JobRecord
from trainer.jobs.supervise import supervise
from trainer.launchers.base import LaunchError, Refused, SliceState, Unreachable


class World:
    """A launcher whose slices change at random, and a machine that now and then sends a heartbeat or ends."""

    settle_seconds = 0.0
    noun = "slice"

    def __init__(self, draw: random.Random, record: JobRecord):
        self.draw, self.record, self.slices, self.made = draw, record, {}, []

    def create(self, attempt: int) -> None:
        roll = self.draw.random()
        if roll < 0.1:
            raise Refused("no quota")
        if roll < 0.13:
            raise LaunchError("no permission")
        if attempt not in self.slices:
            assert attempt not in self.made, "one attempt, one slice"
            self.slices[attempt], _ = "waiting", self.made.append(attempt)
        if roll < 0.3:
            raise Unreachable("after it acted")

    def observe(self, attempt: int) -> SliceState:
        if self.draw.random() < 0.1:
            raise Unreachable("flaky")
        kind = self.slices.get(attempt, "absent")
        following = {
            "waiting": ["waiting", "provisioning", "refused", "failed"],
            "provisioning": ["ready", "ready", "lost"],
            "ready": ["ready", "ready", "ready", "lost"],
            "deleting": ["deleting", None],
        }
        moved = self.draw.choice(following.get(kind, [kind]))
        if kind == "ready":
            self._live(attempt)
        if moved is None:
            del self.slices[attempt]
        elif kind != "absent":
            self.slices[attempt] = moved
        return SliceState(kind, f"{kind} because")

    def _live(self, attempt: int) -> None:
        files = self.record.beats
        count = files.get(attempt, {"count": 0})["count"] + 1
        files[attempt] = {"boot": "b", "count": count, "up_seconds": 0.0, "progress": {}}
        if self.draw.random() < 0.2:
            outcome = self.draw.choice(["succeeded", "succeeded", "failed"])
            self.record.finals[attempt] = {"state": outcome, "reason": "its own", "exit_code": 0}

    def report(self, attempt: int) -> None:
        """Nothing: its machines write the job's files."""

    def delete(self, attempt: int) -> None:
        if self.draw.random() < 0.2:
            raise Unreachable("flaky")
        if attempt in self.slices:
            self.slices[attempt] = "deleting"


class Record(JobRecord):
    """A record whose machine's files are in memory."""

    def __init__(self, path: str):
        super().__init__(path)
        self.beats, self.finals = {}, {}

    def final(self, attempt: int) -> dict | None:
        return self.finals.get(attempt)

    def heartbeat(self, attempt: int) -> dict | None:
        return self.beats.get(attempt)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_the_job_ends_and_no_slice_is_left(seed, tmp_path, monkeypatch):
    """Supervisors are killed after every few decisions; some lives are cancelled from beside."""
    draw = random.Random(seed)
    path = str(tmp_path / "job")
    JobRecord.create(path, {"name": "n"})
    record = Record(path)
    world = World(draw, record)
    launch = LocalLaunchConfig(retries=4, backoff_seconds=0, poll_seconds=1e-3)
    config = parse_config(document(), "x").model_copy(update={"launch": launch})
    monkeypatch.setattr(module, "open_job", lambda path: (record, config, world))
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    cancel_at = draw.randrange(200)
    for life in range(400):
        record._events = []  # a new process has read nothing
        if life == cancel_at and record.state().state not in (*FINAL, "stopping"):
            record.append("stopping", record.state().attempt, "cancelled", outcome="cancelled")
        state = supervise(path, steps=draw.randint(1, 3))
        if state.state in FINAL and supervise(path, steps=50).state in FINAL and not world.slices:
            break
    assert state.state in FINAL and world.slices == {}
    types_ = [event.type for event in record.events()]
    assert types_.count("requesting") <= launch.retries + 1
    assert sum(type_ in FINAL for type_ in types_) == 1 and types_[-1] in FINAL


def test_silence_is_measured_by_one_s_own_clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(job_watch.time, "monotonic", lambda: clock.now)
    watch = job_watch.Watch()
    assert watch.silent_seconds(("a",)) == 0
    clock.now = 50.0
    assert watch.silent_seconds(("a",)) == 50 and watch.silent_seconds(("b",)) == 0


class Late:
    """A launcher whose request arrives after something has happened to the job, and the lock too."""

    noun = "slice"

    def __init__(self, happens, lost: bool = False, answers=()):
        self.happens, self.lost, self.answers, self.slices = happens, lost, list(answers), set()

    def check(self) -> None:
        if self.lost:
            raise UserError("another process took over")

    def create(self, attempt: int) -> None:
        self.happens()
        self.slices.add(attempt)

    def delete(self, attempt: int) -> None:
        if self.answers:
            raise self.answers.pop(0)
        self.slices.discard(attempt)


def requested(tmp_path) -> JobRecord:
    record = JobRecord.create(str(tmp_path / "job"), {"name": "n"})
    record.append("requesting", 1)
    return record


def end(record: JobRecord, *types_: str):
    """What another process does, in its own view of the record."""

    def happens():
        other = JobRecord(record.path)
        other.events()
        for type_ in types_:
            other.append(type_, 1 + types_.count("requesting"), "r", outcome="cancelled")

    return happens


@pytest.mark.parametrize("types_", [("stopping",), ("stopping", "cancelled"), ("preempted", "requesting")])
def test_a_slice_that_was_asked_for_too_late_is_deleted_whoever_holds_the_lease(
    types_, tmp_path, monkeypatch
):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    record = requested(tmp_path)
    late = Late(end(record, *types_), answers=[Unreachable("flaky"), Unreachable("flaky")])
    module._create(record, late, late, 1)
    assert late.slices == set() and pauses == [1.0, 5.0]


def test_a_slice_that_is_wanted_stays(tmp_path):
    record = requested(tmp_path)
    late = Late(lambda: None)
    module._create(record, late, late, 1)
    assert late.slices == {1}


@pytest.mark.parametrize("events", [(), ("requesting",), ("requesting", "queued", "running")])
def test_a_job_whose_directory_is_deleted_ends_and_leaves_no_slice(events, tmp_path, monkeypatch):
    """Its supervisor retried forever, since no event could be written."""
    record = JobRecord.create(str(tmp_path / "job"), {"name": "n"})
    for event in events:
        record.append(event, 1)
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    late = Late(lambda: None, answers=[Unreachable("flaky")])
    late.slices.add(1)
    late.observe = lambda attempt: SliceState("ready" if attempt in late.slices else "absent")
    shutil.rmtree(record.path)
    with pytest.raises(UserError, match="the job's directory was deleted, so the job has ended; no slice"):
        module._run(record, LocalLaunchConfig(), late, late, None, lambda: None)
    assert late.slices == set() and len(pauses) == 1


def test_without_the_lease_nothing_is_asked_for(tmp_path):
    record = requested(tmp_path)
    late = Late(lambda: None, lost=True)
    with pytest.raises(UserError, match="took over"):
        module._create(record, late, late, 1)
    assert late.slices == set()


class Denied:
    """A launcher that is denied a slice, of which an earlier try of the call may have made one."""

    settle_seconds = 0.0
    noun = "slice"

    def __init__(self, made: bool, looks: bool):
        self.slices, self.made, self.looks, self.asked = set(), made, looks, False

    def create(self, attempt: int) -> None:
        self.asked = True
        if self.made:
            self.slices.add(attempt)
        raise LaunchError("no permission")

    def observe(self, attempt: int) -> SliceState:
        if self.asked and not self.looks:
            raise LaunchError("no permission to look either")
        return SliceState("ready" if attempt in self.slices else "absent")

    def delete(self, attempt: int) -> None:
        self.slices.discard(attempt)

    def report(self, attempt: int) -> None:
        """Nothing: its machines write the job's files."""


@pytest.mark.parametrize(("made", "looks"), [(True, True), (False, True), (False, False)])
def test_after_a_denied_request_a_slice_is_looked_for(made, looks, tmp_path, monkeypatch):
    launcher, path = Denied(made, looks), str(tmp_path / "job")
    record = JobRecord.create(path, {"name": "n"})
    config = parse_config(document(), "x")
    monkeypatch.setattr(module, "open_job", lambda path: (record, config, launcher))
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    state = supervise(path, steps=6)
    assert launcher.slices == set() and (state.state, state.unseen) == ("failed", not looks)
    assert state.reason == "no permission" and supervise(path) == state
    assert [e.type for e in record.events()] == ["submitted", "requesting", "stopping", "failed"]


def test_an_accepted_request_is_given_time_to_show(tmp_path, monkeypatch):
    """The first looks after it find nothing; it is not sent again without a pause."""
    looks = iter(["absent", "absent", "absent", "waiting"])
    pauses, path = [], str(tmp_path / "job")
    record, creations = JobRecord.create(path, {"name": "n"}), []
    launcher = types.SimpleNamespace(
        create=creations.append,
        observe=lambda attempt: SliceState(next(looks)),
        delete=None,
        report=lambda attempt: None,
        settle_seconds=90.0,
    )
    config = parse_config(document(launch={"poll_seconds": 7}), "x")
    monkeypatch.setattr(module, "open_job", lambda path: (record, config, launcher))
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    assert supervise(path, steps=5).state == "queued"
    assert creations == [1, 1, 1] and pauses == [7, 7, 7]


def test_going_down_and_up_again_is_no_sign_of_life(tmp_path, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(job_watch.time, "monotonic", lambda: clock.now)
    record, kinds = requested(tmp_path), iter(["ready", "provisioning", "ready"])
    record.append("ready", 1)
    launcher = types.SimpleNamespace(observe=lambda attempt: SliceState(next(kinds)), settle_seconds=0.0)
    watch, silent = job_watch.Watch(), []
    for clock.now in (0.0, 40.0, 80.0):
        silent.append(module.observe(record, launcher, watch).silent_seconds)
    assert silent == [0, 40, 80]


class Unanswered:
    """Slices one of which may exist, and a service that first answers with some errors."""

    settle_seconds = 0.0
    noun = "slice"

    def __init__(self, error: Exception, times: int):
        self.error, self.times, self.slices = error, times, {1}

    def _ask(self) -> None:
        self.times -= 1
        if self.times >= 0:
            raise self.error

    def observe(self, attempt: int) -> SliceState:
        self._ask()
        return SliceState("ready" if attempt in self.slices else "absent")

    def delete(self, attempt: int) -> None:
        self._ask()
        self.slices.discard(attempt)

    def left(self, attempt: int) -> str:
        return f"slice {attempt} may be left; `the command` deletes it"


@pytest.mark.parametrize(
    ("error", "times", "ends"),
    [
        (Unreachable("RESOURCE_EXHAUSTED"), 300, True),
        (Unreachable("away"), 10_000, False),
        (LaunchError("no permission"), 2, True),
        (LaunchError("no permission"), 10_000, False),
    ],
)
def test_cancel_waits_or_says_what_may_be_left(error, times, ends, tmp_path, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    fake = types.SimpleNamespace(
        monotonic=lambda: clock.now, sleep=lambda seconds: setattr(clock, "now", clock.now + seconds)
    )
    monkeypatch.setattr(module, "time", fake)
    record, launcher = requested(tmp_path), Unanswered(error, times)
    monkeypatch.setattr(module, "open_job", lambda path: (record, parse_config(document(), "x"), launcher))
    if ends:
        assert module.cancel(record.path).state == "cancelled" and launcher.slices == set()
        return
    words = (
        "job: cancelled, but .*; slice 1 may be left; `the command` deletes it; rerun `lazytower jobs cancel "
    )
    with pytest.raises(module.SliceMayStay, match=words) as caught:
        module.cancel(record.path)
    assert "\n" not in str(caught.value) and record.state().state == "stopping"

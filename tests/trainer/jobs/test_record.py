"""A job's record: events are never lost or overwritten by other writers, and add up to its state."""

import threading

import pytest

from configs.errors import UserError
from trainer.jobs.record import Event, JobRecord, Outdated, find_jobs, fold

FACTS = {"name": "n", "output": "gs://bucket/run", "chips": 4, "price_per_chip_hour": 3.0}


def event(number: int, type_: str, attempt: int = 1, minute: int = 0, **fields) -> Event:
    return Event(number, f"2026-01-01T00:{minute:02}:00Z", type_, attempt, fields.pop("reason", ""), **fields)


def history(*steps) -> list[Event]:
    """Events of (type, attempt, minute)."""
    return [event(number + 1, *step) for number, step in enumerate(steps)]


@pytest.fixture(params=["local", "bucket"])
def path(request, tmp_path, bucket) -> str:
    return f"{tmp_path}/jobs/one" if request.param == "local" else "gs://bucket/jobs/one"


def test_events_come_back_in_order(path):
    record = JobRecord.create(path, FACTS)
    record.append("requesting", 1)
    record.append("stopping", 1, "gave up", outcome="failed", exit_code=3)
    again = JobRecord(path)
    assert [e.type for e in again.events()] == ["submitted", "requesting", "stopping"]
    assert again.facts == FACTS and again.id == "one"
    state = again.state()
    assert (state.state, state.outcome, state.exit_code, state.reason) == ("stopping", "failed", 3, "gave up")
    assert [job.id for job in find_jobs(path.rpartition("/")[0])] == ["one"]


def test_who_decided_on_an_old_state_learns_of_it(path):
    first = JobRecord.create(path, FACTS)
    second = JobRecord(path)
    assert second.state().state == "submitted"
    first.append("requesting", 1)
    with pytest.raises(Outdated, match="event 2 exists already"):
        second.append("stopping", 0, "cancelled", outcome="cancelled")
    assert second.state().state == "requesting"
    second.append("stopping", 1, "cancelled", outcome="cancelled")
    assert [e.type for e in first.events()] == ["submitted", "requesting", "stopping"]


def test_a_job_is_made_once(path):
    JobRecord.create(path, FACTS)
    with pytest.raises(FileExistsError):
        JobRecord.create(path, {**FACTS, "name": "other"})
    assert JobRecord(path).facts["name"] == "n"


def test_writers_that_race_lose_nothing_even_when_answers_are_lost(bucket):
    path = "gs://bucket/jobs/race"
    JobRecord.create(path, FACTS)
    bucket.store.fail_every = 5

    def write(name: str) -> None:
        record, done = JobRecord(path), 0
        while done < 4:
            record.events()
            try:
                record.append("queued", 1, f"{name} {done}")
                done += 1
            except Outdated:
                continue

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bucket.store.fail_every = 0
    events = JobRecord(path).events()
    assert [e.number for e in events] == list(range(1, 10))
    for name in "ab":
        assert [e.reason for e in events if e.reason.startswith(name)] == [f"{name} {i}" for i in range(4)]


def test_no_job(tmp_path):
    with pytest.raises(UserError, match="no job here; `lazytower jobs list` shows all jobs"):
        assert not JobRecord(f"{tmp_path}/none").facts


def test_time_that_is_paid_for():
    """Up 10 minutes, preempted; up 5, ended."""
    events = history(
        ("submitted", 0, 0),
        *(("requesting", 1, 0), ("queued", 1, 1), ("provisioning", 1, 2), ("ready", 1, 3), ("running", 1, 5)),
        *(("preempted", 1, 13), ("requesting", 2, 14), ("queued", 2, 15), ("ready", 2, 20)),
    )
    now = events[-1].seconds + 60
    assert fold(events[:5]).up_seconds(events[5].seconds) == 120
    assert fold(events[:8]).up_seconds(now) == 600
    assert fold(events).up_seconds(now) == 660
    ended = [*events, event(11, "running", 2, 21), event(12, "stopping", 2, 24, outcome="succeeded")]
    assert fold(ended).up_seconds(ended[-1].seconds + 30) == 600 + 240 + 30, "until it is known to be gone"
    ended.append(event(13, "succeeded", 2, 25))
    assert fold(ended).up_seconds(now + 1e6) == 900


def test_attempts_in_a_row_that_never_trained():
    steps = [("submitted", 0, 0)]
    for attempt in (1, 2, 3):
        steps += [("requesting", attempt, 0), ("refused", attempt, 0)]
    assert fold(history(*steps)).idle_attempts == 3
    steps += [("requesting", 4, 0), ("ready", 4, 0), ("resumed", 4, 0)]
    state = fold(history(*steps))
    assert (state.state, state.idle_attempts) == ("running", 0)
    state = fold(history(*steps, ("preempted", 4, 1), ("requesting", 5, 2)))
    assert (state.idle_attempts, state.preemptions, state.unconfirmed) == (1, 1, True)


def test_slices_in_a_row_that_never_gave_a_sign():
    silent = [("requesting", 1, 0), ("ready", 1, 0), ("preempted", 1, 0)]
    refused = [("requesting", 2, 0), ("refused", 2, 0)]
    assert fold(history(*silent, *refused, *silent)).mute_attempts == 2
    alive = [("requesting", 3, 0), ("ready", 3, 0), ("resumed", 3, 0), ("preempted", 3, 0)]
    assert fold(history(*silent, *silent, *alive)).mute_attempts == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"type": "cancelled"}', '{"type": 1, "time": "x"}'])
def test_an_unreadable_event_changes_nothing_and_stops_nobody(tmp_path, text):
    record = JobRecord.create(f"{tmp_path}/one", FACTS)
    record.append("requesting", 1)
    (tmp_path / "one" / "events" / "000003.json").write_text(text)
    again = JobRecord(record.path)
    assert (again.state().state, again.state().number) == ("requesting", 3)
    again.append("stopping", 1, outcome="cancelled")
    assert JobRecord(record.path).state().outcome == "cancelled"


def test_attempts_that_save_nothing_new_are_counted():
    def preempted(attempt: int, saved: int | None):
        return [event(0, "requesting", attempt), event(0, "preempted", attempt, saved_step=saved)]

    lives = [preempted(1, 100), preempted(2, 200), preempted(3, 200), preempted(4, None), preempted(5, 150)]
    counts = [fold(sum(lives[: n + 1], [])).vain_attempts for n in range(5)]
    assert counts == [0, 0, 1, 2, 3] and fold(sum(lives, [])).saved_step == 200
    refused = [event(0, "requesting", 6), event(0, "refused", 6)]
    assert fold(sum(lives, []) + refused).vain_attempts == 4

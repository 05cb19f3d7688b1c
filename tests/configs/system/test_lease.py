"""Leases: one holder at a time, even if holders are killed or suspended."""

import json
import threading
import time

import pytest

from configs.errors import UserError
from configs.system import lease as lease_module
from configs.system.lease import Lease, LeaseHeld
from tests.support.fake_tpu import wait_until

PATH = "gs://bucket/run/.lock"
PACE = {"renew_seconds": 0.2, "stale_seconds": 3.0}
PATIENT = PACE | {"stale_seconds": 10.0}  # for processes that find a live holder

_HOLD = """
import sys, time
from configs.system.lease import Lease
lease = Lease(sys.argv[1], renew_seconds=0.2, stale_seconds=3.0)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
lease.close()
"""


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes holders of this process look as if they were on another machine."""
    monkeypatch.setattr(lease_module, "_machine", lambda: "another")


@pytest.fixture
def later(monkeypatch):
    """Sets the clock of leases forward, by seconds."""
    clock = lease_module._clock
    return lambda seconds: monkeypatch.setattr(lease_module, "_clock", lambda: clock() + seconds)


def holder(bucket) -> dict:
    return json.loads(bucket.read("run/.lock"))


def test_held_until_closed(bucket):
    lease = Lease(PATH, **PACE)
    lease.check()
    assert set(holder(bucket)) == {"host", "machine", "pid", "started", "token", "renewed"}
    generation = bucket.store.objects["run/.lock"].generation
    wait_until(lambda: bucket.store.objects["run/.lock"].generation > generation, what="for a renewal")
    with pytest.raises(LeaseHeld, match="host .*, pid "):
        Lease(PATH, **PATIENT)
    lease.check()
    lease.close()
    lease.close()
    assert bucket.names() == []
    Lease(PATH, **PACE).close()


def test_of_many_racers_one_wins(bucket, elsewhere):
    """First for a free lease, then for one whose holder is dead."""
    for start, pace in (("free", PATIENT), ("abandoned", PACE)):
        if start == "abandoned":
            bucket.write("run/.lock", json.dumps({"host": "h", "pid": 1, "machine": "gone"}).encode())
        won, lost = [], []

        def race(won=won, lost=lost, pace=pace):
            try:
                won.append(Lease(PATH, **pace))
            except LeaseHeld as error:
                lost.append(error)

        threads = [threading.Thread(target=race) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 5), start
        won[0].check()
        won[0].close()


def test_a_killed_process_of_this_machine_is_followed_at_once(bucket, caplog):
    caplog.set_level("INFO")
    process = bucket.start("-c", _HOLD, PATH, "300")
    assert process.stdout.readline() == "held\n"
    with pytest.raises(LeaseHeld, match=f"pid {process.pid}"):
        Lease(PATH, **PATIENT)
    process.kill()
    process.communicate()
    caplog.clear()
    Lease(PATH, renew_seconds=15, stale_seconds=60).close()
    assert "taken over from" in caplog.text and "watching whether" not in caplog.text


def test_a_holder_elsewhere_is_watched_before_it_is_followed(bucket, elsewhere):
    bucket.write("run/.lock", b"torn {")
    started = time.monotonic()
    Lease(PATH, **PACE).close()
    assert 3.0 <= time.monotonic() - started


def test_who_slept_learns_that_another_took_over(bucket, elsewhere):
    asleep = Lease(PATH, renew_seconds=1000, stale_seconds=3.0)
    follower = Lease(PATH, **PACE)
    with pytest.raises(UserError, match="took over because this process did not renew its lease in time"):
        asleep.check()
    assert asleep.lost
    asleep.close()
    assert holder(bucket)["token"] == follower._identity["token"], "not deleted by who lost it"
    follower.check()
    follower.close()


def test_who_slept_and_was_not_followed_goes_on(bucket, later):
    lease = Lease(PATH, renew_seconds=1000, stale_seconds=60)
    later(31)
    generation = bucket.store.objects["run/.lock"].generation
    lease.check()
    assert bucket.store.objects["run/.lock"].generation > generation
    lease.close()


def test_a_store_that_cannot_be_asked_stops_who_is_not_sure(bucket, later, monkeypatch):
    lease = Lease(PATH, renew_seconds=1000, stale_seconds=60)
    monkeypatch.setattr(lease._object, "write", lambda *unused: 1 / 0)
    lease.check()  # renewed a moment ago
    later(31)
    with pytest.raises(UserError, match="cannot renew this lease"):
        lease.check()
    monkeypatch.undo()


@pytest.mark.slow
def test_lost_answers_change_nothing(bucket, later):
    """Every second request fails, and half of those fail after taking effect."""
    bucket.store.fail_every = 2
    lease = Lease(PATH, renew_seconds=1000, stale_seconds=60)
    later(31)
    lease.check()
    assert holder(bucket)["token"] == lease._identity["token"] and not lease.lost
    lease.close()
    assert bucket.names() == []

"""The watch over workers' ports, with real sockets."""

import contextlib
import queue
import socket
import time

import pytest

from trainer.cluster import watch
from trainer.cluster.sockets import HostLost
from trainer.cluster.watch import hosts_watched, watch_workers


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watch, "_SECONDS", 0.1)


@pytest.fixture
def listening():
    """Three sockets that accept connections, and their addresses."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        yield sockets, [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def test_a_worker_that_ends_is_named_once(listening):
    sockets, addresses = listening
    lost: queue.Queue[HostLost] = queue.Queue()
    with hosts_watched(lost.put):
        watch_workers(addresses)
        sockets[0].close()  # the driver itself, which is not a worker
        time.sleep(0.5)
        assert lost.empty()
        sockets[2].close()
        error = lost.get(timeout=60)
        time.sleep(0.3)
    assert str(error).startswith(f"host 2 at {addresses[2]} is lost (connection refused); rerun")
    assert error.exit_code == 75 and lost.empty()


def test_a_port_that_opens_again_at_once_is_not_lost(listening, monkeypatch):
    answers = iter(
        [{"b": "connection refused"}, {}, {"b": "connection refused"}, {"c": "connection refused"}]
    )
    slow = {name: "no answer" for name in "bc"}
    monkeypatch.setattr(watch, "refusals", lambda addresses: next(answers, slow))
    lost: queue.Queue[HostLost] = queue.Queue()
    with hosts_watched(lost.put):
        watch_workers(["a", "b", "c"])
        time.sleep(0.8)
    assert next(answers, None) is None and lost.empty()


def test_workers_that_end_after_the_run_are_nothing_to_it(listening):
    sockets, addresses = listening
    lost: queue.Queue[HostLost] = queue.Queue()
    with hosts_watched(lost.put):
        watch_workers(addresses)
    sockets[1].close()
    watch_workers(addresses)  # of nobody
    time.sleep(0.5)
    assert lost.empty()

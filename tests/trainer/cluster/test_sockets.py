"""Hosts are probed with sockets: who does not answer is named, and a port in use is refused."""

import socket

import pytest

from tests.support.cluster_hosts import free_addresses
from trainer.cluster.sockets import ClusterError, check_free, refusal, refusals, wait_for_workers


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_host_that_listens_has_no_refusal(listening):
    assert refusal(listening) is None


def test_refusals_say_why(listening):
    (closed,) = free_addresses(1)
    assert refusals([listening, closed, "no-such-host.invalid:1"]) == {
        closed: "connection refused",
        "no-such-host.invalid:1": "unknown host name",
    }


def test_workers_that_do_not_answer_are_named(listening):
    (closed,) = free_addresses(1)
    seen = []
    with pytest.raises(ClusterError, match=f"host 2 at {closed} .connection refused. cannot be reached"):
        wait_for_workers(["driver:1", listening, closed], 0.1, seen.append)
    assert seen == [{closed: "connection refused"}]


def test_workers_that_answer_are_not_waited_for(listening):
    wait_for_workers(["driver:1", listening], 0.1, lambda missing: pytest.fail(str(missing)))


def test_a_port_in_use_is_refused(listening):
    with pytest.raises(ClusterError, match=f"host 1 .{listening}. is in use on this machine"):
        check_free(listening, 1)
    check_free(free_addresses(1)[0], 1)

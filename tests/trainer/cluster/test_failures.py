"""Errors of the runtime become the name of the host that is lost, or stay what they are."""

import socket

import pytest
import tensorflow as tf

from configs.sections.devices import ClusterDeviceConfig
from tests.support.cluster_hosts import free_addresses
from trainer.cluster.failures import host_losses
from trainer.cluster.sockets import HostLost

REMOTE = "Additional GRPC error information from remote target /job:worker/replica:0/task:2 while calling x"


@pytest.fixture
def hosts():
    """Addresses of three hosts; host 1 and 2 listen."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        yield ["127.0.0.1:1", *(f"127.0.0.1:{server.getsockname()[1]}" for server in (one, two))]


def raised(hosts: list[str], error: Exception) -> None:
    with host_losses(ClusterDeviceConfig.model_validate({"kind": "cluster", "hosts": hosts})):
        raise error


def test_a_host_that_refuses_connections_is_lost(hosts):
    (closed,) = free_addresses(1)
    error = tf.errors.UnavailableError(None, None, "recvmsg:Connection reset by peer\n" + REMOTE)
    with pytest.raises(HostLost) as found:
        raised([hosts[0], closed, hosts[2]], error)
    text = str(found.value)
    assert text.startswith(
        f"host 1 at {closed} is lost (connection refused; recvmsg:Connection reset by peer)"
    )
    assert text.endswith("rerun the same command to resume") and found.value.exit_code == 75


def test_a_host_that_hangs_is_named_by_the_error(hosts):
    with pytest.raises(HostLost, match=f"host 2 at {hosts[2]} does not answer .ping timeout."):
        raised(hosts, tf.errors.UnavailableError(None, None, f"ping timeout\n{REMOTE}\n/task:0"))


def test_a_host_that_was_restarted_is_named(hosts):
    text = f"Unable to find a context_id matching the specified one\n{REMOTE}"
    with pytest.raises(HostLost, match="host 2 at .* was restarted"):
        raised(hosts, tf.errors.InvalidArgumentError(None, None, text))


@pytest.mark.parametrize("kind", [tf.errors.InternalError, tf.errors.InvalidArgumentError])
def test_other_errors_stay_what_they_are_while_all_hosts_answer(hosts, kind):
    with pytest.raises(kind, match="a bug"):
        raised(hosts, kind(None, None, "a bug"))


def test_an_internal_error_beside_a_lost_host_is_its_loss(hosts):
    (closed,) = free_addresses(1)
    with pytest.raises(HostLost, match="host 2 at"):
        raised([*hosts[:2], closed], tf.errors.InternalError(None, None, "rendezvous aborted"))

"""Whether hosts accept connections, asked with plain sockets. Without TensorFlow, whose own calls would hang.

A cluster's first operation waits forever for a host that is not there, so addresses are tried before
anything is built, and again when a run has failed, to name the host that is gone.
"""

import concurrent.futures
import errno
import socket
import time
from collections.abc import Callable, Sequence

from configs.errors import UserError
from configs.system.tf_config import host_and_port

CLOSED = "connection refused"
"""What `refusal` says of a port on which no process listens."""
_ONE_TRY_SECONDS = 3.0
_PAUSE_SECONDS = 0.5


class ClusterError(UserError):
    """The hosts of a cluster are not as they must be; names the host."""


class HostLost(UserError):
    """A host of the cluster does not answer any more; all that is saved can be resumed."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


def refusal(address: str, seconds: float = _ONE_TRY_SECONDS) -> str | None:
    """Why a host does not accept a connection within some seconds, a few words; None: it does."""
    try:
        with socket.create_connection(host_and_port(address), timeout=seconds):
            return None
    except ConnectionRefusedError:
        return CLOSED
    except TimeoutError:
        return "no answer"
    except socket.gaierror:
        return "unknown host name"
    except OSError as error:
        return (error.strerror or str(error)).lower()


def refusals(addresses: Sequence[str], seconds: float = _ONE_TRY_SECONDS) -> dict[str, str]:
    """The refusal of each address that has one; all are asked at once."""
    with concurrent.futures.ThreadPoolExecutor(max(len(addresses), 1)) as pool:
        found = pool.map(lambda address: refusal(address, seconds), addresses)
        return {address: why for address, why in zip(addresses, found, strict=True) if why}


def wait_for_workers(
    addresses: Sequence[str], seconds: float, waiting: Callable[[dict[str, str]], None] = lambda missing: None
) -> None:
    """Waits until all workers of a cluster accept connections.

    Args:
      addresses: of all hosts; the first is this one.
      seconds: how long to try.
      waiting: called once, with the refusals, if a worker does not answer at the first try.

    Raises:
      ClusterError: a worker does not; names all that do not.
    """
    deadline, missing, first = time.monotonic() + seconds, refusals(addresses[1:]), True
    while missing:
        if first:
            waiting(missing)
            first = False
        if time.monotonic() > deadline:
            raise ClusterError(f"device: {_listed(addresses, missing)} after {seconds:g} s; {_FIX}")
        time.sleep(_PAUSE_SECONDS)
        missing = refusals(list(missing))


_FIX = "start `lazytower worker` there and open its port to the other hosts, or raise device.connect_seconds"


def _listed(addresses: Sequence[str], missing: dict[str, str]) -> str:
    hosts = ", ".join(f"host {addresses.index(a)} at {a} ({why})" for a, why in missing.items())
    return f"{hosts} cannot be reached"


def check_free(address: str, index: int) -> None:
    """Checks that no program listens on this host's port, because TensorFlow's server would share it
    silently.

    Args:
      address: of this host in the cluster.
      index: its place there.

    Raises:
      ClusterError: one does, or the port may not be used.
    """
    port = host_and_port(address)[1]
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier run linger
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ClusterError(
                    f"device: port {port} of host {index} ({address}) is in use on this machine; end the "
                    "program that listens there, or choose another port"
                ) from None
            raise ClusterError(
                f"device: port {port} of host {index} ({address}) cannot be opened "
                f"({(error.strerror or str(error)).lower()}); choose another port"
            ) from None

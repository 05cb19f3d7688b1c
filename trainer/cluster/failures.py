"""Which host ended a run: errors of TensorFlow's runtime, translated."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from configs.sections.devices import ClusterDeviceConfig
from trainer.cluster.sockets import HostLost, refusals

_TASK = re.compile(r"/task:(\d+)")
# What a host that is gone, hangs or was restarted makes of an operation. Only if a host does not answer
# does any of them but the first mean that it is lost.
_OF_HOSTS = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)
_SAID = re.compile(
    r'(?:recvmsg:|Socket closed|ping timeout|keepalive|failed to connect|Unable to)[^\n"}]*', re.IGNORECASE
)
_OF_RESTARTED = ("context_id", "Unable to find a context", "incarnation", "Session handle")


@contextlib.contextmanager
def host_losses(device: ClusterDeviceConfig) -> Iterator[None]:
    """Raises HostLost, with the name of the host, for errors of TensorFlow that mean that one is lost."""
    try:
        yield
    except tf.errors.OpError as error:
        lost = _lost(error, device.addresses())
        if lost is None:
            raise
        raise HostLost(f"{lost}; rerun the same command to resume") from error


def _lost(error: tf.errors.OpError, addresses: list[str]) -> str | None:
    """Which host is lost and how that was noticed; None: the error means something else."""
    gone = refusals(addresses[1:])
    restarted = any(word in error.message for word in _OF_RESTARTED)
    if not (isinstance(error, tf.errors.UnavailableError | tf.errors.DeadlineExceededError) or restarted):
        if not gone or not isinstance(error, _OF_HOSTS):
            return None
    reason = _reason(error.message)
    if gone:
        address, why = next(iter(gone.items()))
        return f"host {addresses.index(address)} at {address} is lost ({why}; {reason})"
    # It accepts connections, so it hangs, or it has been restarted. The error names it, beside host 0.
    tasks = [int(task) for task in _TASK.findall(error.message) if 0 < int(task) < len(addresses)]
    if not tasks:
        return f"a host is lost ({reason})"
    index = max(set(tasks), key=tasks.count)
    how = "was restarted" if restarted else "does not answer"
    return f"host {index} at {addresses[index]} {how} ({reason})"


def _reason(message: str) -> str:
    """What the runtime says of a lost connection, cut short."""
    found = _SAID.findall(message)
    return found[-1].strip()[:200] if found else "the runtime gives no reason"

"""Watches the ports of a run's workers. TensorFlow notices that a host is gone at the next operation that
needs it alone, and the first seconds of a run, in which its step is traced, have none.

Without TensorFlow, like trainer.cluster.sockets.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from trainer.cluster.sockets import CLOSED, HostLost, refusals

_SECONDS = 1.0
"""Between two tries. A port that is closed twice in a row belongs to a process that has ended."""
_active: list["_Watch"] = []


class _Watch:
    """A thread that tries ports from `begin` until `end`."""

    def __init__(self, lost: Callable[[HostLost], None]):
        self._lost, self._ended = lost, threading.Event()

    def begin(self, addresses: Sequence[str]) -> None:
        threading.Thread(target=self._watch, args=[addresses], daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def _watch(self, addresses: Sequence[str]) -> None:
        before: set[str] = set()
        while not self._ended.wait(_SECONDS):
            # Hosts that do not answer are left to TensorFlow's keepalive: they may be slow.
            closed = {address for address, why in refusals(addresses[1:]).items() if why == CLOSED}
            if (twice := sorted(closed & before, key=addresses.index)) and not self._ended.is_set():
                host = f"host {addresses.index(twice[0])} at {twice[0]}"
                self._lost(HostLost(f"{host} is lost ({CLOSED}); rerun the same command to resume"))
                return
            before = closed


@contextlib.contextmanager
def hosts_watched(lost: Callable[[HostLost], None]) -> Iterator[None]:
    """Watches the workers that are connected within it.

    Args:
      lost: called once, in another thread, when the port of a worker is closed.
    """
    watch = _Watch(lost)
    _active.append(watch)
    try:
        yield
    finally:
        _active.remove(watch)
        watch.end()


def watch_workers(addresses: Sequence[str]) -> None:
    """Begins to watch workers, for those within `hosts_watched`; `addresses` are of all hosts, 0 first."""
    for watch in _active:
        watch.begin(addresses)

"""Stops a run cleanly on SIGTERM, SIGINT or a time limit: after the step in progress, with its state saved.

Python runs signal handlers between two of its own instructions, but training spends minutes inside one call
of TensorFlow. So the signal's number is also written to a socket (signal.set_wakeup_fd), and a thread that
reads it passes the request on; the same thread watches the time limit. A second signal ends the process at
once.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from configs.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """A request to stop; a context manager that installs and removes the signal handlers.

    Until `defer` is called there is nothing to save, and a signal raises Stopped in the main thread. From
    then on the first request calls the deferred function, from another thread, and nothing is raised. Python
    accepts signal handlers in the main thread only; elsewhere only the time limit applies.

    Args:
      max_seconds: time limit, counted from now; None: no limit.
    """

    def __init__(self, max_seconds: float | None = None):
        self._limit = max_seconds
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        # Reentrant: a signal handler may run in the main thread while that holds the lock.
        self._lock = threading.RLock()
        self._reason: str | None = None
        self._on_request: Callable[[], None] | None = None
        self._handlers: dict[int, Any] = {}
        self._thread: threading.Thread | None = None

    @property
    def reason(self) -> str | None:
        """What requested the stop: SIGTERM, SIGINT or the time limit; None if nothing has."""
        with self._lock:
            return self._reason

    def check(self) -> None:
        """Raises Stopped if a stop has been requested."""
        if self.reason:
            raise Stopped(f"stopped by {self.reason}; rerun the same command to resume")

    def defer(self, on_request: Callable[[], None]) -> None:
        """Calls `on_request` at the first request, in any thread; at once if there has been one."""
        with self._lock:
            self._on_request = on_request
            if self._reason:
                on_request()

    def __enter__(self) -> "Interrupt":
        in_main = threading.current_thread() is threading.main_thread()
        if not in_main and self._limit is None:
            return self
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._thread = threading.Thread(target=self._watch, name="interrupt", daemon=True)
        self._thread.start()
        if in_main:
            self._wakeup = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
            self._handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *unused) -> None:
        if self._thread is None:
            return
        for number, handler in self._handlers.items():
            # None: installed by something other than Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._handlers:
            signal.set_wakeup_fd(self._wakeup)
        self._sender.close()
        self._thread.join()
        self._receiver.close()

    def _handle(self, number, frame) -> None:
        """Runs in the main thread, between two Python instructions."""
        with self._lock:
            deferred = self._on_request is not None
        if not deferred:
            name = signal.Signals(number).name
            raise Stopped(f"stopped by {name} before training began; rerun the same command to start again")

    def _watch(self) -> None:
        """Runs in a thread of its own until the sender is closed."""
        signals = 0
        while True:
            try:
                self._receiver.settimeout(self._seconds_left())
                received = self._receiver.recv(64)
            except TimeoutError:
                self._request(f"the time limit of {self._limit:g} s")
                continue
            if not received:
                return
            for number in received:  # includes other signals that Python handles
                if number in SIGNALS:
                    signals += 1
                    if signals > 1:
                        os._exit(128 + number)  # the convention of shells
                    self._request(signal.Signals(number).name)

    def _seconds_left(self) -> float | None:
        """Until the time limit; None without one, or when a stop has been requested."""
        if self._deadline is None or self._reason:
            return None
        return max(self._deadline - time.monotonic(), 1e-3)

    def _request(self, reason: str) -> None:
        with self._lock:
            if self._reason is None:
                self._reason = reason
                if self._on_request is not None:
                    self._on_request()

"""Stops a run politely: SIGTERM, SIGINT and a time limit let the step in progress end and its state be saved.

Python runs signal handlers between two of its own instructions, but training spends minutes inside one call
of TensorFlow. So the signal's number also goes to a socket (signal.set_wakeup_fd), and a thread that waits
there passes the wish on; it serves the time limit too. A second signal ends the process at once.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable

from configs.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """The wish to stop; a context manager that installs and removes the signal handlers.

    Until `defer` is called there is nothing to save, and a signal raises Stopped in the main thread; from
    then on the first wish calls the deferred function, from another thread, and nothing is raised. Outside
    the main thread Python takes no handlers: there only the time limit counts.

    Args:
      max_seconds: time limit, counted from now; None: none.
    """

    def __init__(self, max_seconds: float | None = None):
        self._limit = max_seconds
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        # Reentrant: a handler may interrupt the main thread while it holds the lock.
        self._lock = threading.RLock()
        self._reason: str | None = None
        self._on_wish: Callable[[], None] | None = None
        self._handlers: dict[int, object] = {}
        self._thread: threading.Thread | None = None

    @property
    def reason(self) -> str | None:
        """What asked for the stop: SIGTERM, SIGINT or the time limit; None while nothing did."""
        with self._lock:
            return self._reason

    def check(self) -> None:
        """Raises Stopped when a stop was asked for."""
        if self.reason:
            raise Stopped(f"stopped by {self.reason}; run the same command to resume")

    def defer(self, on_wish: Callable[[], None]) -> None:
        """From now on the first wish calls `on_wish`, in any thread; at once when there was one already."""
        with self._lock:
            self._on_wish = on_wish
            if self._reason:
                on_wish()

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
        """In the main thread, between two of Python's instructions."""
        with self._lock:
            deferred = self._on_wish is not None
        if not deferred:
            name = signal.Signals(number).name
            raise Stopped(f"stopped by {name} before training began; run the same command to go on")

    def _watch(self) -> None:
        """In a thread of its own, until the sender is closed."""
        signals = 0
        while True:
            try:
                self._receiver.settimeout(self._seconds_left())
                received = self._receiver.recv(64)
            except TimeoutError:
                self._wish(f"the time limit of {self._limit:g} s")
                continue
            if not received:
                return
            for number in received:  # other signals that Python handles come here too
                if number in SIGNALS:
                    signals += 1
                    if signals > 1:
                        os._exit(128 + number)  # as shells report it
                    self._wish(signal.Signals(number).name)

    def _seconds_left(self) -> float | None:
        """Until the time limit; None when there is none, or a stop is under way."""
        if self._deadline is None or self._reason:
            return None
        return max(self._deadline - time.monotonic(), 1e-3)

    def _wish(self, reason: str) -> None:
        with self._lock:
            if self._reason is None:
                self._reason = reason
                if self._on_wish is not None:
                    self._on_wish()

"""Rehearses a cluster on one machine: the trainer's workers, a process each. Standard library only.

All find each other by TF_CONFIG, which names free ports of the loopback address. Workers are started before
each run of the trainer and stopped after it, so that all restart together, as pods do.
"""

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

from trainer.vm.log import Log

_STOP_SECONDS = 10.0  # for workers to end after SIGTERM; the trainer has saved by then
_RUN_AGAIN = 75  # the exit code of a host that another one has lost

# Starts a child with more environment variables.
Start = Callable[[dict[str, str]], "subprocess.Popen[bytes]"]


class Workers:
    """Hosts 1, 2 ... of a cluster whose host 0 is the trainer.

    Args:
      hosts: number of all hosts; with 1 there is no cluster.
      start: starts a worker.
      log: of this machine; lines of workers are marked with their number.
    """

    def __init__(self, hosts: int, start: Start, log: Log) -> None:
        self._hosts, self._start, self._log = hosts, start, log
        self._addresses: list[str] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._pumps: list[threading.Thread] = []

    def begin(self) -> dict[str, str]:
        """Starts the workers; returns the trainer's environment variables."""
        if self._hosts == 1:
            return {}
        self._addresses = free_addresses(self._hosts)
        self._children, self._pumps = [], []
        for index in range(1, self._hosts):
            child = self._start(self._environment(index))
            self._children.append(child)
            assert child.stdout is not None
            pump = threading.Thread(target=self._pump, args=(child.stdout, index), daemon=True)
            pump.start()
            self._pumps.append(pump)
        return self._environment(0)

    def failure(self) -> tuple[str, int] | None:
        """(What happened, exit code) of a worker that has ended with an error of its own, or None.

        A worker that a signal has killed is a lost host: the trainer notices that, and exits with code 75.
        """
        for index, child in enumerate(self._children, 1):
            code = child.poll()
            if code is not None and code > 0 and code != _RUN_AGAIN:
                return f"host {index} ended with exit code {code}", code
        return None

    def end(self) -> None:
        """Stops the workers, and waits for them."""
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
        until = time.monotonic() + _STOP_SECONDS
        for child in self._children:
            try:
                child.wait(max(until - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for pump in self._pumps:
            pump.join(_STOP_SECONDS)

    def _environment(self, index: int) -> dict[str, str]:
        task = {"type": "worker", "index": index}
        return {"TF_CONFIG": json.dumps({"cluster": {"worker": self._addresses}, "task": task})}

    def _pump(self, stream: BinaryIO, index: int) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            for line in stream:
                self._log.add(f"[host {index}] ".encode() + line)


def free_addresses(count: int) -> list[str]:
    """host:port of free ports, different ones because all are held until the last is known."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]

"""Sub-commands as processes of their own, none of which outlives this process.

So no command's memory, threads or signal handlers meet those of another one. The lock of the directory that
they work in is inherited: after this process has been killed, it is held until the commands that it was
running have ended too.
"""

import signal
import subprocess
from typing import Any

from configs.errors import Stopped, UserError
from configs.system.file_lock import FileLock
from configs.system.processes import bound_command, module_command
from trainer.run_lock import Lock

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STANDARD_ERROR = 2


class Children:
    """Runs sub-commands of lazytower; a context manager that passes signals on to them, and waits for them.

    Args:
      lock: of the directory that they work in.
    """

    def __init__(self, lock: Lock):
        self._inherited = (lock.fileno(),) if isinstance(lock, FileLock) else ()
        self._running: list[subprocess.Popen] = []
        self._reason: str | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Children":
        self._handlers = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *unused) -> None:
        for child in self._running if self._reason is None else ():
            child.terminate()
        for child in self._running:
            child.wait()
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def run(self, *arguments: str) -> None:
        """Runs a sub-command to its end; its output goes to standard error.

        Raises:
          Stopped: a signal ended it; what it had done is saved.
          UserError: it failed, and has printed why.
        """
        child = self.start(*arguments)
        code = child.wait()
        self._running.remove(child)
        self.check()
        if code == Stopped.exit_code:
            raise Stopped("stopped; rerun the same command to continue")
        if code < 0:
            raise UserError(
                f"`lazytower {arguments[0]}` {killed_text(code)}. Rerun the same command to continue"
            )
        if code:
            raise UserError(
                f"`lazytower {arguments[0]}` failed, see above; remove the cause, then rerun the same "
                "command to continue"
            )

    def start(self, *arguments: str, log: str | None = None) -> subprocess.Popen:
        """Starts a sub-command.

        Args:
          arguments: the sub-command and its own.
          log: local file to which its output is appended; None: standard error.

        Raises:
          Stopped: a signal has come.
        """
        self.check()
        command = bound_command(module_command("trainer.cli", *arguments), signal.SIGKILL)
        self._running = [child for child in self._running if child.returncode is None]
        if log is None:
            child = subprocess.Popen(command, stdout=_STANDARD_ERROR, pass_fds=self._inherited)
        else:
            with open(log, "ab") as file:
                child = subprocess.Popen(command, stdout=file, stderr=file, pass_fds=self._inherited)
        self._running.append(child)
        if self._reason is not None:  # the signal came while the command was being started
            child.terminate()
        return child

    def check(self) -> None:
        """Raises Stopped if a signal has come. Commands that run get it too, and save what they have done."""
        if self._reason is not None:
            raise Stopped(f"stopped by {self._reason}; rerun the same command to continue")

    def _handle(self, number: int, frame: Any) -> None:
        first, self._reason = self._reason is None, signal.Signals(number).name
        # A terminal sends SIGINT to all; a second signal would end a command before it saves.
        if first and number == signal.SIGTERM:
            for child in self._running:
                child.terminate()


def killed_text(code: int) -> str:
    """What happened to a process with a negative return code."""
    return f"was killed by {signal.Signals(-code).name}; after SIGKILL, suspect a lack of memory"

"""Commands of a day as processes of their own: one after the other, none outlives this process.

So no stage's memory, threads or signal handlers meet those of another one. The lock of the days is inherited:
after this process has been killed, it is held until the command that it was running has ended too.
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
    """Runs sub-commands of lazytower; a context manager that passes signals on to them.

    Args:
      lock: of the days.
    """

    def __init__(self, lock: Lock):
        self._inherited = (lock.fileno(),) if isinstance(lock, FileLock) else ()
        self._child: subprocess.Popen | None = None
        self._reason: str | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Children":
        self._handlers = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *unused) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def run(self, *arguments: str) -> None:
        """Runs a sub-command to its end; its output goes to standard error.

        Raises:
          Stopped: a signal ended it; what it had done is saved.
          UserError: it failed, and has printed why.
        """
        self._check()
        command = bound_command(module_command("trainer.cli", *arguments), signal.SIGKILL)
        self._child = subprocess.Popen(command, stdout=_STANDARD_ERROR, pass_fds=self._inherited)
        self._check_again()
        code = self._child.wait()
        self._child = None
        self._check()
        if code == Stopped.exit_code:
            raise Stopped("stopped; rerun the same command to continue")
        if code < 0:
            name = signal.Signals(-code).name
            raise UserError(
                f"`lazytower {arguments[0]}` was killed by {name}; after SIGKILL, suspect a lack of memory. "
                "Rerun the same command to continue"
            )
        if code:
            raise UserError(
                f"`lazytower {arguments[0]}` failed, see above; remove the cause, then rerun the same "
                "command to continue"
            )

    def _handle(self, number: int, frame: Any) -> None:
        first, self._reason = self._reason is None, signal.Signals(number).name
        # A terminal sends SIGINT to both; a second signal would end the command before it saves.
        if self._child is not None and first and number == signal.SIGTERM:
            self._child.terminate()

    def _check(self) -> None:
        if self._reason is not None:
            raise Stopped(f"stopped by {self._reason}; rerun the same command to continue")

    def _check_again(self) -> None:
        """Passes on a signal that came while the command was being started."""
        if self._reason is not None and self._child is not None:
            self._child.terminate()

"""Trains on this machine in a process of its own, which outlives the terminal."""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import time

from configs import storage
from configs.errors import UserError
from configs.processes import START_MODULE, module_command
from configs.storage import is_remote
from trainer.launchers.base import SliceState
from trainer.local_state import state_directory
from trainer.startup import vm_spec

_STOP_SECONDS = 40.0  # trainer/vm.py gives the trainer 25 to save


class Local:
    """See trainer.launchers.base.Launcher."""

    chips = 0

    def __init__(self, config, job_path: str, facts: dict):
        self._config, self._job_path, self._directory = config, job_path, facts["directory"]
        self._work = state_directory(job_path.rpartition("/")[2])

    def check(self) -> list[str]:
        """Nothing to ask."""
        return []

    def check_files(self) -> None:
        """Raises UserError: the job's own files would be in a bucket, closed to trainer/vm.py."""
        staging = self._job_path.rpartition("/")[0]
        if is_remote(staging):
            raise UserError(
                f"launch.staging: {staging} is in a bucket; launch.kind local keeps its jobs on this disk, "
                "name a directory (the run itself may be in the bucket)"
            )

    def needs_wheel(self) -> bool:
        """It runs this very installation."""
        return False

    def describe(self, attempt: int) -> list[tuple[str, str]]:
        """The command."""
        return [("command", shlex.join(self._command(attempt))), ("log", self._log(attempt))]

    def create(self, attempt: int) -> None:
        """Starts the process, unless it was started before."""
        if self._process(attempt) is not None:
            return
        os.makedirs(os.path.dirname(self._log(attempt)), exist_ok=True)
        process = subprocess.Popen(
            self._command(attempt),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=self._directory,
        )
        facts = {"host": socket.gethostname(), "pid": process.pid, "started": _started(process.pid)}
        directory = self._attempt_path(attempt)
        storage.make_directory(directory)
        storage.write_bytes(f"{directory}/process.json", json.dumps(facts).encode())

    def observe(self, attempt: int) -> SliceState:
        """Whether the process is alive. Raises UserError: it is another machine's."""
        facts = self._process(attempt)
        alive = facts is not None and _started(facts["pid"]) == facts["started"]
        return SliceState("ready" if alive else "absent")

    def delete(self, attempt: int) -> None:
        """Stops the process, which saves first, and waits for it."""
        facts = self._process(attempt)
        if facts is None:
            return
        deadline, number = time.monotonic() + _STOP_SECONDS, signal.SIGTERM
        with contextlib.suppress(ProcessLookupError):
            if self.observe(attempt).kind == "ready":
                os.kill(facts["pid"], number)
            while self.observe(attempt).kind == "ready":
                if time.monotonic() > deadline:
                    os.killpg(facts["pid"], signal.SIGKILL)
                time.sleep(0.1)

    def _command(self, attempt: int) -> list[str]:
        spec = vm_spec(self._config, self._job_path, attempt, os.path.dirname(self._log(attempt)))
        spec |= {"directory": self._directory, "start": START_MODULE}
        return module_command("trainer.vm", json.dumps(spec))

    def _log(self, attempt: int) -> str:
        return os.path.join(self._work, f"attempt-{attempt}", "log.txt")

    def _attempt_path(self, attempt: int) -> str:
        return f"{self._job_path}/attempts/{attempt:03}"

    def _process(self, attempt: int) -> dict | None:
        try:
            facts = json.loads(storage.read_bytes(f"{self._attempt_path(attempt)}/process.json"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if facts["host"] != socket.gethostname():
            raise UserError(
                f"{self._job_path}: runs on machine {facts['host']}; supervise or cancel it there"
            )
        return facts


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's words, which no later process of this number has; None:
    there is none, or it has ended and its parent has not noticed."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]

"""Trains on this machine in a process of its own, which outlives the terminal."""

import json
import os
import shlex
import socket
import subprocess

from configs.errors import UserError
from configs.system import storage
from configs.system.processes import START_MODULE, module_command
from configs.system.storage import is_remote
from trainer.launchers.base import Refused, SliceState
from trainer.launchers.local_state import state_directory
from trainer.launchers.processes import LocalProcesses, process_mark
from trainer.launchers.startup import vm_spec
from trainer.vm.program import PROCESS_MARK

_MAX_STARTS = 3  # of one attempt; a launcher may be killed between its note and the start


class Local:
    """See trainer.launchers.base.Launcher."""

    chips, slices, machine = 0, LocalProcesses, "process"
    settle_seconds = LocalProcesses.settle_seconds

    def __init__(self, config, job_path: str, facts: dict):
        self._config, self._job_path, self._directory = config, job_path, facts["directory"]
        self._work = state_directory(job_path.rpartition("/")[2])
        self._processes = LocalProcesses(job_path, {})

    def check(self) -> list[str]:
        """Nothing to ask."""
        return []

    def check_files(self) -> None:
        """Raises UserError: the job's own files would be in a bucket, closed to trainer/vm/program.py."""
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
        """Starts the process, unless it is alive. What is started is noted before.

        Raises:
          Refused: it has ended at its very start, again and again.
        """
        if self.observe(attempt).kind == "ready":
            return
        starts = self._processes.read_note(attempt).get("starts")
        starts = starts if isinstance(starts, int) else 0
        if starts >= _MAX_STARTS:
            raise Refused(f"ended {starts} times before a sign of life; its log: {self._log(attempt)}")
        os.makedirs(os.path.dirname(self._log(attempt)), exist_ok=True)
        path = self._processes.note_path(attempt)
        storage.make_directory(path.rpartition("/")[0])
        note = {"host": socket.gethostname(), "user": os.getuid(), "starts": starts + 1}
        storage.write_bytes(path, json.dumps(note).encode())
        subprocess.Popen(
            self._command(attempt),
            env={**os.environ, PROCESS_MARK: process_mark(self._job_path, attempt)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=self._directory,
        )

    def observe(self, attempt: int) -> SliceState:
        """See LocalProcesses."""
        return self._processes.observe(attempt)

    def delete(self, attempt: int) -> None:
        """See LocalProcesses."""
        self._processes.delete(attempt)

    def left(self, attempt: int) -> str:
        """See LocalProcesses."""
        return self._processes.left(attempt)

    def _command(self, attempt: int) -> list[str]:
        spec = vm_spec(self._config, self._job_path, attempt, os.path.dirname(self._log(attempt)))
        spec |= {"directory": self._directory, "start": START_MODULE}
        return module_command("trainer.vm.program", json.dumps(spec))

    def _log(self, attempt: int) -> str:
        return os.path.join(self._work, f"attempt-{attempt}", "log.txt")

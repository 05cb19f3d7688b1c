"""Trains in a process of this machine that outlives the terminal."""

import json
import os
import shlex
import socket
import subprocess
from typing import Any, ClassVar

from configs.errors import UserError
from configs.schema import RunConfig
from configs.sections.launch import LocalLaunchConfig
from configs.system import storage
from configs.system.processes import START_MODULE, module_command
from configs.system.storage import is_remote
from trainer.launchers.base import Refused, Slices
from trainer.launchers.local_state import state_directory
from trainer.launchers.processes import LocalProcesses, process_mark
from trainer.launchers.startup import vm_spec
from trainer.vm.program import PROCESS_MARK

_MAX_STARTS = 3  # of one attempt: a launcher may be killed after its note and before the start


class Local(LocalProcesses):
    """See trainer.launchers.base.Launcher."""

    slices: ClassVar[type[Slices]] = LocalProcesses
    installs_wheel: ClassVar[bool] = False  # runs this installation
    installs_packages = False
    is_here: ClassVar[bool] = True
    region = slice_name = hidden = claims = None

    def __init__(self, config: RunConfig, job_path: str, facts: dict[str, Any]) -> None:
        super().__init__(job_path, {})
        self._config, self._directory = config, facts["directory"]
        self._work = state_directory(job_path.rpartition("/")[2])

    @property
    def bill(self) -> dict[str, Any]:
        """Nothing is paid for."""
        return {"project": None, "zone": None, "chips": 0, "price_per_chip_hour": None}

    def sized(self, forecast_bytes: int | None) -> RunConfig:
        """The config: the process takes the memory that it needs."""
        return self._config

    def check(self) -> list[str]:
        """There is no service to ask."""
        return []

    def check_files(self) -> None:
        """Raises UserError: the job's directory is in a bucket; trainer/vm/program.py has no token for it."""
        staging = self._job_path.rpartition("/")[0]
        if is_remote(staging):
            raise UserError(
                f"launch.staging: {staging} is in a bucket, but launch.kind local keeps jobs on this disk; "
                "name a local directory (output.path may stay in the bucket)"
            )

    def describe(self, attempt: int) -> list[tuple[str, str]]:
        """The command and the file of its log."""
        return [("command", shlex.join(self._command(attempt))), ("log", self._log(attempt))]

    def create(self, attempt: int) -> None:
        """Starts the process, unless it is alive; writes a note of it first.

        Raises:
          Refused: it has ended before its first heartbeat too often.
        """
        if self.observe(attempt).kind == "ready":
            return
        starts = self.read_note(attempt).get("starts")
        starts = starts if isinstance(starts, int) else 0
        if starts >= _MAX_STARTS:
            raise Refused(f"ended {starts} times before its first heartbeat; read {self._log(attempt)}")
        os.makedirs(os.path.dirname(self._log(attempt)), exist_ok=True)
        path = self.note_path(attempt)
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

    def _command(self, attempt: int) -> list[str]:
        spec = vm_spec(self._config, self._job_path, attempt, os.path.dirname(self._log(attempt)))
        launch = self._config.launch
        hosts = launch.hosts if isinstance(launch, LocalLaunchConfig) else 1
        spec |= {"directory": self._directory, "start": START_MODULE, "hosts": hosts}
        spec["work_as"] = ["worker", "--config", f"{self._job_path}/config.yaml"]
        return module_command("trainer.vm", json.dumps(spec))

    def _log(self, attempt: int) -> str:
        return os.path.join(self._work, f"attempt-{attempt}", "log.txt")

"""Processes of a local job, found by a mark in their environment that all their children inherit.

A file of process ids would miss what a launcher started before it was killed, and children that outlive the
noted process.
"""

import contextlib
import json
import os
import signal
import socket
import time
from typing import Any, ClassVar, NamedTuple

from absl import logging

from configs.errors import UserError
from configs.system import storage
from trainer.launchers.base import SliceState, Unreachable
from trainer.vm.log import JobFiles
from trainer.vm.program import PROCESS_MARK

_STOP_SECONDS = 40.0  # trainer/vm/program.py gives the trainer 25 to save
_GIVE_UP_SECONDS = 60.0  # a process that survives SIGKILL for so long hangs in the kernel
_LOOK_SECONDS = 0.1


class Process(NamedTuple):
    """A living process of a job."""

    pid: int
    attempt: int
    is_machine: bool
    """Whether it is the job's trainer/vm/program.py, not one of its children."""


def process_mark(job_path: str, attempt: int, is_machine: bool = True) -> str:
    """Value of the environment variable PROCESS_MARK."""
    return f"{'machine' if is_machine else 'child'} {attempt} {job_path}"


def job_processes(job_path: str) -> list[Process]:
    """Living processes of a job, of all attempts, that this user may inspect."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        mark = _mark(f"/proc/{name}/environ")
        kind, _, rest = mark.partition(" ")
        attempt, _, job = rest.partition(" ")
        if job == job_path and attempt.isdigit():
            found.append(Process(int(name), int(attempt), kind == "machine"))
    return found


def _mark(path: str) -> str:
    """The mark in an environment; "" when there is none, or the file is not readable."""
    try:
        with open(path, "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:  # ended meanwhile, or another user's
        return ""
    start = f"{PROCESS_MARK}=".encode()
    return next((os.fsdecode(v.removeprefix(start)) for v in variables if v.startswith(start)), "")


class LocalProcesses:
    """See trainer.launchers.base.Slices."""

    noun: ClassVar[str] = "process"
    list_command: ClassVar[str] = "ps -ef"
    # A process is visible as soon as it is started, and no request outlives its sender.
    settle_seconds = 0.0

    def __init__(self, job_path: str, launch: dict[str, Any]) -> None:
        self._job_path = job_path

    def observe(self, attempt: int) -> SliceState:
        """Whether the process is alive. Raises UserError: it belongs to another machine or user."""
        self.check_is_here(attempt)
        found = job_processes(self._job_path)
        if any(process.is_machine and process.attempt == attempt for process in found):
            return SliceState("ready")
        if found:
            pids = ", ".join(str(process.pid) for process in found)
            return SliceState("lost", f"the job's process is gone, but its children are left (pid {pids})")
        return SliceState("absent", "the job's process is gone")

    def delete(self, attempt: int) -> None:
        """Stops all processes of the job, which save first, and waits for them.

        Raises:
          Unreachable: one survives SIGKILL.
        """
        self.check_is_here(attempt)
        began, asked = time.monotonic(), set()
        while found := job_processes(self._job_path):
            seconds = time.monotonic() - began
            if seconds > _GIVE_UP_SECONDS:
                pids = ", ".join(str(process.pid) for process in found)
                raise Unreachable(f"processes survive SIGKILL: pid {pids}")
            # The machine's process ends its children itself; without it they are signalled directly.
            machines = [process for process in found if process.is_machine]
            for process in found if seconds > _STOP_SECONDS else machines or found:
                if seconds > _STOP_SECONDS or process.pid not in asked:
                    number = signal.SIGKILL if seconds > _STOP_SECONDS else signal.SIGTERM
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, number)
                    asked.add(process.pid)
            time.sleep(_LOOK_SECONDS)

    def left(self, attempt: int) -> str:
        """The processes, with the command that ends them."""
        pids = " ".join(str(process.pid) for process in job_processes(self._job_path))
        ending = f"`kill {pids}` ends them" if pids else "none is visible from here"
        return f"processes of {self._job_path} may be left; {ending}"

    def report(self, attempt: int, files: JobFiles) -> None:
        """Nothing: the process writes the job's files."""

    def check_is_here(self, attempt: int) -> None:
        """Raises UserError: the attempt was started on another machine, or by another user."""
        note = self.read_note(attempt)
        host, user = note.get("host"), note.get("user", os.getuid())
        if host is not None and host != socket.gethostname():
            raise UserError(f"{self._job_path}: the job runs on machine {host}; supervise or cancel it there")
        if user != os.getuid() and os.getuid() != 0:
            raise UserError(
                f"{self._job_path}: the job runs as user {user}; supervise or cancel it as that user"
            )

    def read_note(self, attempt: int) -> dict[str, Any]:
        """What was noted of an attempt before its start; {} when there is no note, or a torn one."""
        path = self.note_path(attempt)
        try:
            note = json.loads(storage.read_bytes(path))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError as error:
            logging.warning("%s: unreadable (%s); using the processes that are alive", path, error)
            return {}
        return note if isinstance(note, dict) else {}

    def note_path(self, attempt: int) -> str:
        """File that the note is in."""
        return f"{self._job_path}/attempts/{attempt:03}/process.json"

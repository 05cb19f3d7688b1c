"""A sweep's trials as jobs whose records are real, and whose machines are those of fake_trials.py."""

import pathlib
import subprocess
from unittest import mock

from configs.load import load_config
from configs.schema import RunConfig
from tests.support.fake_trials import FakeTrial, FakeTrials, swept
from trainer.jobs import stage
from trainer.jobs.record import FINAL, JobRecord
from trainer.sweep import submitted
from trainer.sweep.results import SweepResult


class FakeJobs(FakeTrials):
    """Jobs go on while the sweep is dead: up to `alone` looks at each before it is there again.

    Args:
      codes: exit codes by trial, in turn, of jobs that fail after half of their run.
      diverged: trials whose loss is not finite.

    Attributes:
      refused: by trial, errors of its checks, in turn.
      cancelled: jobs that `lazytower jobs cancel` was called for, in order.
      failing_cancels: how many of those calls fail at first.
      supervisors: how often a supervisor was started, by job.
      mortal: whether supervisors die as soon as they are there.
    """

    def __init__(self, codes: dict[int, list[int]] | None = None, diverged: tuple[int, ...] = ()):
        super().__init__(codes, diverged)
        self.jobs: dict[str, FakeTrial] = {}
        self.refused: dict[int, list[Exception]] = {}
        self.cancelled: list[str] = []
        self.supervisors: dict[str, int] = {}
        self.failing_cancels, self.mortal, self.alone = 0, False, 0

    def __call__(self, lock) -> "FakeJobs":
        self.kill_at, kill_at = None, self.kill_at
        for path in self.jobs:
            for _ in range(self.alone):
                self.look(path)
        self.kill_at = kill_at
        super().__call__(lock)
        return self

    def check_all(self, config: RunConfig, is_verified: bool = False) -> tuple[RunConfig, list[str]]:
        """See trainer.jobs.checks."""
        number = int(config.name.rpartition("-")[2])
        self.done.append(("check", f"{config.name}{' again' if is_verified else ''}"))
        if errors := self.refused.get(number):
            raise errors.pop(0)
        return config, []

    def stage(self, config: RunConfig) -> str:
        """See trainer.jobs.stage."""
        self.event()
        path = stage.stage(config)
        self.done.append(("submit", config.name))
        self.event()
        return path

    def start_supervisor(self, path: str) -> tuple["FakeSupervisor", str]:
        """See trainer.jobs.stage."""
        self.supervisors[path] = self.supervisors.get(path, 0) + 1
        if path not in self.jobs:
            self.jobs[path] = FakeTrial(self, load_config(f"{path}/config.yaml"))
        return FakeSupervisor(self, path), "log"

    def look(self, path: str) -> None:
        """A part of a job's run, and what a supervisor records of it."""
        record = JobRecord(path)
        if (job := record.state()).state in FINAL or not pathlib.Path(path).exists():
            return
        if job.state == "submitted":
            record.append("running", 1)
        code = self.jobs[path].poll()
        if job.state == "stopping":
            self._alive.discard(self.jobs[path]._number)
            record.append(job.outcome, 1, job.reason)
        elif code is not None:
            end = ("succeeded", "") if code == 0 else ("failed", f"training ended with exit code {code}")
            record.append("stopping", 1, end[1], outcome=end[0], exit_code=code)
            record.append(*end[:1], 1, end[1])

    def start(self, command: str, *arguments: str, log: str | None = None) -> subprocess.Popen:
        """Only cancels."""
        action, path = arguments
        assert (command, action, log) == ("jobs", "cancel", None)
        self.event()
        self.cancelled.append(path)
        if self.failing_cancels:
            self.failing_cancels -= 1
            return mock.Mock(poll=lambda: 2)
        cancel_by_hand(path, is_over=False)
        self.event()
        return mock.Mock(poll=lambda: None)


class FakeSupervisor:
    """A process that brings a job on whenever it is looked at."""

    def __init__(self, jobs: FakeJobs, path: str):
        self._jobs, self._path = jobs, path

    def poll(self) -> int | None:
        """None: it is alive."""
        self._jobs.look(self._path)
        return 1 if self._jobs.mortal else None


def cancel_by_hand(path: str, is_over: bool = True) -> None:
    """What `lazytower jobs cancel` records: at once, and at its end."""
    record = JobRecord(path)
    if record.state().state in (*FINAL, "stopping"):
        return
    record.append("stopping", 1, "cancelled by the user", outcome="cancelled")
    if is_over:
        record.append("cancelled", 1, "cancelled by the user")


def submitted_sweep(
    root: pathlib.Path, jobs: FakeJobs, at_once: int = 1, sweep: dict | None = None, **base
) -> SweepResult:
    """Runs a sweep of jobs."""
    names = {name: getattr(jobs, name) for name in ("check_all", "stage", "start_supervisor")}
    with mock.patch.multiple(submitted, **names, _PAUSES=(0.0,), _CANCEL_SECONDS=0.0, _SUPERVISE_SECONDS=0.0):
        return swept(root, jobs, at_once, sweep, is_submitted=True, **base)

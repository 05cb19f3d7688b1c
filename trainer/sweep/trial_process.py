"""What runs a sweep's trials: an interface, and processes of this machine."""

from typing import Protocol

from configs.errors import UserError
from configs.schema import RunConfig
from trainer.daily.children import killed_text
from trainer.jobs.output_claim import last_job
from trainer.jobs.record import FINAL
from trainer.sweep.trial_run import TrialRun


class TrialProcess(Protocol):
    """A trial that runs."""

    def poll(self) -> int | None:
        """The trainer's exit code, negative after a signal that may be of this machine alone; None: it
        runs."""

    def terminate(self) -> None:
        """Asks it to save and end."""

    def failure(self, code: int) -> str:
        """Why it ended with this exit code, in words."""


class Command(Protocol):
    """A sub-command that runs, as subprocess.Popen."""

    def poll(self) -> int | None:
        """Its exit code; None: it runs."""

    def terminate(self) -> None:
        """Asks it to end."""


class Runner(Protocol):
    """What runs sub-commands, as trainer.daily.children.Children."""

    def run(self, *arguments: str) -> None:
        """Runs one to its end."""

    def start(self, *arguments: str, log: str | None = None) -> Command:
        """Starts one."""

    def check(self) -> None:
        """Raises Stopped if the sweep is to end."""


class TrialStarter(Protocol):
    """Starts a sweep's trials.

    Args:
      runner: of sub-commands.
    """

    def __init__(self, runner: Runner) -> None: ...

    @staticmethod
    def shares_device(config: RunConfig) -> bool:
        """Whether trials at the same time would need the same device."""

    @staticmethod
    def check_place(config: RunConfig) -> None:
        """Checks where a trial reads and writes, before anything is written. Raises ConfigError."""

    def check(self, config: RunConfig) -> None:
        """Checks whether a trial can run, before any is begun. Raises UserError."""

    def found(self, run: TrialRun) -> TrialProcess | None:
        """What still runs of a trial that an earlier process of the sweep has begun, or has ended without
        being seen; None: it is to be started.

        Raises:
          UserError: it runs in another way than this sweep runs trials.
        """

    def start(self, run: TrialRun) -> TrialProcess:
        """Starts a trial, or continues it from its checkpoint.

        Raises:
          ConfigError: this trial cannot run.
          UserError: none can.
          Stopped: a signal has come.
        """

    def leave(self) -> None:
        """Says what goes on after the sweep has ended early."""


class LocalTrial:
    """A trial in a process of this machine.

    Args:
      process: of `lazytower train`.
      log: of its output; None: standard error.
    """

    def __init__(self, process: Command, log: str | None) -> None:
        self._process, self._log = process, log

    def poll(self) -> int | None:
        """See TrialProcess."""
        return self._process.poll()

    def terminate(self) -> None:
        """See TrialProcess."""
        self._process.terminate()

    def failure(self, code: int) -> str:
        """See TrialProcess."""
        if code < 0:
            return killed_text(code)
        return f"exit code {code}{f', see {self._log}' if self._log else ''}"


class LocalTrials:
    """Trials as processes of this machine, none of which outlives the sweep. See TrialStarter."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    @staticmethod
    def shares_device(config: RunConfig) -> bool:
        """See TrialStarter: only processors can be shared."""
        return config.device.kind != "cpu"

    @staticmethod
    def check_place(config: RunConfig) -> None:
        """Any will do."""

    def check(self, config: RunConfig) -> None:
        """`lazytower train` does."""

    def found(self, run: TrialRun) -> TrialProcess | None:
        """Nothing, as soon as the sweep's lock is free."""
        job = last_job(run.path, run.config.jobs_path)
        if job is not None and job.state().state not in FINAL:
            raise UserError(
                f"{run.path}: trains as job {job.id}; rerun with --submit, or end it first: `lazytower jobs "
                f"cancel {job.path}`"
            )
        return None

    def start(self, run: TrialRun) -> TrialProcess:
        """See TrialStarter."""
        return LocalTrial(self._runner.start("train", "--config", run.config_file, log=run.log), run.log)

    def leave(self) -> None:
        """Nothing goes on."""

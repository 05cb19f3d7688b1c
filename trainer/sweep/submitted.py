"""A sweep's trials as jobs, as `lazytower submit` makes them.

A job has a machine, a record and a supervisor of its own (trainer/jobs/), so it outlives the sweep. The same
command, run again, finds it by its record. The record's last state is also all that the sweep waits for:
preemptions are the supervisor's.
"""

import itertools
import math
import time

from absl import logging

from configs.errors import ConfigError, Stopped, UserError
from configs.schema import RunConfig
from configs.sections.launch import LocalLaunchConfig
from trainer.jobs.checks import check_all, planned_launcher
from trainer.jobs.output_claim import last_job
from trainer.jobs.record import FINAL, JobRecord, JobState
from trainer.jobs.stage import stage, start_supervisor
from trainer.jobs.supervise import is_passing
from trainer.sweep.trial_process import Command, Runner, TrialProcess
from trainer.sweep.trial_run import TrialRun

_CANCELLED = 130  # as `lazytower jobs wait`
_PAUSES = (1.0, 5.0, 15.0, 30.0, 60.0)  # between tries to submit while a service does not answer
_SUPERVISE_SECONDS = 300.0  # between two supervisors of a job; one too many costs a second of a core
_CANCEL_SECONDS = 60.0  # between two tries to cancel a job


class SubmittedTrial:
    """A job that has not been seen to end. See TrialProcess.

    Args:
      record: of the job.
      runner: of sub-commands.
    """

    def __init__(self, record: JobRecord, runner: Runner) -> None:
        self._record, self._runner = record, runner
        self._job = record.state()
        self._supervisor: Command | None = None
        self._cancelling: Command | None = None
        self._supervised = self._cancelled = -math.inf  # when, last
        self._is_unwanted = False
        if not self.is_over:
            self._supervise()

    @property
    def is_over(self) -> bool:
        """Whether the job was last seen to have ended."""
        return self._job.state in FINAL

    @property
    def text(self) -> str:
        """The job and its state."""
        return f"{self._record.id} ({self._job.state})"

    def poll(self) -> int | None:
        """The trainer's exit code once no machine is left; 130 of a job that was cancelled."""
        try:
            self._job = self._record.state()
            if not self.is_over:
                self._keep_on()
        except Exception as error:
            if not is_passing(error):
                raise
            logging.warning("job %s: %s; looking again", self._record.id, " ".join(str(error).split()))
            return None
        return self._code() if self.is_over else None

    def _keep_on(self) -> None:
        """Sees to it that the job has a supervisor, and is cancelled if it is not wanted any more."""
        if self._supervisor is None or self._supervisor.poll() is not None:
            if self._record.is_deleted():
                self._job = JobState("failed", reason="its directory was deleted")
                return
            if time.monotonic() > self._supervised + _SUPERVISE_SECONDS:
                self._supervise()
        if self._is_unwanted:
            self._cancel()

    def _supervise(self) -> None:
        self._supervisor, _ = start_supervisor(self._record.path)
        self._supervised = time.monotonic()

    def _code(self) -> int:
        if self._job.state == "succeeded":
            return 0
        if self._job.state == "cancelled":
            return _CANCELLED
        code = self._job.exit_code or 1
        # A job whose trainer has stopped and saved has failed all the same: at launch.max_seconds.
        return 1 if code == Stopped.exit_code else code

    def terminate(self) -> None:
        """Cancels the job, by `lazytower jobs cancel`, until no machine of it is left."""
        logging.info("cancelling job %s", self._record.id)
        self._is_unwanted = True
        self._cancel()

    def _cancel(self) -> None:
        if self._cancelling is not None and self._cancelling.poll() is None:
            return
        if time.monotonic() > self._cancelled + _CANCEL_SECONDS:
            self._cancelling = self._runner.start("jobs", "cancel", self._record.path)
            self._cancelled = time.monotonic()

    def failure(self, code: int) -> str:
        """The job's own reason, and its directory."""
        return f"{self._job.reason or self._job.state} (job {self._record.path})"


class SubmittedTrials:
    """Trials as jobs. See TrialStarter."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._trials: list[SubmittedTrial] = []

    @staticmethod
    def shares_device(config: RunConfig) -> bool:
        """See TrialStarter: jobs of other launchers than the local one have machines of their own."""
        device, launch = config.device, config.launch
        if device.kind == "cpu":
            return False
        if isinstance(launch, LocalLaunchConfig):
            return launch.hosts == 1
        return device.is_named_tpu or device.kind == "cluster" and device.hosts is not None

    @staticmethod
    def check_place(config: RunConfig) -> None:
        """See TrialStarter: also that this machine can read what trials write."""
        launcher = planned_launcher(config)
        try:
            launcher.check_files()
        except UserError as error:
            where = " (trials are written below the sweep's output)"
            raise ConfigError(f"{error}{where if str(error).startswith('output.') else ''}") from None
        for key, place in (("dataset.path", launcher.hidden), ("output", launcher.claims)):
            if place is not None:
                path = config.dataset.path if key == "dataset.path" else config.output.path
                raise ConfigError(
                    f"{key}: {path} cannot be read here, but a sweep reads the dataset and what its trials "
                    "write; mount the volume on this machine, or use gs://"
                )

    def check(self, config: RunConfig) -> None:
        """As `lazytower submit` does."""
        try:
            _, warnings = check_all(config)
        except UserError:
            self._runner.check()  # a signal from the terminal ends what the checks have started
            raise
        for warning in warnings:
            logging.warning("%s", warning)

    def found(self, run: TrialRun) -> TrialProcess | None:
        """The trial's job, supervised if it has not ended; None: there is none, or it was cancelled."""
        record = last_job(run.path, run.config.jobs_path)
        if record is None or record.state().state == "cancelled":
            return None
        trial = SubmittedTrial(record, self._runner)
        logging.info("%s: continuing job %s", run.config.name, trial.text)
        self._trials.append(trial)
        return trial

    def start(self, run: TrialRun) -> TrialProcess:
        """See TrialStarter."""
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            try:
                # Also of the last try, which may have got that far.
                return self.found(run) or self._submitted(run)
            except Exception as error:
                self._runner.check()
                if not is_passing(error):
                    raise
                logging.warning("%s: %s; trying again", run.config.name, " ".join(str(error).split()))
            self._pause(pause)
        raise AssertionError("there is always another pause")

    def _submitted(self, run: TrialRun) -> TrialProcess:
        try:
            config, _ = check_all(run.config, is_verified=True)
        except UserError as error:
            if is_passing(error):
                raise
            self._runner.check()
            raise ConfigError(str(error)) from None
        record = JobRecord(stage(config))
        trial = SubmittedTrial(record, self._runner)
        logging.info("%s: job %s", run.config.name, record.path)
        self._trials.append(trial)
        return trial

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._runner.check()
            time.sleep(0.1)

    def leave(self) -> None:
        """Names the jobs that go on."""
        left = [trial.text for trial in self._trials if not trial.is_over]
        if left:
            logging.warning(
                "jobs go on without the sweep: %s; rerun the same command to follow them again, or end each "
                "with `lazytower jobs cancel ID`",
                ", ".join(left),
            )

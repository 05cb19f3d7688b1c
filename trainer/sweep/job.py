"""`lazytower sweep`: trials one after the other or several at once, each a training run in a process or job.

What is known survives in three places: the study (trainer/sweep/study.py) holds the values and results of
trials, each trial's run directory its checkpoints and evaluations, and sweep.json what the sweep is. A trial
that was running when the sweep was killed is in the study; it is continued first, from its checkpoint.
"""

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import logging
from optuna.trial import FrozenTrial, TrialState

from configs.errors import ConfigError, Stopped, UserError
from configs.load import dump_config
from configs.manifest import load_dataset
from configs.rules.best import known_metrics
from configs.sections.search.sweep import SweepConfig
from configs.system import storage
from trainer.checkpoints.identity import first_difference
from trainer.daily.children import Children, killed_text
from trainer.data.checks import check_dataset
from trainer.run_lock import Lock, lock_job
from trainer.sweep.results import Outcome, SweepResult, outcome_of, write_results
from trainer.sweep.space import Space, chosen_values, values_text
from trainer.sweep.study import TrialStudy, without_password
from trainer.sweep.submitted import SubmittedTrials
from trainer.sweep.trial_process import LocalTrials, Runner, TrialProcess, TrialStarter
from trainer.sweep.trial_run import TrialRun

IDENTITY_FILE = "sweep.json"
_POLL_SECONDS = {False: 0.2, True: 5.0}
"""Between two looks at what trials have written, by whether they are in an object store."""
_MOST_KILLS = 3  # of one trial; it may need more memory than there is
_KILLS = "kills"


class _Running(NamedTuple):
    trial: FrozenTrial
    run: TrialRun
    process: TrialProcess


def run_sweep(
    space: Space,
    sweep: SweepConfig,
    origin: str,
    jobs: int = 1,
    is_submitted: bool = False,
    runner: Callable[[Lock], Any] = Children,
) -> SweepResult:
    """Runs all trials that are left, evaluates the best one on test, and writes the results.

    Args:
      space: of the base config.
      sweep: the document.
      origin: its file, for messages.
      jobs: trials at once.
      is_submitted: whether trials are jobs, by the config's launch section, instead of processes.
      runner: makes a context manager with a Runner from the lock of the sweep's directory.

    Raises:
      ConfigError: the config, the space or the storage cannot be used.
      UserError: too many trials failed, or another process runs this sweep.
      Stopped: a signal ended it. After either, the same command continues.
    """
    config = space.base
    if config.evaluate.best is None:
        raise ConfigError(
            "evaluate.best: missing, so there is nothing to compare trials by; set evaluate.best.metric and "
            "evaluate.every_steps"
        )
    starter: type[TrialStarter] = SubmittedTrials if is_submitted else LocalTrials
    if jobs > 1 and starter.shares_device(config):
        raise ConfigError(
            f"--jobs {jobs}: device.kind {config.device.kind} runs one trial at a time here; use 1, or "
            "--submit with a launch.kind that gives each trial machines of its own"
        )
    space.check(origin)
    starter.check_place(space.trial_config(0, {}))
    lock = lock_job(sweep.output, "output", "a sweep")
    try:
        identity = _checked_identity(space, sweep)
        study = TrialStudy(sweep, known_metrics(config)[config.evaluate.best.metric])
        storage.write_bytes(storage.join(sweep.output, IDENTITY_FILE), identity)
        with runner(lock) as children:
            job = _SweepJob(space, sweep, study, children, lock, starter(children))
            job.prepare()
            job.run(jobs)
            return job.finish()
    finally:
        lock.close()


def _checked_identity(space: Space, sweep: SweepConfig) -> bytes:
    """What the sweep is, as JSON. Raises ConfigError: its directory is that of another one."""
    path = storage.join(sweep.output, IDENTITY_FILE)
    base = space.base.model_dump(mode="json")
    for key in ("name", "output", "launch", "day", "export", "device"):
        base.pop(key)
    own = sweep.model_dump(mode="json", exclude={"trials", "failures", "output"})
    own["storage"] = without_password(sweep.storage or "")
    identity = json.dumps({"config": base, "sweep": own}, indent=1, ensure_ascii=False).encode()
    try:
        before = json.loads(storage.read_bytes(path))
    except FileNotFoundError:
        return identity
    except ValueError:
        raise ConfigError(f"{path}: is damaged; restore it, or choose another output") from None
    if difference := first_difference(before, json.loads(identity)):
        key, old, new = difference
        raise ConfigError(
            f"{sweep.output}: this sweep was begun with {key} {old}, and now it is {new}; restore it, or "
            "choose another output"
        )
    return identity


class _SweepJob:
    """A sweep whose directory is locked.

    Args:
      space: of the base config.
      sweep: the document.
      study: its trials.
      children: runs sub-commands.
      lock: of the directory.
      trials: starts trials.
    """

    def __init__(
        self,
        space: Space,
        sweep: SweepConfig,
        study: TrialStudy,
        children: Runner,
        lock: Lock,
        trials: TrialStarter,
    ):
        self._space, self._sweep, self._study = space, sweep, study
        self._children, self._lock, self._trials = children, lock, trials
        self._running: list[_Running] = []
        self._stopping: set[int] = set()
        self._seen: dict[int, list[tuple[int, float]]] = {}
        self._failed_in_a_row = 0
        assert space.base.evaluate.best is not None
        self._metric = space.base.evaluate.best.metric

    def prepare(self) -> None:
        """Prepares the dataset of all trials, unless it is there, and checks whether a trial can run."""
        config = self._space.base
        if not storage.exists(storage.join(config.dataset.path, "dataset.json")):
            path = storage.join(self._sweep.output, "base.yaml")
            storage.write_bytes(path, dump_config(config).encode())
            self._children.run("prepare", "--config", path)
        check_dataset(config, load_dataset(config.dataset.path))
        if self._begun() or self._wants_more():
            # The next one, with the base config's own values.
            self._trials.check(self._space.trial_config(len(self._study.trials()), {}))

    def run(self, jobs: int) -> None:
        """Runs trials until there are enough."""
        try:
            self._run(jobs)
        except BaseException:
            self._trials.leave()
            raise

    def _begun(self) -> list[FrozenTrial]:
        return [trial for trial in self._study.trials() if trial.state == TrialState.RUNNING]

    def _run(self, jobs: int) -> None:
        left = self._begun()
        if left:
            logging.info("continuing trials %s first", ", ".join(str(trial.number) for trial in left))
        # All that run anyway, whatever `jobs` is now.
        left = [trial for trial in left if not self._is_taken_up(trial)]
        while True:
            while len(self._running) < jobs and (left or self._wants_more()):
                self._start(left.pop(0) if left else self._study.begin())
            if not self._running:
                return
            ended = [one for one in list(self._running) if self._has_ended(one)]
            if not ended:
                time.sleep(_POLL_SECONDS[storage.is_remote(self._sweep.output)])

    def _wants_more(self) -> bool:
        trials = self._study.trials()
        if len(trials) >= self._sweep.combinations:
            return False
        return sum(trial.state != TrialState.FAIL for trial in trials) < self._sweep.trials

    def _run_of(self, trial: FrozenTrial) -> TrialRun:
        """Raises ConfigError: of values that are valid one by one."""
        return TrialRun(self._space.trial_config(trial.number, chosen_values(self._sweep, trial.params)))

    def _is_taken_up(self, trial: FrozenTrial) -> bool:
        """Whether a trial goes on by itself, or has ended unseen, so that it is not to be started."""
        try:
            run = self._run_of(trial)
        except ConfigError:
            return False
        process = self._trials.found(run)
        if process is not None:
            self._running.append(_Running(trial, run, process))
        return process is not None

    def _start(self, trial: FrozenTrial) -> None:
        """Starts or continues a trial, unless the pruner stops it by what is known already."""
        self._children.check()
        self._lock.check()
        try:
            run = self._run_of(trial)
        except ConfigError as error:
            self._fail(trial, str(error))
            return
        run.write()
        if self._is_stopped(trial, run):
            self._end(trial, run, is_pruned=True)
            return
        logging.info("trial %d: %s", trial.number, values_text(chosen_values(self._sweep, trial.params)))
        try:
            process = self._trials.start(run)
        except ConfigError as error:
            self._fail(trial, str(error))
            return
        self._running.append(_Running(trial, run, process))

    def _has_ended(self, one: _Running) -> bool:
        """Looks at a trial that runs: stops it if it is bad, enters its result if it has ended."""
        trial, run, process = one
        self._children.check()
        code = process.poll()
        is_pruned = self._is_stopped(trial, run)
        if code is None:
            if is_pruned and trial.number not in self._stopping:
                self._stopping.add(trial.number)
                process.terminate()
            return False
        self._running.remove(one)
        self._stopping.discard(trial.number)
        self._children.check()
        self._lock.check()
        if is_pruned or (code == UserError.exit_code and run.has_diverged()):
            self._end(trial, run, is_pruned=True)
        elif code == 0:
            self._end(trial, run, is_pruned=False)
        elif code == Stopped.exit_code:
            raise Stopped(f"trial {trial.number} was stopped; rerun the same command to continue")
        elif code < 0 and self._may_continue(trial):
            logging.warning("trial %d %s; it is continued", trial.number, killed_text(code))
            self._start(trial)
        else:
            self._fail(trial, process.failure(code))
        return True

    def _may_continue(self, trial: FrozenTrial) -> bool:
        known = self._study.trials()[trial.number].user_attrs
        kills = 1 + int(known.get(_KILLS, 0))
        self._study.note(trial, _KILLS, kills)
        return kills < _MOST_KILLS

    def _is_stopped(self, trial: FrozenTrial, run: TrialRun) -> bool:
        """Whether the pruner stops a trial at one of its evaluations so far."""
        curve = run.curve()
        if not curve or self._seen.get(trial.number) == curve:
            return trial.number in self._stopping
        self._seen[trial.number] = curve
        return self._study.stops_at(trial, curve) is not None

    def _end(self, trial: FrozenTrial, run: TrialRun, is_pruned: bool) -> None:
        record = run.record()
        best = record.best if record else None
        self._study.note(trial, "steps", run.steps())
        if is_pruned:
            self._study.prune(trial)
        elif best is None:
            self._fail(trial, f"{self._metric} was undefined at each evaluation")
            return
        else:
            self._study.note(trial, "best_step", best.step)
            self._study.complete(trial, best.value)
        self._failed_in_a_row = 0
        self._report(trial)

    def _fail(self, trial: FrozenTrial, reason: str) -> None:
        self._study.note(trial, "reason", reason)
        self._study.fail(trial)
        self._failed_in_a_row += 1
        logging.warning("trial %d failed: %s", trial.number, reason)
        if self._failed_in_a_row >= self._sweep.failures:
            raise UserError(
                f"the last {self._failed_in_a_row} trials failed, number {trial.number}: {reason}; remove "
                "the cause, then rerun the same command to continue"
            )

    def _report(self, trial: FrozenTrial) -> None:
        """Logs a trial's result, and writes the table."""
        outcomes = self._outcomes()
        write_results(self._sweep, self._metric, outcomes)
        mine = next(one for one in outcomes if one.number == trial.number)
        value = "undefined" if mine.value is None else f"{mine.value:.4f}"
        logging.info(
            "trial %d: %s, %s %s after %s steps; the best is trial %d",
            *(mine.number, mine.state, self._metric, value, mine.steps, outcomes[0].number),
        )

    def _outcomes(self) -> list[Outcome]:
        """Of all trials, the best ones first."""
        found = [outcome_of(self._sweep, trial) for trial in self._study.trials()]
        return sorted(found, key=lambda one: one.order(self._study.sign))

    def finish(self) -> SweepResult:
        """Evaluates the best trial on test, and writes all results."""
        outcomes = self._outcomes()
        complete = [one for one in outcomes if one.state == "complete"]
        if not complete:
            raise UserError(f"{self._sweep.output}: no trial is complete; raise trials, or widen the space")
        best = complete[0]
        config = self._space.trial_config(best.number, best.values)
        figures = self._test_figures(TrialRun(config))
        return write_results(
            self._sweep, self._metric, outcomes, self._study.importance(), (best, config), figures
        )

    def _test_figures(self, run: TrialRun) -> dict[str, Any] | None:
        """What `lazytower evaluate` finds; None: test has no rows."""
        if not load_dataset(run.config.dataset.path).splits["test"].rows:
            return None
        path, record = storage.join(run.path, "evaluate-test.json"), run.record()
        wanted = record.best.step if record and record.best else None
        for _ in range(2):
            try:
                found: dict[str, Any] = json.loads(storage.read_bytes(path))
            except (FileNotFoundError, ValueError):
                found = {}
            if found.get("step") == wanted:
                return found
            self._children.run("evaluate", "--config", run.config_file, "--split", "test")
        return found

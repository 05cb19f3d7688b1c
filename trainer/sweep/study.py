"""The Optuna study of a sweep: what it has tried, what it tries next, and which trial it stops.

Optuna draws a trial's values one by one, and its pruners note what they have seen, so a process that is
killed in between would leave half a trial. Both therefore happen in a copy of the study in memory, which has
a sampler with a seed of its own for each trial. The result is stored at once: a sweep that is killed and
rerun takes the same decisions as an undisturbed one.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from configs.errors import ConfigError
from configs.sections.search.sweep import RangeConfig, SweepConfig
from configs.splitmix import hash_ids
from configs.system import storage
from configs.system.terminal import bounded
from trainer.sweep.space import grid_of, stored
from trainer.sweep.trial_run import WHOLE

DATABASE = "study.db"
"""File of SQLite in the sweep's directory."""
_OUTPUT = "output"  # attribute of the study
_DRAWS = 20  # before values are drawn at random, if those of the sampler have all been tried
_MOST_DRAWS = 400


class TrialStudy:
    """The trials of a sweep in their storage; for one process at a time.

    Args:
      sweep: the document.
      higher: whether higher values are better.

    Attributes:
      sign: of a value, so that lower is better.

    Raises:
      ConfigError: the storage cannot be opened, or its study is another sweep's.
    """

    def __init__(self, sweep: SweepConfig, higher: bool):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._sweep = sweep
        self._direction = StudyDirection.MAXIMIZE if higher else StudyDirection.MINIMIZE
        self.sign = -1.0 if higher else 1.0
        self._distributions = {key: _distribution(space) for key, space in sweep.space.items()}
        url = sweep.storage or f"sqlite:///{storage.join(sweep.output, DATABASE)}"
        try:
            self._storage = optuna.storages.get_storage(url)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=sweep.study_name,
                direction=self._direction,
                load_if_exists=True,
            )
            owner = self._study.user_attrs.get(_OUTPUT)
            if owner is None:
                self._study.set_user_attr(_OUTPUT, sweep.output)
        except Exception as error:  # of SQLAlchemy, of the database's driver, of Optuna
            raise ConfigError(
                f"storage: {without_password(url)} cannot be opened ({type(error).__name__}: "
                f"{bounded(' '.join(str(error).split()), 300)}); correct it"
            ) from None
        if owner not in (None, sweep.output):
            raise ConfigError(
                f"study: {sweep.study_name} in {without_password(url)} belongs to the sweep in {owner}; "
                "choose another name"
            )

    def trials(self) -> list[FrozenTrial]:
        """All trials by number."""
        return self._study.get_trials(deepcopy=False)

    def begin(self) -> FrozenTrial:
        """A new trial, whose values are new unless all that could be found have been tried."""
        known, number = self.trials(), len(self.trials())
        tried = [trial.params for trial in known]
        for draw in range(_MOST_DRAWS):
            copy = self._copy(known, self._sampler(number, draw))
            params = copy.ask(self._distributions).params
            if params not in tried:
                break
        attributes = copy.get_trials(deepcopy=False)[-1].system_attrs
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions=self._distributions,
                system_attrs=attributes,
            )
        )
        return self.trials()[number]

    def stops_at(self, trial: FrozenTrial, curve: Sequence[tuple[int, float]]) -> int | None:
        """Number of points of a curve after which the pruner stops a trial; None: it goes on.

        The same for the same curve and the same other trials, whatever was decided or noted before.

        Args:
          trial: running.
          curve: (place in the run, of WHOLE; value), by rising place.
        """
        known = self.trials()
        known[trial.number] = create_trial(
            state=TrialState.RUNNING, params=trial.params, distributions=self._distributions
        )
        copy = self._copy(known, optuna.samplers.RandomSampler(seed=0))
        own = Trial(copy, copy.get_trials(deepcopy=False)[trial.number]._trial_id)
        stopped = None
        for place, (step, value) in enumerate(curve, 1):
            self._storage.set_trial_intermediate_value(trial._trial_id, step, value)
            own.report(value, step)
            if own.should_prune():
                stopped = place
                break
        for name, noted in copy.get_trials(deepcopy=False)[trial.number].system_attrs.items():
            self._storage.set_trial_system_attr(trial._trial_id, name, noted)
        return stopped

    def complete(self, trial: FrozenTrial, value: float) -> None:
        """Ends a trial that ran to its end."""
        self._study.tell(trial.number, value)

    def prune(self, trial: FrozenTrial) -> None:
        """Ends a trial that was stopped; its value is that of its last point."""
        self._study.tell(trial.number, state=TrialState.PRUNED)

    def fail(self, trial: FrozenTrial) -> None:
        """Ends a trial that failed."""
        self._study.tell(trial.number, state=TrialState.FAIL)

    def note(self, trial: FrozenTrial, name: str, value: Any) -> None:
        """Keeps a fact about a trial, in its user_attrs."""
        self._storage.set_trial_user_attr(trial._trial_id, name, value)

    def importance(self) -> dict[str, float]:
        """How much each key decides about good values, from the highest down; they add up to 1; empty: too
        little is known. Stopped trials count with their last value."""
        ended = [t for t in self.trials() if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        known = [
            create_trial(value=t.value, params=t.params, distributions=t.distributions)
            for t in ended
            if t.value is not None
        ]
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return optuna.importance.get_param_importances(
                    self._copy(known, optuna.samplers.RandomSampler(seed=0)), evaluator=evaluator
                )
        except (ValueError, RuntimeError):
            return {}

    def _copy(self, trials: Sequence[FrozenTrial], sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        """The study in memory; its trials have the same numbers."""
        copy = optuna.create_study(
            study_name=self._sweep.study_name,
            direction=self._direction,
            sampler=sampler,
            pruner=self._pruner(),
        )
        copy.add_trials(trials)
        return copy

    def _sampler(self, number: int, draw: int) -> optuna.samplers.BaseSampler:
        """The sampler of one trial: it has no state but its seed and the study."""
        options = self._sweep.sampler
        seed = int(hash_ids(self._sweep.seed, np.array([number * _MOST_DRAWS + draw]))[0] >> np.uint64(33))
        if options.kind == "grid":
            values = {key: grid_of(space) for key, space in self._sweep.space.items()}
            return optuna.samplers.GridSampler(values, seed=seed)
        if options.kind == "random" or draw >= _DRAWS:
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(n_startup_trials=options.startup_trials, seed=seed)

    def _pruner(self) -> optuna.pruners.BasePruner:
        options = self._sweep.pruner
        if options.kind == "none":
            return optuna.pruners.NopPruner()
        first = max(1, round(options.first * WHOLE))
        if options.kind == "asha":
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=first, reduction_factor=options.reduction
            )
        if options.kind == "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=first, max_resource=WHOLE, reduction_factor=options.reduction
            )
        return optuna.pruners.MedianPruner(n_startup_trials=options.startup_trials, n_warmup_steps=first)


def _distribution(space: list[Any] | RangeConfig) -> BaseDistribution:
    if not isinstance(space, RangeConfig):
        return CategoricalDistribution([stored(value) for value in space])
    if space.is_whole:
        return IntDistribution(space.low, space.high, log=space.log, step=space.step or 1)
    return FloatDistribution(space.low, space.high, log=space.log, step=space.step)


def without_password(url: str) -> str:
    """A storage's URL for messages and files."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url

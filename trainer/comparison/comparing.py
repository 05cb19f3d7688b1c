"""Compares runs: opens each of them, measures all on the same rows, and collects what is shown of them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from absl import logging

from configs.errors import UserError
from configs.rules.best import known_metrics
from configs.schema import RunConfig
from configs.sections.evaluation import EvaluateConfig
from trainer.comparison.contenders import Contender, config_differences
from trainer.report.facts import peak_memory, training_seconds, without_repeats
from trainer.report.metrics_file import read_metrics
from trainer.runtime import start_tensorflow

if TYPE_CHECKING:  # importing them here would load TensorFlow before it is set up
    from trainer.comparison.differences import RunDifference
    from trainer.comparison.groups import Group
    from trainer.comparison.measured import MeasuredRun


@dataclass(frozen=True)
class ComparedRun:
    """A run and what was found of it."""

    contender: Contender
    measured: "MeasuredRun"
    lines: list[dict[str, Any]]
    """Of its metrics.jsonl."""
    differences: "list[RunDifference]"
    """From the first run; empty for that one."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.contender.name

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Lines of its evaluations, without repeats."""
        return without_repeats([line for line in self.lines if line.get("kind") == "evaluate"])

    @functools.cached_property
    def _by_group(self) -> "dict[tuple[str, str, str, str], RunDifference]":
        return {(one.task, one.table, one.group, one.metric): one for one in self.differences}

    def difference(self, group: "Group", metric: str) -> "RunDifference | None":
        """From the first run; None: there is none, or the metric is undefined."""
        return self._by_group.get((*group, metric))

    def facts(self) -> dict[str, Any]:
        """Of a row in the table of runs; units follow from the last word of a key."""
        return {
            "run": self.name,
            "step": self.measured.step,
            "chosen": self.measured.chosen,
            "run_seconds": training_seconds(self.lines) if self.lines else None,
            "peak_memory_bytes": peak_memory(self.lines),
        }


@dataclass(frozen=True)
class RunComparison:
    """Everything that is shown."""

    split: str
    runs: list[ComparedRun]
    """The first one is the reference."""
    keys: list[tuple[str, list[Any]]]
    """Config keys with different values, and the value of each run."""
    metric: str
    """The main metric, of the first task."""
    confidence: float
    samples: int

    @property
    def tasks(self) -> list[str]:
        """An empty name for retrieval models."""
        return list(dict.fromkeys(group.task for group in self.runs[0].measured.figures))

    def groups(self, task: str, table: str) -> "list[Group]":
        """Of a task and a table of MeasuredRun.tables; with an empty name, all users or rows alone."""
        figures = self.runs[0].measured.figures
        return [group for group in figures if (group.task, group.table) == (task, table)]

    def metric_of(self, group: "Group") -> str:
        """The main metric, or what is nearest to it: targets one by one have HR or Recall, which are equal,
        and rows of a group no grouped AUC."""
        known = self.runs[0].measured.figures[group].values
        wanted = [self.metric, self.metric.replace("hr@", "recall@"), *known]
        return next(name for name in wanted if name in known)


def compare_runs(contenders: Sequence[Contender], step: int | str | None, split: str) -> RunComparison:
    """Measures runs and compares each with the first.

    Args:
      contenders: from load_contenders; evaluate.by of the first one says which groups there are.
      step: of the checkpoints, as open_trained.
      split: valid or test.

    Raises:
      UserError: a run cannot be opened, or the split has no rows.
    """
    options = contenders[0].config.evaluate
    if not options.bootstrap:
        raise UserError("evaluate.bootstrap: 0 leaves no intervals; pass --set evaluate.bootstrap=1000")
    start_tensorflow(contenders[0].config.device)
    from trainer.comparison.differences import differences
    from trainer.comparison.measured import measure_users
    from trainer.comparison.predictions import measure_predictions
    from trainer.evaluation.trained import open_trained

    of_family = {"retrieval": measure_users, "ranking": measure_predictions}
    runs: list[ComparedRun] = []
    for contender in contenders:
        trained = open_trained(_divided_as(options, contender.config), step)
        try:
            logging.info(
                "%s: measuring step %d (%s) on %s", contender.name, trained.step, trained.chosen, split
            )
            measured = of_family[contender.config.model.family](trained, split)
        finally:
            trained.reading.close()
        found = differences(runs[0].measured, measured, options.confidence) if runs else []
        runs.append(ComparedRun(contender, measured, read_metrics(contender.config.output.path), found))
    metric = _main_metric(contenders[0], runs[0].measured)
    keys = config_differences(contenders)
    return RunComparison(split, runs, keys, metric, options.confidence, options.bootstrap)


def _divided_as(options: EvaluateConfig, config: RunConfig) -> RunConfig:
    """A config with evaluate.by of other options."""
    own = config.evaluate.model_copy(update={"by": options.by, "by_values": options.by_values})
    return config.model_copy(update={"evaluate": own})


def _main_metric(contender: Contender, measured: "MeasuredRun") -> str:
    """evaluate.best.metric, or the first NDCG or AUC, or the first metric."""
    best = contender.config.evaluate.best
    names = next(iter(measured.figures.values())).values
    wanted = [best.metric.rpartition("/")[2]] if best else []
    wanted += [name for name in names if name.partition("@")[0] in ("ndcg", "auc")]
    known = [name for name in (*wanted, *known_metrics(contender.config)) if name in names]
    return known[0] if known else next(iter(names))

"""Follows `evaluate.best` during a run: which step is the best, and whether patience is used up."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging

from configs.errors import DataError
from configs.manifest import Dataset
from configs.schema import RunConfig
from configs.system.storage import join
from trainer.checkpoints.best import BestRecord, Evaluated, read_best, write_best


class BestStep:
    """The record of evaluations of a run, cut back to the step that it starts from.

    Args:
      config: the run. Without evaluate.best there is no record, and that of an earlier process is removed.
      start_step: steps done.
      num_steps: of the whole run.
    """

    def __init__(self, config: RunConfig, start_step: int, num_steps: int):
        self._config, self._num_steps = config, num_steps
        self._options, self._directory = config.evaluate.best, join(config.output.path, "checkpoints")
        self._record: BestRecord | None = None
        if self._options is None:
            write_best(self._directory, None)
            return
        found = read_best(self._directory)
        if found is not None and found.metric != self._options.metric:
            logging.warning(
                "evaluate.best.metric was %s: the best by %s is that of the evaluations to come",
                *(found.metric, self._options.metric),
            )
            found = None
        if found is not None:
            self._record = found.until(start_step)
            if self._record != found:
                write_best(self._directory, self._record)

    @property
    def wanted(self) -> bool:
        """Whether the run keeps its best checkpoint."""
        return self._options is not None

    def lacks(self, step: int) -> bool:
        """Whether the evaluation of a step is still to be entered."""
        known = self._record.evaluations if self._record else []
        return self.wanted and all(one.step != step for one in known)

    def enter(self, step: int, lines: Sequence[dict], save: Callable[[], list[int]]) -> dict[str, Any] | None:
        """Enters an evaluation.

        Args:
          step: steps done.
          lines: of the evaluation.
          save: makes sure that the checkpoint of this step is complete; returns the steps to average with it.
            Called before anything is entered, if the step is the best so far or the last one.

        Returns:
          Facts about the best step, if it is this one; else None.
        """
        if self._options is None:
            return None
        value = figure_of_best(lines, self._options.metric)
        if value is None:
            logging.warning(
                "step %d: %s is undefined, so it cannot be the best step", step, self._options.metric
            )
            return None
        protocol = lines[0]["protocol"]
        record = self._record
        if record is None or record.protocol != protocol:
            if record is not None and record.evaluations:
                logging.warning("evaluations follow another protocol now: the best step is sought anew")
            record = BestRecord(metric=self._options.metric, protocol=protocol)
        record = record.having(Evaluated(step=step, value=value))
        best = record.best
        assert best is not None
        if best.step == step:
            record = record.having(Evaluated(step=step, value=value, averaged_steps=save()))
        elif self._is_used_up(record):
            save()
        write_best(self._directory, record)
        self._record = record
        logging.info("step %d: %s %.4f; %s", step, record.metric, value, self._comment(record, step))
        return {"metric": record.metric, "value": value} if best.step == step else None

    def _comment(self, record: BestRecord, step: int) -> str:
        best = record.best
        assert best is not None
        if best.step == step:
            return "the best so far"
        return f"{record.waited} since the best, step {best.step:,} with {best.value:.4f}"

    def _is_used_up(self, record: BestRecord) -> bool:
        patience = self._options.patience if self._options else None
        return patience is not None and record.waited >= patience

    @property
    def used_up(self) -> bool:
        """Whether as many evaluations as evaluate.best.patience were no better than the best."""
        return self._record is not None and self._is_used_up(self._record)

    def summary(self, step: int) -> str:
        """What a run that ends at `step` has to say about its best one; empty: nothing."""
        record = self._record
        best = record.best if record else None
        if record is None or best is None:
            return ""
        text = f"step {best.step:,} is the {record.text()}"
        if step == self._num_steps:
            return text
        text = (
            f"stopped early at step {step:,} of {self._num_steps:,}: {text}, and none of the {record.waited} "
            "evaluations since was better (evaluate.best.patience)"
        )
        cooldown = self._config.schedule.cooldown_fraction or 0.0
        if cooldown and best.step < self._num_steps * (1 - cooldown):
            begin = round(self._num_steps * (1 - cooldown))
            text += (
                f". Schedules are laid out for all steps: at the best one rates had not begun to cool down, "
                f"which step {begin:,} does; a run of about {best.step:,} steps may be better"
            )
        return text


def figure_of_best(lines: Sequence[dict], metric: str) -> float | None:
    """A metric of the model in the lines of one evaluation: of the first weights evaluated, which are the
    average if there is one, and of the first task, unless the name has one (TASK/metric). None: undefined."""
    task, _, name = metric.rpartition("/")
    for line in lines:
        if line.get("scorer") == "model" and (not task or line.get("task") == task):
            value = line.get(name)
            # Nothing compares with a value that is not finite: it would stay the best.
            return float(value) if value is not None and math.isfinite(value) else None
    return None


def check_can_be_best(config: RunConfig, dataset: Dataset) -> None:
    """Raises DataError if the dataset has no rows by which evaluate.best could choose."""
    if config.evaluate.best is None:
        return
    valid = dataset.splits["valid"]
    if not valid.rows:
        raise DataError(
            f"{dataset.path}: split valid has no rows, so evaluate.best has nothing to choose by; prepare it "
            "with dataset.split.valid_fraction above 0, or remove evaluate.best"
        )

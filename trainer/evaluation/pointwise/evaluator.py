"""Evaluates a ranking model on all rows of a split, in one pass, beside references."""

import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from configs.errors import DataError, UserError
from configs.manifest import Dataset
from configs.sections.ranking import RankingConfig, TaskConfig
from configs.sections.roles import PLANTED_LABEL
from trainer.data.catalog import Items
from trainer.data.lookups import catalog_lookups
from trainer.data.split_rows import split_rows
from trainer.evaluation.pointwise.figures import Bootstrap, PredictionFigures, TaskRows
from trainer.evaluation.pointwise.predictors import (
    ConstantRate,
    ItemRate,
    PlantedProbability,
    Predictor,
    TrainedPredictor,
    TrainRates,
)
from trainer.evaluation.pointwise.resampling import BLOCKS
from trainer.evaluation.pointwise.rows import Batch, RowFacts, TaskReader, rows_of_task
from trainer.evaluation.pointwise.slices import (
    MOST_SLICES,
    SliceCalibration,
    ValueSlots,
    count_values,
    rows_in_slots,
    worst_slices,
)
from trainer.evaluation.pointwise.sorted_sums import Spill

if TYPE_CHECKING:
    from trainer.models.recommender import Recommender

SPILL_BYTES = 512 << 20
"""Memory for sorted predictions; more of them go to a temporary directory."""
_SMALLEST_BATCH, _LARGEST_BATCH = 1 << 14, 1 << 16
_RATES: "weakref.WeakKeyDictionary[Recommender, TrainRates]" = weakref.WeakKeyDictionary()


class PointwiseEvaluation:
    """One evaluation.

    Args:
      recommender: of a ranking model.
      dataset: manifest.
      items: its item catalog.
      split: valid or test.
      weights: whose predictions are evaluated, served ones first: average, raw or both.
      step: steps done.
      detail: whether to compute figures of slices.
    """

    def __init__(
        self,
        recommender: "Recommender",
        dataset: Dataset,
        items: Items,
        split: str,
        weights: list[str],
        step: int,
        detail: bool,
    ):
        self._recommender, self._dataset, self._items, self._split = recommender, dataset, items, split
        config = recommender.config
        assert isinstance(config.model, RankingConfig)
        self._options, self._tasks = config.evaluate, config.model.tasks
        self._facts = RowFacts(dataset, config.evaluate)
        self._by = list(config.evaluate.by) if detail else []
        self._sliced = self._by or [name for name, info in dataset.features.items() if info.table]
        self._sliced = self._sliced if detail else []
        models = [TrainedPredictor(recommender, name == "average", step) for name in weights]
        self._models = [model.name for model in models]
        self._predictors: list[Predictor] = [*models, *self._references()]
        self._seconds = dict.fromkeys([predictor.name for predictor in self._predictors], 0.0)

    def _references(self) -> Iterator[Predictor]:
        rates = _RATES.get(self._recommender)
        if rates is None:
            rates = _RATES[self._recommender] = TrainRates(self._dataset, self._recommender.config)
        yield ConstantRate(rates)
        if rates.of_items:
            yield ItemRate(rates)
        if PLANTED_LABEL in self._dataset.labels and any(map(PlantedProbability.covers, self._tasks)):
            yield PlantedProbability(self._tasks)

    def _batches(self, names: list[str]) -> Iterator[Batch]:
        size = self._recommender.config.train.batch_size
        size = min(max(size, _SMALLEST_BATCH), _LARGEST_BATCH)
        lookups = catalog_lookups(self._dataset, names, self._items)
        return split_rows(self._dataset, self._split, names, lookups, size)

    def lines(self, check: Callable[[], None]) -> list[dict[str, Any]]:
        """As evaluate_ranking; `check` is called before every batch."""
        if not self._dataset.splits[self._split].rows:
            raise DataError(f"{self._dataset.path}: split {self._split} has no rows to evaluate")
        self._count_values(check)
        sorters = 2 * len(self._tasks) * (len(self._predictors) + len(self._by))
        with Spill(SPILL_BYTES, sorters) as spill:
            self._open(spill)
            self._read(check)
            lines = [line for task in self._tasks for line in self._of_task(task, check)]
        if not lines:
            raise DataError(f"{self._dataset.path}: no row of split {self._split} counts for any task")
        return lines

    def _count_values(self, check: Callable[[], None]) -> None:
        """Decides which values of features are slices."""
        self._slots: dict[str, ValueSlots] = {}
        self._slice_slots: dict[str, ValueSlots] = {}
        if not self._sliced:
            return

        def checked() -> Iterator[Batch]:
            for batch in self._batches(self._sliced):
                check()
                yield batch

        counts = count_values(checked(), self._dataset, self._sliced)
        options = self._options
        self._slots = {name: ValueSlots(name, counts[name], options.by_values) for name in self._by}
        self._slice_slots = {
            name: ValueSlots(name, found, MOST_SLICES, options.slice_rows) for name, found in counts.items()
        }

    def _open(self, spill: Spill) -> None:
        grouped, seed = self._facts.group_by is not None, self._options.seed
        self._figures = {
            (task.name, predictor.name): PredictionFigures(task.loss, 1, spill, grouped, seed)
            for task in self._tasks
            for predictor in self._predictors
        }
        self._by_figures = {
            (task.name, name): PredictionFigures(task.loss, len(slots), spill, False, seed)
            for task in self._tasks
            for name, slots in self._slots.items()
        }
        self._calibrations = {
            task.name: [SliceCalibration(slots) for slots in self._slice_slots.values()]
            for task in self._tasks
            if task.loss == "bce"
        }

    def _read(self, check: Callable[[], None]) -> None:
        readers = [TaskReader(task, f"{self._dataset.path}: {self._split}") for task in self._tasks]
        group = self._facts.group_by
        extra = [group] if group in self._dataset.features else []
        names = list(dict.fromkeys([*self._recommender.model.inputs, *self._sliced, *extra]))
        for batch in self._batches(names):
            check()
            facts = self._facts.of(batch)
            rows = {}
            for reader in readers:
                kept, labels = reader.labels(batch)
                rows[reader.task.name] = kept, rows_of_task(labels, kept, facts)
            for predictor in self._predictors:
                self._add(predictor, batch, rows)

    def _add(self, predictor: Predictor, batch: Batch, rows: dict[str, tuple[np.ndarray, TaskRows]]) -> None:
        start = time.perf_counter()
        for task, predictions in predictor.predictions(batch).items():
            kept, own = rows[task]
            own_predictions = _finite(predictions[kept], predictor.name, task)
            self._figures[task, predictor.name].add(own, np.zeros(len(own.labels), np.int64), own_predictions)
            if predictor is self._predictors[0]:
                self._add_slices(task, batch, kept, own, own_predictions)
        self._seconds[predictor.name] += time.perf_counter() - start

    def _add_slices(
        self, task: str, batch: Batch, kept: np.ndarray, rows: TaskRows, predictions: np.ndarray
    ) -> None:
        for name, slots in self._slots.items():
            numbers, of_rows = rows_in_slots(kept, *slots.of(batch))
            self._by_figures[task, name].add(rows.take(numbers), of_rows, predictions[numbers])
        for calibration in self._calibrations.get(task, []):
            calibration.add(batch, kept, rows, predictions)

    def _of_task(self, task: TaskConfig, check: Callable[[], None]) -> Iterator[dict[str, Any]]:
        bootstrap = Bootstrap(self._options)
        for predictor in self._predictors:
            figures = self._figures[task.name, predictor.name]
            if predictor.name == PlantedProbability.name and not PlantedProbability.covers(task):
                continue
            check()
            start = time.perf_counter()
            found = next((result for _, result in figures.results(bootstrap)), None)
            if found is None:
                logging.warning("no row of split %s counts for task %s", self._split, task.name)
                return
            seconds = self._seconds[predictor.name] + time.perf_counter() - start
            is_model = predictor.name in self._models
            yield {
                "scorer": "model" if is_model else predictor.name,
                "split": self._split,
                "weights": predictor.name if is_model else self._models[0],
                "task": task.name,
                **found,
                "seconds": seconds,
                "protocol": self._protocol(task),
                **(self._slices(task, bootstrap) if predictor is self._predictors[0] else {}),
            }

    def _slices(self, task: TaskConfig, bootstrap: Bootstrap) -> dict[str, Any]:
        """What is known of the values of features, by feature, and the worst calibrated of them."""
        by: dict[str, list[dict[str, Any]]] = {}
        for name, slots in self._slots.items():
            texts, by[name] = slots.texts(self._dataset), []
            for slot, found in self._by_figures[task.name, name].results(bootstrap):
                short = {key: value for key, value in found.items() if key not in ("deciles", "roc")}
                by[name].append({"value": texts[slot], **short})
        if not self._sliced or task.name not in self._calibrations:
            return {"by": by} if by else {}
        options = self._options
        worst = worst_slices(
            self._calibrations[task.name], self._dataset, options.slice_rows, options.confidence
        )
        return {"by": by, "worst": worst | {"fewest_rows": options.slice_rows, "features": self._sliced}}

    def _protocol(self, task: TaskConfig) -> str:
        """One line that says what the figures are."""
        options, where = self._options, f" in which {task.where} is above 0" if task.where else ""
        text = (
            f"task {task.name}: all rows of {self._split}{where} with a known {task.label}, by their weights"
        )
        if task.loss == "bce" and self._facts.group_by is not None:
            text += f"; grouped AUC by {self._facts.group_by}, weighted by rows"
        if options.bootstrap:
            text += (
                f"; {100 * options.confidence:g} % intervals of {options.bootstrap:,} bootstrap samples of "
                f"{BLOCKS} blocks of {self._facts.unit}s, seed {options.seed}"
            )
        return text


def evaluate_ranking(
    recommender: "Recommender",
    dataset: Dataset,
    items: Items,
    step: int,
    split: str,
    weights: list[str],
    check: Callable[[], None],
    detail: bool,
) -> list[dict[str, Any]]:
    """Evaluates a ranking model, averaged and raw, beside references.

    Args:
      recommender: of a ranking model.
      dataset: manifest.
      items: its catalog; without rows if the dataset has no items.
      step: steps done.
      split: valid or test.
      weights: average, raw or both, the served ones first.
      check: called before every batch; may raise to end the evaluation.
      detail: whether to compute figures of slices.

    Returns:
      A dict for each task and predictor: scorer (model, constant, item_rate or best_reachable), split,
      weights, task, the metrics of trainer/evaluation/pointwise/metrics.py and grouped_auc (None where
      undefined), rows, base_rate, intervals, undefined, seconds, protocol, and with loss bce deciles and roc
      (see PredictionFigures.results); and for the first one of each task by and worst (see `worst_slices`).

    Raises:
      DataError: the split has no rows that count, a file is damaged, or a label does not fit its loss.
      UserError: a prediction is not finite.
    """
    return PointwiseEvaluation(recommender, dataset, items, split, weights, step, detail).lines(check)


def _finite(predictions: np.ndarray, name: str, task: str) -> np.ndarray:
    if not np.isfinite(predictions).all():
        raise UserError(
            f"{name}: a prediction of task {task} is not finite: the model has diverged; lower its learning "
            "rates"
        )
    return predictions

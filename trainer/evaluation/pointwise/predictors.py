"""What predicts the labels of rows: the model, its floor without training, and its ceiling where known."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from configs.columns import label_column
from configs.manifest import Dataset
from configs.schema import RunConfig
from configs.sections.ranking import MAIN_LABEL, RankingConfig, TaskConfig
from configs.sections.roles import PLANTED_LABEL
from trainer.data.split_rows import trained_rows
from trainer.data.train_rows import TrainRows
from trainer.evaluation.pointwise.rows import Batch, TaskReader, row_weights_of

if TYPE_CHECKING:
    from trainer.models.recommender import Recommender

PRIOR_ROWS = 20.0
"""Weight of the overall rate in the rate of each item."""
_BATCH = 1 << 16


class Predictor(Protocol):
    """Anything that predicts the labels of rows."""

    name: str

    def predictions(self, batch: Batch) -> dict[str, np.ndarray]:
        """float32 [n] by task, of the tasks that it predicts."""


class TrainedPredictor:
    """A recommender as Predictor.

    Args:
      recommender: of a ranking model.
      averaged: predict with averaged weights as of `step`, or raw ones.
      step: steps done.

    Attributes:
      name: average or raw, the weights it predicts with.
    """

    def __init__(self, recommender: "Recommender", averaged: bool, step: int):
        self.name = "average" if averaged else "raw"
        self._recommender, self._averaged, self._step = recommender, averaged, float(step)

    def predictions(self, batch: Batch) -> dict[str, np.ndarray]:
        """float32 [n] by task."""
        with self._recommender.averaged_dense(self._averaged):
            found = self._recommender.predictions(batch, self._averaged, self._step)
            return {task: values.numpy() for task, values in found.items()}


class TrainRates:
    """Mean labels of the rows that the run trains on, of all of them and of each item, by task.

    Negative train rows count 1 / dataset.keep_negatives times, as if none had been left out.

    Args:
      dataset: the manifest.
      config: the run.

    Attributes:
      overall: float by task; NaN without rows.
      of_items: by task, float64 [rows of the item table], smoothed; empty if the dataset has no items.

    Raises:
      DataError: train cannot be read, or has a label that its loss does not allow.
    """

    def __init__(self, dataset: Dataset, config: RunConfig):
        assert isinstance(config.model, RankingConfig)
        self._config, self._dataset = config, dataset
        table = dataset.tables.get("item")
        items = table.rows if table is not None else 1
        sums = {task.name: np.zeros((2, items)) for task in config.model.tasks}
        readers = [TaskReader(task, f"{dataset.path}: train") for task in config.model.tasks]
        for batch in trained_rows(TrainRows.of(config, dataset), _BATCH):
            weights = row_weights_of(batch)
            if dataset.keep_negatives < 1:
                left_out = batch["thinned"] & self._negative(batch)
                weights = np.where(left_out, weights / dataset.keep_negatives, weights)
            for reader in readers:
                kept, labels = reader.labels(batch)
                rows = batch["item"][kept] if table is not None else np.zeros(len(labels), np.int64)
                np.add.at(sums[reader.task.name][0], rows, weights[kept] * labels)
                np.add.at(sums[reader.task.name][1], rows, weights[kept])
        self.overall: dict[str, float] = {}
        self.of_items: dict[str, np.ndarray] = {}
        for name, (labels, weights) in sums.items():
            total = float(weights.sum())
            self.overall[name] = float(labels.sum()) / total if total > 0 else float("nan")
            if table is not None:
                self.of_items[name] = (labels + PRIOR_ROWS * self.overall[name]) / (weights + PRIOR_ROWS)

    def _negative(self, batch: Batch) -> np.ndarray:
        """Which rows dataset.keep_negatives thins, bool [n]."""
        found = np.ones(len(batch["timestamp"]), bool)
        if self._config.source.roles.label is not None:
            found &= ~self._config.dataset.is_positive(batch["label"])
        for name in self._dataset.labels:
            if name != PLANTED_LABEL:
                found &= np.nan_to_num(batch[label_column(name)]) == 0
        return found


class ConstantRate:
    """Predicts the mean label of train."""

    name = "constant"

    def __init__(self, rates: TrainRates):
        self._rates = rates

    def predictions(self, batch: Batch) -> dict[str, np.ndarray]:
        """float32 [n] by task."""
        number = len(batch["timestamp"])
        return {task: np.full(number, rate, np.float32) for task, rate in self._rates.overall.items()}


class ItemRate:
    """Predicts the mean label of the item in train, smoothed by the overall rate."""

    name = "item_rate"

    def __init__(self, rates: TrainRates):
        self._rates = rates

    def predictions(self, batch: Batch) -> dict[str, np.ndarray]:
        """float32 [n] by task."""
        return {task: rates[batch["item"]].astype(np.float32) for task, rates in self._rates.of_items.items()}


class PlantedProbability:
    """Predicts the probability that each row of planted data was drawn with: no model is better in
    expectation."""

    name = "best_reachable"

    def __init__(self, tasks: Iterable[TaskConfig]):
        self._tasks = [task.name for task in tasks if self.covers(task)]

    @staticmethod
    def covers(task: TaskConfig) -> bool:
        """Whether the planted probability is that of this task."""
        return task.loss == "bce" and task.label == MAIN_LABEL and task.where is None

    def predictions(self, batch: Batch) -> dict[str, np.ndarray]:
        """float32 [n] by task."""
        return dict.fromkeys(self._tasks, batch[label_column(PLANTED_LABEL)])

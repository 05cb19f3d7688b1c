"""Which rows of a batch count for a task, with what label, weight, bootstrap block and group."""

import numpy as np

from configs.columns import label_column
from configs.errors import DataError
from configs.manifest import Dataset
from configs.sections.evaluation import EvaluateConfig
from configs.sections.ranking import TaskConfig
from trainer.evaluation.pointwise.figures import TaskRows
from trainer.evaluation.pointwise.resampling import blocks_of

Batch = dict[str, np.ndarray]
"""Columns from trainer.data.split_rows."""


class TaskReader:
    """Rows of a task.

    Args:
      task: of the config.
      where: what to name in errors: dataset and split.
    """

    def __init__(self, task: TaskConfig, where: str):
        self.task, self._where = task, where

    def labels(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """(which rows count, bool [n]; their labels, float64 [m]).

        Raises:
          DataError: a label of a task with loss bce is outside 0..1.
        """
        labels = batch[label_column(self.task.label)]
        kept = ~np.isnan(labels)
        if self.task.where is not None:
            kept &= batch[label_column(self.task.where)] > 0
        found = labels[kept].astype(np.float64)
        if self.task.loss == "bce" and len(wrong := found[(found < 0) | (found > 1)]):
            raise DataError(
                f"{self._where}: the label {self.task.label} of task {self.task.name} is {wrong[0]:g} in a "
                "row, but loss bce needs labels in 0..1; use loss: mse, or a label with `ones`"
            )
        return kept, found


def row_weights_of(batch: Batch) -> np.ndarray:
    """float64 [n]; ones if the data has no weights."""
    if "weight" in batch:
        return batch["weight"].astype(np.float64)
    return np.ones(len(batch["timestamp"]))


class RowFacts:
    """What is known of the rows of a split beside labels.

    Args:
      dataset: the manifest.
      options: the section.
    """

    def __init__(self, dataset: Dataset, options: EvaluateConfig):
        self._seed, self._read = options.seed, 0
        self.group_by = options.group_by or ("user" if "user" in dataset.tables else None)
        self.unit = "user" if "user" in dataset.tables else "row"
        """What stays together in the bootstrap."""
        self.group_column = f"{self.group_by}_id" if self.group_by in ("user", "item") else self.group_by
        self._check_groups(dataset)

    def _check_groups(self, dataset: Dataset) -> None:
        if self.group_by is None:
            return
        owner = self.group_by in ("user", "item")
        table = dataset.tables[self.group_by if owner else dataset.features[self.group_by].table or ""]
        if max(table.rows, table.catalog_rows) > 2**32:
            raise DataError(
                f"{dataset.path}: {self.group_by} has more than 2^32 ids, too many for the groups of "
                "evaluate.group_by; name another feature"
            )

    def of(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(weights float64 [n], bootstrap blocks int64 [n], groups int64 [n] or None) of the next batch."""
        number = len(batch["timestamp"])
        units = batch["user_id"] if self.unit == "user" else np.arange(self._read, self._read + number)
        self._read += number
        groups = batch[self.group_column] if self.group_column is not None else None
        return row_weights_of(batch), blocks_of(self._seed, units), groups


def rows_of_task(
    labels: np.ndarray, kept: np.ndarray, facts: tuple[np.ndarray, np.ndarray, np.ndarray | None]
) -> TaskRows:
    """The rows that count, from TaskReader.labels and RowFacts.of."""
    weights, blocks, groups = facts
    return TaskRows(labels, weights[kept], blocks[kept], None if groups is None else groups[kept])

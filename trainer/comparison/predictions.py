"""Metrics of a ranking model's predictions in bootstrap samples, of all rows and of groups of users."""

from collections.abc import Iterator, Sequence

import numpy as np

from configs.errors import DataError
from configs.sections.ranking import RankingConfig, TaskConfig
from trainer.comparison.groups import EVERYONE, Group, GroupTable, RowTable, tables_of_rows
from trainer.comparison.measured import MeasuredRun, evaluates_average
from trainer.data.lookups import catalog_lookups
from trainer.data.split_rows import split_rows
from trainer.evaluation.pointwise.evaluator import SPILL_BYTES
from trainer.evaluation.pointwise.figures import Bootstrap, PredictionFigures, SampledFigures
from trainer.evaluation.pointwise.predictors import TrainedPredictor
from trainer.evaluation.pointwise.rows import RowFacts, TaskReader, rows_of_task
from trainer.evaluation.pointwise.slices import rows_in_slots
from trainer.evaluation.pointwise.sorted_sums import Spill
from trainer.evaluation.trained import Trained

_BATCH = 1 << 14


class _TaskFigures:
    """Figures of one task, over all rows and by group.

    Args:
      task: of the config.
      where: dataset and split, for errors.
      tables: what divides the rows.
      facts: of the rows.
      spill: for what does not fit into memory.
      seed: of the bootstrap.
    """

    def __init__(
        self,
        task: TaskConfig,
        where: str,
        tables: Sequence[RowTable],
        facts: RowFacts,
        spill: Spill,
        seed: int,
    ):
        self.task, self.reader = task, TaskReader(task, where)
        self._all = PredictionFigures(task.loss, 1, spill, facts.group_by is not None, seed)
        self._parts = [
            (table, PredictionFigures(task.loss, len(table.texts), spill, False, seed)) for table in tables
        ]

    def add(self, batch: dict[str, np.ndarray], facts: tuple, predictions: np.ndarray) -> None:
        """Adds a batch with what RowFacts knows of it, and its predictions, float32 [n]."""
        kept, labels = self.reader.labels(batch)
        rows, own = rows_of_task(labels, kept, facts), predictions[kept]
        self._all.add(rows, np.zeros(len(labels), np.int64), own)
        for table, figures in self._parts:
            places, slots = rows_in_slots(kept, *table.of(batch))
            figures.add(rows.take(places), slots, own[places])

    def results(self, bootstrap: Bootstrap) -> Iterator[tuple[Group, SampledFigures]]:
        """Of all rows, and of each group that has rows."""
        for _, found in self._all.sampled(bootstrap):
            yield Group(self.task.name, "", EVERYONE), found
        for table, figures in self._parts:
            for slot, found in figures.sampled(bootstrap):
                yield Group(self.task.name, table.name, table.texts[slot]), found


def measure_predictions(trained: Trained, split: str) -> MeasuredRun:
    """Metrics of a ranking model.

    Args:
      trained: the run.
      split: valid or test.

    Raises:
      DataError: the split has no rows.
    """
    config, dataset = trained.config, trained.dataset
    assert isinstance(config.model, RankingConfig)
    if not dataset.splits[split].rows:
        raise DataError(f"{dataset.path}: split {split} has no rows to evaluate")
    facts, model = RowFacts(dataset, config.evaluate), trained.recommender.model
    tables, bootstrap = tables_of_rows(trained, split), Bootstrap(config.evaluate)
    predictor = TrainedPredictor(trained.recommender, evaluates_average(trained), trained.step)
    extra = [facts.group_by] if facts.group_by in dataset.features else []
    names = list(dict.fromkeys([*model.inputs, *config.evaluate.by, *extra]))
    lookups = catalog_lookups(dataset, names, trained.items)
    with Spill(SPILL_BYTES, 2 * len(config.model.tasks) * (1 + len(tables))) as spill:
        tasks = [
            _TaskFigures(task, f"{dataset.path}: {split}", tables, facts, spill, config.evaluate.seed)
            for task in config.model.tasks
        ]
        for batch in split_rows(dataset, split, names, lookups, _BATCH):
            known, predictions = facts.of(batch), predictor.predictions(batch)
            for task in tasks:
                task.add(batch, known, predictions[task.task.name])
        figures = dict(pair for task in tasks for pair in task.results(bootstrap))
    protocol = f"all rows of {split} with a known label, by their weights"
    in_words = {table.name: GroupTable(table.title, "rows") for table in tables}
    return MeasuredRun(trained.step, trained.chosen, protocol, "rows", figures, in_words)

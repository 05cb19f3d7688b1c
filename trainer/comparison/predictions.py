"""Metrics of a ranking model's predictions in bootstrap samples, of all rows and of groups of users."""

from collections.abc import Iterator

import numpy as np

from configs.errors import DataError
from configs.sections.ranking import RankingConfig, TaskConfig
from trainer.comparison.groups import EVERYONE, GroupsOf, UserGroups, by_activity
from trainer.comparison.measured import MeasuredRun, evaluates_average
from trainer.data.catalog import Users
from trainer.data.lookups import catalog_lookups
from trainer.data.split_rows import split_rows
from trainer.evaluation.pointwise.evaluator import SPILL_BYTES
from trainer.evaluation.pointwise.figures import Bootstrap, PredictionFigures, SampledFigures
from trainer.evaluation.pointwise.predictors import TrainedPredictor
from trainer.evaluation.pointwise.rows import RowFacts, TaskReader, rows_of_task
from trainer.evaluation.pointwise.sorted_sums import Spill
from trainer.evaluation.trained import Trained

_BATCH = 1 << 14


class _TaskFigures:
    """Figures of one task, over all rows and by group.

    Args:
      task: of the config.
      where: dataset and split, for errors.
      groups: of users; None: the data has none.
      facts: of the rows.
      spill: for what does not fit into memory.
      seed: of the bootstrap.
    """

    def __init__(
        self,
        task: TaskConfig,
        where: str,
        groups: UserGroups | None,
        facts: RowFacts,
        spill: Spill,
        seed: int,
    ):
        self.task, self.reader, self._groups = task, TaskReader(task, where), groups
        self._all = PredictionFigures(task.loss, 1, spill, facts.group_by is not None, seed)
        number = len(groups.texts) if groups else 0
        self._parts = PredictionFigures(task.loss, number, spill, False, seed) if number else None

    def add(self, batch: dict[str, np.ndarray], facts: tuple, predictions: np.ndarray) -> None:
        """Adds a batch with what RowFacts knows of it, and its predictions, float32 [n]."""
        kept, labels = self.reader.labels(batch)
        rows, own = rows_of_task(labels, kept, facts), predictions[kept]
        self._all.add(rows, np.zeros(len(labels), np.int64), own)
        if self._parts is not None and self._groups is not None:
            self._parts.add(rows, self._groups.of(batch["user_id"][kept]), own)

    def results(self, bootstrap: Bootstrap) -> Iterator[tuple[tuple[str, str], SampledFigures]]:
        """By task and group."""
        for _, found in self._all.sampled(bootstrap):
            yield (self.task.name, EVERYONE), found
        if self._parts is not None and self._groups is not None:
            for slot, found in self._parts.sampled(bootstrap):
                yield (self.task.name, self._groups.texts[slot]), found


def measure_predictions(trained: Trained, split: str, groups_of: GroupsOf = by_activity) -> MeasuredRun:
    """Metrics of a ranking model.

    Args:
      trained: the run.
      split: valid or test.
      groups_of: what divides the users, if the data has any.

    Raises:
      DataError: the split has no rows.
    """
    config, dataset = trained.config, trained.dataset
    assert isinstance(config.model, RankingConfig)
    if not dataset.splits[split].rows:
        raise DataError(f"{dataset.path}: split {split} has no rows to evaluate")
    facts, model = RowFacts(dataset, config.evaluate), trained.recommender.model
    groups, bootstrap = _groups(trained, split, groups_of), Bootstrap(config.evaluate)
    predictor = TrainedPredictor(trained.recommender, evaluates_average(trained), trained.step)
    extra = [facts.group_by] if facts.group_by in dataset.features else []
    names = list(dict.fromkeys([*model.inputs, *extra]))
    lookups = catalog_lookups(dataset, names, trained.items)
    with Spill(SPILL_BYTES, 4 * len(config.model.tasks)) as spill:
        tasks = [
            _TaskFigures(task, f"{dataset.path}: {split}", groups, facts, spill, config.evaluate.seed)
            for task in config.model.tasks
        ]
        for batch in split_rows(dataset, split, names, lookups, _BATCH):
            known, predictions = facts.of(batch), predictor.predictions(batch)
            for task in tasks:
                task.add(batch, known, predictions[task.task.name])
        figures = dict(pair for task in tasks for pair in task.results(bootstrap))
    protocol = f"all rows of {split} with a known label, by their weights"
    return MeasuredRun(trained.step, trained.chosen, protocol, "rows", figures, groups)


def _groups(trained: Trained, split: str, groups_of: GroupsOf) -> UserGroups | None:
    if "user" not in trained.dataset.tables:
        return None
    found = [np.unique(batch["user_id"]) for batch in split_rows(trained.dataset, split, [], {}, _BATCH)]
    return groups_of(Users(trained.dataset, trained.items), np.unique(np.concatenate(found)))

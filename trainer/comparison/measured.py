"""Metrics of a run on one split in the same bootstrap samples as those of other runs."""

from dataclasses import dataclass, field

import numpy as np

from trainer.comparison.groups import EVERYONE, Group, GroupTable, described, members, tables_of_users
from trainer.data.catalog import Users
from trainer.evaluation.per_user import UserRecorder
from trainer.evaluation.pointwise.figures import Bootstrap, SampledFigures
from trainer.evaluation.ranking import averaged_over, evaluate_scorers
from trainer.evaluation.scorer import TrainedScorer
from trainer.evaluation.segments.detail import Detail
from trainer.evaluation.trained import Trained


@dataclass(frozen=True)
class MeasuredRun:
    """What is known of a run."""

    step: int
    """Steps done."""
    chosen: str
    """Why it is this step, in words."""
    protocol: str
    """One line that the figures must be reported with."""
    unit: str
    """What EVERYONE counts: users or rows."""
    figures: dict[Group, SampledFigures]
    """Of all users or rows, and of each group that has any."""
    tables: dict[str, GroupTable] = field(default_factory=dict)
    """What divides them, by name."""
    of_users: dict[str, np.ndarray] = field(default_factory=dict)
    """Metrics of each user, float64, in the order of their ids; empty for ranking models."""
    members: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    """Places in these columns of the users of a group, int64, by table and name; groups of targets have
    none."""


def measure_users(trained: Trained, split: str) -> MeasuredRun:
    """Metrics of a retrieval model.

    Args:
      trained: the run.
      split: valid or test.

    Raises:
      DataError: the split has no users to evaluate.
    """
    options, items = trained.config.evaluate, trained.items.as_of(split)
    scorer = TrainedScorer(trained.recommender, items, evaluates_average(trained), trained.step)
    users, over = Users(trained.dataset, items), averaged_over(options)
    tables = tables_of_users(users, options, split)
    recorder, detail = UserRecorder(over), Detail(options, over, None, items, tables, [])
    found = evaluate_scorers([scorer], users, options, split, observers=[recorder, detail])[scorer.name]
    each = recorder.figures(scorer.name, tables)
    figures = {
        Group("", table, name or EVERYONE): sampled
        for table, name, sampled in detail.sampled(Bootstrap(options))
    }
    everyone = Group("", "", EVERYONE)
    figures[everyone] = figures[everyone]._replace(rows=len(each.ids))
    return MeasuredRun(
        trained.step,
        trained.chosen,
        str(found["protocol"]),
        "users",
        figures,
        {table.name: described(table) for table in tables},
        each.metrics,
        {(table.name, name): mine for table in each.tables for name, mine in members(table, each.ids)},
    )


def evaluates_average(trained: Trained) -> bool:
    """Whether averaged weights are compared: those that `lazytower evaluate` reports first."""
    return trained.recommender.has_averages and trained.config.evaluate.weights != "raw"

"""Metrics of a run on one split in the same bootstrap samples as those of other runs."""

from dataclasses import dataclass, field

import numpy as np

from trainer.comparison.groups import EVERYONE, GroupsOf, UserGroups, by_activity
from trainer.data.catalog import Users
from trainer.evaluation.pointwise.figures import Bootstrap, SampledFigures
from trainer.evaluation.pointwise.resampling import BLOCKS, blocks_of
from trainer.evaluation.protocols import RankingTask
from trainer.evaluation.ranking import averaged_over, evaluate_scorers
from trainer.evaluation.scorer import TrainedScorer
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
    """What groups count: users or rows."""
    figures: dict[tuple[str, str], SampledFigures]
    """By task (empty for retrieval models) and group; EVERYONE is all of them."""
    groups: UserGroups | None = None
    """None: the data has no users."""
    of_users: dict[str, np.ndarray] = field(default_factory=dict)
    """Metrics of each user, float64, in the order of their ids; empty for ranking models."""


class UserMetrics:
    """Metrics of every user, as a mean over users or targets has them: watches one scorer in
    trainer.evaluation.ranking.evaluate_scorers.

    Args:
      over: users or targets, what the protocol's metrics are means over.
    """

    def __init__(self, over: str):
        self._over = over
        self._ids: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []
        self._values: dict[str, list[np.ndarray]] = {}

    def add(self, scorer: str, task: RankingTask, ranking: object, values: dict[str, np.ndarray]) -> None:
        """Called for each task; values: metrics by name, float64, one for each user or target."""
        if self._over == "targets":
            cold = np.repeat(np.arange(len(task.users)), task.cold)
            rows = np.concatenate([task.targets.row_of_value, cold])
            kept, weights = np.arange(len(rows)), np.ones(len(rows))
        else:
            kept = rows = np.flatnonzero(task.targets.lengths + task.cold)
            weights = np.ones(len(rows)) if task.weight is None else task.weight[rows]
        self._ids.append(task.users.ids[rows])
        self._weights.append(weights)
        for name, column in values.items():
            self._values.setdefault(name, []).append(column[kept])

    def results(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """(ids of users, int64 [n], ascending; their weights in the mean, float64 [n]; sums of weight times
        metric by name, float64 [n])."""
        ids, users = np.unique(np.concatenate(self._ids), return_inverse=True)
        weights = np.concatenate(self._weights)
        sums = {
            name: np.bincount(users, weights * np.concatenate(columns), len(ids))
            for name, columns in self._values.items()
        }
        return ids, np.bincount(users, weights, len(ids)), sums


def measure_users(trained: Trained, split: str, groups_of: GroupsOf = by_activity) -> MeasuredRun:
    """Metrics of a retrieval model.

    Args:
      trained: the run.
      split: valid or test.
      groups_of: what divides the users.
    """
    options, items = trained.config.evaluate, trained.items.as_of(split)
    scorer = TrainedScorer(trained.recommender, items, evaluates_average(trained), trained.step)
    users, watch = Users(trained.dataset, items), UserMetrics(averaged_over(options))
    found = evaluate_scorers([scorer], users, options, split, observers=[watch])[scorer.name]
    ids, weights, sums = watch.results()
    groups, bootstrap = groups_of(users, ids), Bootstrap(options)
    blocks = blocks_of(options.seed, ids)
    figures = {("", EVERYONE): sampled_means(weights, sums, blocks, bootstrap)}
    for code, text in enumerate(groups.texts):
        mine = groups.codes == code
        own = {name: column[mine] for name, column in sums.items()}
        figures["", text] = sampled_means(weights[mine], own, blocks[mine], bootstrap)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_users = {name: column / weights for name, column in sums.items()}
    return MeasuredRun(
        trained.step, trained.chosen, str(found["protocol"]), "users", figures, groups, of_users
    )


def evaluates_average(trained: Trained) -> bool:
    """Whether averaged weights are compared: those that `lazytower evaluate` reports first."""
    return trained.recommender.has_averages and trained.config.evaluate.weights != "raw"


def sampled_means(
    weights: np.ndarray, sums: dict[str, np.ndarray], blocks: np.ndarray, bootstrap: Bootstrap
) -> SampledFigures:
    """Means over users in bootstrap samples.

    Args:
      weights: of the users, float64 [n].
      sums: weight times metric by name, float64 [n].
      blocks: bootstrap blocks, int64 [n].
      bootstrap: the samples.
    """
    of_blocks = np.bincount(blocks, weights, BLOCKS)
    values, samples = {}, {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, column in sums.items():
            values[name] = column.sum() / weights.sum()
            samples[name] = (bootstrap.weights @ np.bincount(blocks, column, BLOCKS)) / (
                bootstrap.weights @ of_blocks
            )
    return SampledFigures(values, samples, len(weights), of_blocks)

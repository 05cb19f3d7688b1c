"""Metrics of a run on one split in the same bootstrap samples as those of other runs."""

from dataclasses import dataclass, field

import numpy as np

from trainer.comparison.groups import EVERYONE, GroupsOf, UserGroups, by_activity
from trainer.data.catalog import Users
from trainer.evaluation.per_user import UserRecorder
from trainer.evaluation.pointwise.figures import Bootstrap, SampledFigures
from trainer.evaluation.pointwise.resampling import BLOCKS, blocks_of
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


def measure_users(trained: Trained, split: str, groups_of: GroupsOf = by_activity) -> MeasuredRun:
    """Metrics of a retrieval model.

    Args:
      trained: the run.
      split: valid or test.
      groups_of: what divides the users.
    """
    options, items = trained.config.evaluate, trained.items.as_of(split)
    scorer = TrainedScorer(trained.recommender, items, evaluates_average(trained), trained.step)
    users, recorder = Users(trained.dataset, items), UserRecorder(averaged_over(options))
    found = evaluate_scorers([scorer], users, options, split, observers=[recorder])[scorer.name]
    each = recorder.figures(scorer.name, [])
    weights, sums = each.weights, {name: each.weights * column for name, column in each.metrics.items()}
    groups, bootstrap = groups_of(users, each.ids), Bootstrap(options)
    blocks = blocks_of(options.seed, each.ids)
    figures = {("", EVERYONE): sampled_means(weights, sums, blocks, bootstrap)}
    for code, text in enumerate(groups.texts):
        mine = groups.codes == code
        own = {name: column[mine] for name, column in sums.items()}
        figures["", text] = sampled_means(weights[mine], own, blocks[mine], bootstrap)
    return MeasuredRun(
        trained.step, trained.chosen, str(found["protocol"]), "users", figures, groups, each.metrics
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

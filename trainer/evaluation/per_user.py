"""Metrics of single users, and the segments they belong to, for comparisons of models on the same users.

    recorder = UserRecorder(averaged_over(config))
    evaluate_scorers([scorer], users, config, "test", observers=[recorder])
    figures = recorder.figures(scorer.name, segment_tables(users, config, "test"))
    figures.metrics["ndcg@10"]                  # float64 [users], aligned with figures.ids and figures.keys
    figures.mean("ndcg@10")                     # as `lazytower evaluate` prints it
    for table in figures.tables:
        users, segments = table.find(figures.ids)   # places in figures.ids, and places in table.texts

Two runs on one dataset, with the same section `evaluate`, have the same users in the same order; those of
other datasets are matched by their keys.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from trainer.evaluation.protocols import RankedTargets, RankingTask
from trainer.evaluation.segments.observers import Units
from trainer.evaluation.segments.tables import SegmentTable


@dataclasses.dataclass(frozen=True)
class UserFigures:
    """One scorer's metrics of each evaluated user."""

    ids: np.ndarray
    """Catalog ids, int64 [users], ascending."""
    keys: np.ndarray
    """Raw keys, object (bytes) [users]."""
    weights: np.ndarray
    """float64 [users]: 1, or with protocol sampled the number of targets. The mean with these weights is the
    metric of the evaluation."""
    metrics: dict[str, np.ndarray]
    """float64 [users] by name; with evaluate.cold_users: rank the mean over a user's rows."""
    tables: list[SegmentTable]
    """Those of evaluate.by that divide users."""

    def mean(self, metric: str) -> float:
        """The metric of all users."""
        return float(self.metrics[metric] @ self.weights / self.weights.sum())


class UserRecorder:
    """Keeps the metrics of every user, as trainer.evaluation.segments.observers.Observer.

    Args:
      averaged_over: as of the protocol.
    """

    def __init__(self, averaged_over: str):
        self._averaged_over = averaged_over
        self._parts: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]]] = {}

    def add(
        self, scorer: str, task: RankingTask, ranking: RankedTargets, values: dict[str, np.ndarray]
    ) -> None:
        """As Observer.add."""
        units = Units.of(task, self._averaged_over)
        kept = {name: column[units.kept] for name, column in values.items()}
        part = task.users.ids[units.rows], task.users.keys[units.rows], units.weights, kept
        self._parts.setdefault(scorer, []).append(part)

    def figures(self, scorer: str, tables: Sequence[SegmentTable]) -> UserFigures:
        """What was added of a scorer."""
        ids, keys, weights = (
            np.concatenate([part[place] for part in self._parts[scorer]]) for place in range(3)
        )
        distinct, first, place = np.unique(ids, return_index=True, return_inverse=True)
        total = np.bincount(place, weights, len(distinct))
        metrics = {}
        for name in self._parts[scorer][0][3]:
            column = np.concatenate([part[3][name] for part in self._parts[scorer]])
            metrics[name] = np.bincount(place, column * weights, len(distinct)) / total
        mine = [table for table in tables if table.of == "user"]
        return UserFigures(distinct, keys[first], total, metrics, mine)

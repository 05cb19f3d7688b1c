"""Means of metrics over the users or targets of each segment, with bootstrap intervals over users.

As the intervals of predictions (trainer/evaluation/pointwise/resampling.py): each user belongs to a block by
a hash, sums are kept by block, and a sample weighs the blocks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.evaluation.pointwise.figures import Bootstrap
from trainer.evaluation.pointwise.resampling import BLOCKS


class SegmentSums:
    """Weighted sums of metrics.

    Args:
      segments: number of segments.
    """

    def __init__(self, segments: int):
        self._size = segments * BLOCKS
        self._sums: dict[str, np.ndarray] = {}
        self._weights: dict[str, np.ndarray] = {}
        self._all_weights = np.zeros(self._size)

    def add(
        self, segments: np.ndarray, blocks: np.ndarray, weights: np.ndarray, values: Mapping[str, np.ndarray]
    ) -> None:
        """Adds users or targets.

        Args:
          segments: int64 [n].
          blocks: bootstrap blocks of the users, int64 [n].
          weights: float64 [n].
          values: metrics by name, float64 [n]; NaN where one is undefined, which leaves it out of the mean.
        """
        cells = segments * BLOCKS + blocks
        self._all_weights += np.bincount(cells, weights, self._size)
        for name, column in values.items():
            known = np.isfinite(column)
            for sums, factor in ((self._sums, column), (self._weights, np.ones_like(column))):
                found = np.bincount(cells[known], (weights * factor)[known], self._size)
                sums[name] = sums[name] + found if name in sums else found

    def results(self, bootstrap: Bootstrap) -> list[tuple[float, dict[str, float | None], dict[str, Any]]]:
        """Of each segment (its weight; its metrics by name, None where no value is known; their intervals
        [low, high] by name, None where there is none)."""
        weights = self._all_weights.reshape(-1, BLOCKS).sum(axis=1)
        metrics: list[dict[str, float | None]] = [{} for _ in weights]
        intervals: list[dict[str, Any]] = [{} for _ in weights]
        for name, column in self._sums.items():
            sums, known = column.reshape(-1, BLOCKS), self._weights[name].reshape(-1, BLOCKS)
            with np.errstate(divide="ignore", invalid="ignore"):
                samples = (bootstrap.weights @ sums.T) / (bootstrap.weights @ known.T)
            for segment in range(len(weights)):
                total = known[segment].sum()
                metrics[segment][name] = float(sums[segment].sum() / total) if total > 0 else None
                limits = bootstrap.interval(samples[:, segment], known[segment])
                # Users who are all alike, such as those without a hit, do not say how much others differ.
                intervals[segment][name] = limits if limits and limits[0] < limits[1] else None
        return list(zip(weights.tolist(), metrics, intervals, strict=True))

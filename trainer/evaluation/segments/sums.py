"""Means of metrics over the users or targets of each segment, with bootstrap intervals over users.

As the intervals of predictions (trainer/evaluation/pointwise/resampling.py): each user belongs to a block by
a hash, sums are kept by block, and a sample weighs the blocks.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from trainer.evaluation.pointwise.figures import Bootstrap, SampledFigures
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
        for name, sums, known, samples in self._by_metric(bootstrap):
            for segment in range(len(weights)):
                total = known[segment].sum()
                metrics[segment][name] = float(sums[segment].sum() / total) if total > 0 else None
                limits = bootstrap.interval(samples[:, segment], known[segment])
                # Users who are all alike, such as those without a hit, do not say how much others differ.
                intervals[segment][name] = limits if limits and limits[0] < limits[1] else None
        return list(zip(weights.tolist(), metrics, intervals, strict=True))

    def sampled(self, bootstrap: Bootstrap) -> list[SampledFigures]:
        """Of each segment its metrics in all bootstrap samples, for differences between models that were
        measured on the same users; their `rows` are the segment's weight."""
        weights = self._all_weights.reshape(-1, BLOCKS)
        found = [SampledFigures({}, {}, round(of_blocks.sum()), of_blocks) for of_blocks in weights]
        for name, sums, known, samples in self._by_metric(bootstrap):
            with np.errstate(divide="ignore", invalid="ignore"):
                means = sums.sum(axis=1) / known.sum(axis=1)
            for segment, figures in enumerate(found):
                figures.values[name], figures.samples[name] = means[segment], samples[:, segment]
        return found

    def _by_metric(self, bootstrap: Bootstrap) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """(metric; its sums, and the weights of its known values, float64 [segments, BLOCKS] each; its means
        in the samples, float64 [samples, segments])."""
        for name, column in self._sums.items():
            sums, known = column.reshape(-1, BLOCKS), self._weights[name].reshape(-1, BLOCKS)
            with np.errstate(divide="ignore", invalid="ignore"):
                yield name, sums, known, (bootstrap.weights @ sums.T) / (bootstrap.weights @ known.T)

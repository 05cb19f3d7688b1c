"""Differences between runs with paired bootstrap intervals: who wins, by how much, and whether it is noise.

All runs are measured on the same rows, and a bootstrap sample gives the users the same weights in all of
them (trainer/evaluation/pointwise/resampling.py). The difference of two runs in one sample is therefore that
of the same users, and what they have in common, such as users who are easy for every model, cancels. The
interval holds the middle of the samples' differences (percentile bootstrap of a paired difference: Efron and
Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; Sakai 2006, Evaluating Evaluation Metrics based
on the Bootstrap, section 3). A difference whose interval contains 0 is noise: other users of the same kind
might well reverse it.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from configs.sections.evaluation import is_better
from trainer.comparison.groups import Group
from trainer.comparison.measured import MeasuredRun
from trainer.evaluation.pointwise.figures import SampledFigures
from trainer.evaluation.pointwise.resampling import FEWEST, interval

NO_DIRECTION = ("calibration",)
"""Metrics that are best at a value in between, so that a difference is neither better nor worse."""
_BETTER, _WORSE, _NOISE = "better", "worse", "noise"


class RunDifference(NamedTuple):
    """One metric of a run beside that of the reference."""

    task: str
    """As the two that follow, of Group."""
    table: str
    group: str
    metric: str
    value: float
    """The run's."""
    reference: float
    """The reference's."""
    interval: list[float] | None
    """Of value - reference; None: there are too few users."""
    verdict: str
    """better, worse or noise; empty: there is no interval, or the metric has no direction."""
    number: int
    """Users, targets or rows of the group."""
    won: float | None = None
    """Share of the users for whom the run is better; None: not known."""
    lost: float | None = None
    """Share of the users for whom it is worse."""

    @property
    def by(self) -> float:
        """value - reference."""
        return self.value - self.reference


def differences(reference: MeasuredRun, run: MeasuredRun, confidence: float) -> list[RunDifference]:
    """All metrics of all tasks and groups, as the evaluation has them.

    Args:
      reference: what is compared with.
      run: measured on the same rows with the same bootstrap.
      confidence: share of the samples inside an interval.
    """
    return [
        found
        for group, figures in run.figures.items()
        if group in reference.figures
        for found in _of_group(group, reference, run, figures, confidence)
    ]


def _of_group(
    group: Group, reference: MeasuredRun, run: MeasuredRun, figures: SampledFigures, confidence: float
) -> Iterator[RunDifference]:
    other = reference.figures[group]
    for metric, value in figures.values.items():
        base = other.values[metric]
        if not (math.isfinite(value) and math.isfinite(base)):
            continue
        limits = None
        if np.count_nonzero(figures.weights) >= FEWEST:
            limits = interval(figures.samples[metric] - other.samples[metric], confidence)
        shares, verdict = _shares(reference, run, group, metric), verdict_of(metric, limits)
        yield RunDifference(*group, metric, float(value), float(base), limits, verdict, figures.rows, *shares)


def verdict_of(metric: str, limits: list[float] | None) -> str:
    """better, worse or noise, of the interval of a difference; empty where there is no answer."""
    if limits is None or metric in NO_DIRECTION:
        return ""
    if limits[0] <= 0 <= limits[1]:
        return _NOISE
    return _BETTER if is_better(metric, limits[0], 0.0) else _WORSE


def _shares(
    reference: MeasuredRun, run: MeasuredRun, group: Group, metric: str
) -> tuple[float | None, float | None]:
    """Shares of the users of a group for whom a run is better and worse."""
    inside = run.members.get(group[1:]) if group.table else slice(None)
    if metric not in run.of_users or inside is None:
        return None, None
    mine, others = run.of_users[metric][inside], reference.of_users[metric][inside]
    number = max(len(mine), 1)
    return float((mine > others).sum() / number), float((mine < others).sum() / number)

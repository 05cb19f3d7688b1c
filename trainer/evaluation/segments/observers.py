"""What watches an evaluation beside the means: intervals, figures of lists and segments, users one by one."""

from typing import NamedTuple, Protocol

import numpy as np

from trainer.evaluation.protocols import RankedTargets, RankingTask


class Observer(Protocol):
    """Sees what every scorer makes of every task."""

    def add(
        self, scorer: str, task: RankingTask, ranking: RankedTargets, values: dict[str, np.ndarray]
    ) -> None:
        """Called once for each scorer, by name, and task; values: metrics by name, float64, one for each user
        (protocol full) or target."""


class Units(NamedTuple):
    """What the metrics of a task are means over: its users with targets, or its targets."""

    rows: np.ndarray
    """Rows of the task, int64 [n]."""
    weights: np.ndarray
    """float64 [n]."""
    kept: np.ndarray
    """Which values of a metric these are, int64 [n]."""

    @classmethod
    def of(cls, task: RankingTask, averaged_over: str) -> "Units":
        """Those of a task by RankingProtocol.averaged_over, users or targets."""
        if averaged_over == "targets":
            owners = task.owners
            return cls(owners, np.ones(len(owners)), np.arange(len(owners)))
        rows = np.flatnonzero(task.targets.lengths + task.cold)
        return cls(rows, np.ones(len(rows)) if task.weight is None else task.weight[rows], rows)

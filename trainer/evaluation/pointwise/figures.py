"""The figures of one scorer for one task, over slots: all rows, or the rows of each value of a feature."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from configs.sections.evaluation import EvaluateConfig
from trainer.evaluation.pointwise.groups import GroupedAuc
from trainer.evaluation.pointwise.metrics import OF_ORDER, OF_SUMS, TERMS, of_sums
from trainer.evaluation.pointwise.ordering import DECILES, Ordering, SlotOrders
from trainer.evaluation.pointwise.resampling import BLOCKS, FEWEST, interval, sample_weights
from trainer.evaluation.pointwise.sorted_sums import Spill

NO_GROUPS = "every group has rows of one label only"


class TaskRows(NamedTuple):
    """Rows that count for a task, without the predictions."""

    labels: np.ndarray
    """float64 [n]."""
    weights: np.ndarray
    """float64 [n]."""
    blocks: np.ndarray
    """Bootstrap blocks, int64 [n]."""
    groups: np.ndarray | None
    """Of the grouped AUC, int64 [n]."""

    def take(self, rows: np.ndarray) -> "TaskRows":
        """The rows with these numbers, in this order."""
        groups = None if self.groups is None else self.groups[rows]
        return TaskRows(self.labels[rows], self.weights[rows], self.blocks[rows], groups)


class Bootstrap:
    """How intervals are drawn.

    Args:
      config: the section.
    """

    def __init__(self, config: EvaluateConfig):
        self.seed, self.confidence = config.seed, config.confidence
        self.weights = sample_weights(config.seed, config.bootstrap)
        """Of the blocks in each sample, float64 [samples, BLOCKS]."""

    def interval(self, samples: np.ndarray, blocks: np.ndarray) -> list[float] | None:
        """An interval of a metric's `samples`, float64 [samples]; None if fewer than FEWEST of the `blocks`
        (their weights, float64 [BLOCKS]) have rows."""
        return interval(samples, self.confidence) if np.count_nonzero(blocks) >= FEWEST else None


class SampledFigures(NamedTuple):
    """Metrics of one slot in all bootstrap samples."""

    values: dict[str, Any]
    """Of all rows, by name; NaN where undefined."""
    samples: dict[str, np.ndarray]
    """float64 [samples] by name; NaN where undefined."""
    rows: int
    """Number of rows."""
    weights: np.ndarray
    """Of the rows of each block, float64 [BLOCKS]."""


class PredictionFigures:
    """Metrics of predictions by slot.

    Args:
      loss: of the task.
      slots: number of slots.
      spill: for what does not fit into memory.
      grouped: whether to compute the grouped AUC; with one slot only.
      seed: of the bootstrap blocks of groups.
    """

    def __init__(self, loss: str, slots: int, spill: Spill, grouped: bool, seed: int):
        self._loss, self._slots = loss, slots
        self._sums = {term: np.zeros(slots * BLOCKS) for term in TERMS[loss]}
        self._rows = np.zeros(slots, np.int64)
        self._orders = SlotOrders(loss, spill) if OF_ORDER[loss] else None
        self._groups = GroupedAuc(spill, seed) if grouped and OF_ORDER[loss] else None

    def add(self, rows: TaskRows, slots: np.ndarray, predictions: np.ndarray) -> None:
        """Adds rows with their slots, int64 [n], and predictions, float32 [n], finite."""
        exact, cells = predictions.astype(np.float64), slots * BLOCKS + rows.blocks
        for term, value in TERMS[self._loss].items():
            weighted = rows.weights * value(rows.labels, exact)
            self._sums[term] += np.bincount(cells, weighted, self._slots * BLOCKS)
        self._rows += np.bincount(slots, minlength=self._slots)
        if self._orders is not None:
            self._orders.add(slots, rows.blocks, rows.labels, predictions, rows.weights)
        if self._groups is not None and rows.groups is not None:
            self._groups.add(rows.groups, rows.labels, predictions, rows.weights)

    def sampled(self, bootstrap: Bootstrap) -> Iterator[tuple[int, "SampledFigures"]]:
        """Each slot with rows, by rising slot, and its metrics in all bootstrap samples: figures of several
        models that saw the same rows and the same bootstrap are of the same samples."""
        for slot, sums, ordering in self._by_slot():
            values, samples = self._values(sums, ordering, bootstrap)
            if self._groups is not None:
                areas, weight = self._groups.blocks().T
                with np.errstate(divide="ignore", invalid="ignore"):
                    values["grouped_auc"] = areas.sum() / weight.sum()
                    samples["grouped_auc"] = (bootstrap.weights @ areas) / (bootstrap.weights @ weight)
            yield slot, SampledFigures(values, samples, int(self._rows[slot]), sums["weight"])

    def results(self, bootstrap: Bootstrap) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each slot with rows, by rising slot, and its figures.

        Yields:
          (slot, metrics by name, None where undefined; rows; base_rate, the mean label; intervals: [low,
          high] by metric; undefined: reasons by metric; and, for loss bce, deciles and roc).
        """
        for slot, own, ordering in self._by_slot():
            yield slot, self._result(own, int(self._rows[slot]), ordering, bootstrap)

    def _by_slot(self) -> Iterator[tuple[int, dict[str, np.ndarray], Ordering | None]]:
        """(slot, its sums by term and block, its ordering)."""
        sums = {term: total.reshape(self._slots, BLOCKS) for term, total in self._sums.items()}
        orderings: Iterator[tuple[int, Ordering | None]]
        if self._orders is None:
            orderings = ((int(slot), None) for slot in np.flatnonzero(self._rows))
        else:
            pos = sums["label"].sum(axis=1)
            orderings = self._orders.orderings(pos, sums["weight"].sum(axis=1) - pos)
        for slot, ordering in orderings:
            yield slot, {term: total[slot] for term, total in sums.items()}, ordering

    def _values(
        self, sums: dict[str, np.ndarray], ordering: Ordering | None, bootstrap: Bootstrap
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Metrics of one slot by name: of all rows, and of each sample."""
        values = of_sums(self._loss, {term: total.sum() for term, total in sums.items()})
        samples = of_sums(self._loss, {term: bootstrap.weights @ total for term, total in sums.items()})
        if ordering is not None:
            values = ordering.exact | values
            samples |= ordering.sampled(bootstrap.weights)
        return values, samples

    def _result(
        self, sums: dict[str, np.ndarray], rows: int, ordering: Ordering | None, bootstrap: Bootstrap
    ) -> dict[str, Any]:
        totals = {term: total.sum() for term, total in sums.items()}
        values, samples = self._values(sums, ordering, bootstrap)
        why = {name: metric.undefined for name, metric in OF_SUMS[self._loss].items()}
        found: dict[str, Any] = {}
        if ordering is not None:
            why |= {name: metric.undefined for name, metric in OF_ORDER[self._loss].items()}
            found = {"deciles": _deciles(ordering, bootstrap), "roc": ordering.roc}
        intervals = {name: bootstrap.interval(samples[name], sums["weight"]) for name in values}
        if self._groups is not None:
            self._add_grouped(values, intervals, found, bootstrap)
            why["grouped_auc"] = NO_GROUPS
        figures = {name: float(value) if np.isfinite(value) else None for name, value in values.items()}
        undefined = {name: why[name] for name, value in figures.items() if value is None}
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = totals["label"] / totals["weight"]
        return {
            **figures,
            "rows": rows,
            "base_rate": float(rate) if np.isfinite(rate) else None,
            "intervals": {name: intervals[name] if name not in undefined else None for name in figures},
            "undefined": undefined,
            **found,
        }

    def _add_grouped(
        self, values: dict[str, Any], intervals: dict[str, Any], found: dict[str, Any], bootstrap: Bootstrap
    ) -> None:
        assert self._groups is not None
        blocks = self._groups.blocks()
        with np.errstate(divide="ignore", invalid="ignore"):
            areas, weight = blocks.sum(axis=0)
            values["grouped_auc"] = areas / weight
            sampled = bootstrap.weights @ blocks
            intervals["grouped_auc"] = bootstrap.interval(sampled[:, 0] / sampled[:, 1], blocks[:, 1])
        found |= {"groups": self._groups.groups, "one_class_groups": self._groups.one_class_groups}


def _deciles(ordering: Ordering, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Each tenth of the weight from the lowest predictions up: mean prediction and label, calibration and its
    interval."""
    by_block, found = ordering.deciles, []
    for decile in range(DECILES):
        sums = by_block[decile]
        sampled = bootstrap.weights @ sums
        pos, neg, predicted = sums.sum(axis=0)
        if pos + neg == 0:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            samples = sampled[:, 2] / sampled[:, 0]
        weights = sums[:, 0] + sums[:, 1]
        found.append(
            {
                "decile": decile + 1,
                "weight": float(pos + neg),
                "mean_prediction": float(predicted / (pos + neg)),
                "mean_label": float(pos / (pos + neg)),
                "calibration": float(predicted / pos) if pos > 0 else None,
                "interval": bootstrap.interval(samples, weights) if pos > 0 else None,
            }
        )
    return found

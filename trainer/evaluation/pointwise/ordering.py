"""One pass over sorted predictions: exact metrics of the order, deciles, curves, and sums for the bootstrap.

Predictions are sorted within slots (slices of the rows; slot 0 alone if there are none). Beside the exact
metrics, the pass sums the rows of BINS bins of equal weight by bootstrap block. Rows with equal predictions
that lie on both sides of an edge are divided in proportion, so that every tenth of the bins is exactly a
decile, whatever the ties. The bootstrap needs only how metrics vary, for which bins are fine enough: the
metric of each sample is that of its bins, moved by the difference between the exact metric and that of all
bins.
"""

from collections.abc import Iterator

import numpy as np

from trainer.evaluation.pointwise.metrics import Ranked, of_order
from trainer.evaluation.pointwise.resampling import BLOCKS
from trainer.evaluation.pointwise.sorted_sums import SortedSums, Spill, falling, prediction_of

BINS = 1000
DECILES = 10
CURVE_POINTS = 100
MOST_SLOTS = 1 << 16
_SLOT, _CODE = np.uint64(40), np.uint64(8)  # lowest bits of the slot and of the prediction; then the block
_CODES, _BLOCKS = np.uint64(2**32 - 1), np.uint64(BLOCKS - 1)


class Ordering:
    """The order of the predictions of one slot.

    Args:
      loss: of the task.
      all_pos: weight of all positives of the slot.
      all_neg: weight of all negatives.

    Attributes:
      exact: metrics of the order by name; NaN where undefined.
      bins: float64 [BINS, BLOCKS, 3]: weight of positives, of negatives, and sum of weight times prediction,
        from the lowest predictions up.
    """

    def __init__(self, loss: str, all_pos: float, all_neg: float):
        self._loss, self._pos, self._neg = loss, all_pos, all_neg
        self._tp = self._fp = 0.0
        nothing = np.zeros(0)
        self.exact = of_order(loss, Ranked(nothing, nothing, nothing, nothing, *self._totals()))
        self.bins = np.zeros((BINS, BLOCKS, 3))

    def _totals(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self._pos), np.asarray(self._neg)

    def add(self, codes: np.ndarray, blocks: np.ndarray, pos: np.ndarray, neg: np.ndarray) -> None:
        """Adds the next entries; those of one prediction must come together.

        Args:
          codes: from `falling`, rising, uint64 [n].
          blocks: int64 [n].
          pos: weight of positives, float64 [n].
          neg: weight of negatives, float64 [n].
        """
        first = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
        group_pos, group_neg = np.add.reduceat(pos, first), np.add.reduceat(neg, first)
        tp, fp = self._tp + np.cumsum(group_pos), self._fp + np.cumsum(group_neg)
        ranked = Ranked(group_pos, group_neg, tp - group_pos, fp - group_neg, *self._totals())
        for name, value in of_order(self._loss, ranked).items():
            self.exact[name] += value
        self._tp, self._fp = float(tp[-1]), float(fp[-1])
        scale = BINS / (self._pos + self._neg) if self._pos + self._neg > 0 else 0.0
        ends = np.minimum((tp + fp) * scale, BINS)
        starts = np.minimum((ranked.tp + ranked.fp) * scale, ends)
        prediction = prediction_of(codes).astype(np.float64)
        columns = np.stack([pos, neg, prediction * (pos + neg)], axis=1)
        self._fill(starts, ends, first, blocks, columns)

    def _fill(
        self,
        starts: np.ndarray,
        ends: np.ndarray,
        first: np.ndarray,
        blocks: np.ndarray,
        columns: np.ndarray,
    ) -> None:
        """Adds groups of entries to the bins that they cover, in units of bins from the highest down."""
        low = np.minimum(np.floor(starts).astype(np.int64), BINS - 1)
        high = np.clip(np.ceil(ends).astype(np.int64) - 1, low, BINS - 1)
        sizes = np.diff(np.append(first, len(blocks)))
        inside = np.repeat(low == high, sizes)
        cell = (np.repeat(BINS - 1 - low, sizes) * BLOCKS + blocks)[inside]
        flat = self.bins.reshape(BINS * BLOCKS, 3)
        cells, place = np.unique(cell, return_inverse=True)
        for column in range(3):
            flat[cells, column] += np.bincount(place, columns[inside, column], len(cells))
        for group in np.flatnonzero(low < high):
            part = slice(first[group], first[group] + sizes[group])
            edges = np.clip(np.arange(low[group], high[group] + 2), starts[group], ends[group])
            shares = np.diff(edges) / (ends[group] - starts[group])
            of_blocks = np.zeros((BLOCKS, 3))
            np.add.at(of_blocks, blocks[part], columns[part])
            covered = slice(BINS - 1 - high[group], BINS - low[group])
            self.bins[covered] += shares[::-1, None, None] * of_blocks

    def sampled(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of the order of bootstrap samples, by name: float64 [samples]; NaN where undefined.

        Args:
          weights: of the blocks, float64 [samples, BLOCKS].
        """
        falling_bins = self.bins[::-1]
        exact, found = self._of_bins(np.ones((1, BLOCKS)), falling_bins), {}
        for name, values in self._of_bins(weights, falling_bins).items():
            found[name] = values + (self.exact[name] - exact[name])
        return found

    def _of_bins(self, weights: np.ndarray, bins: np.ndarray) -> dict[str, np.ndarray]:
        pos, neg = bins[:, :, 0] @ weights.T, bins[:, :, 1] @ weights.T
        tp, fp = np.cumsum(pos, axis=0), np.cumsum(neg, axis=0)
        return of_order(self._loss, Ranked(pos, neg, tp - pos, fp - neg, tp[-1], fp[-1]))

    @property
    def deciles(self) -> np.ndarray:
        """Sums of each tenth of the weight, by block, from the lowest predictions up: float64 [DECILES,
        BLOCKS, 3], columns as `bins`."""
        return self.bins.reshape(DECILES, BINS // DECILES, BLOCKS, 3).sum(axis=1)

    @property
    def roc(self) -> tuple[list[float], list[float]] | None:
        """(share of the negatives, share of the positives) predicted above a threshold that falls; None if
        all rows have the same label."""
        if not (self._pos > 0 and self._neg > 0):
            return None
        sums = self.bins[::-1].sum(axis=1).reshape(CURVE_POINTS, BINS // CURVE_POINTS, 3).sum(axis=1)
        curve = np.concatenate([[[0.0, 0.0]], np.cumsum(sums[:, :2], axis=0) / [self._pos, self._neg]])
        return curve[:, 1].tolist(), curve[:, 0].tolist()


class SlotOrders:
    """Collects predictions of several slots.

    Args:
      loss: of the task.
      spill: for predictions that do not fit into memory.
    """

    def __init__(self, loss: str, spill: Spill):
        self._loss, self._sums = loss, SortedSums(spill)

    def add(
        self,
        slots: np.ndarray,
        blocks: np.ndarray,
        labels: np.ndarray,
        predictions: np.ndarray,
        w: np.ndarray,
    ) -> None:
        """Adds rows.

        Args:
          slots: int64 [n], below MOST_SLOTS.
          blocks: bootstrap blocks, int64 [n].
          labels: float64 [n], in 0..1.
          predictions: float32 [n], finite.
          w: weights, float64 [n].
        """
        keys = slots.astype(np.uint64) << _SLOT
        keys |= falling(predictions) << _CODE
        keys |= blocks.astype(np.uint64)
        pos = w * labels
        self._sums.add(keys, pos, w - pos)

    def orderings(self, pos: np.ndarray, neg: np.ndarray) -> Iterator[tuple[int, Ordering]]:
        """Each slot with rows and its order, by rising slot.

        Args:
          pos: weight of all positives by slot, float64 [slots].
          neg: weight of all negatives.
        """
        current, ordering = -1, None
        for entries in self._whole_predictions():
            slots = (entries["key"] >> _SLOT).astype(np.int64)
            firsts = np.flatnonzero(np.concatenate([[True], slots[1:] != slots[:-1]]))
            for start, stop in zip(firsts, [*firsts[1:], len(slots)], strict=True):
                if slots[start] != current:
                    if ordering is not None:
                        yield current, ordering
                    current = int(slots[start])
                    ordering = Ordering(self._loss, float(pos[current]), float(neg[current]))
                part = entries[start:stop]
                codes = (part["key"] >> _CODE) & _CODES
                assert ordering is not None
                ordering.add(codes, (part["key"] & _BLOCKS).astype(np.int64), part["pos"], part["neg"])
        if ordering is not None:
            yield current, ordering

    def _whole_predictions(self) -> Iterator[np.ndarray]:
        """The chunks, cut between two predictions."""
        held: np.ndarray | None = None
        for entries in self._sums.chunks():
            if held is not None:
                entries = np.concatenate([held, entries])
            last = entries["key"] >> _CODE
            cut = int(np.searchsorted(last, last[-1], side="left"))
            held = entries[cut:]
            if cut:
                yield entries[:cut]
        if held is not None and len(held):
            yield held

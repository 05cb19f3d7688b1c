"""Slices: the rows of each value of a feature, with figures of their own, and the worst calibrated ones.

Which values get a line is decided by a pass over the split that counts them, so the pass that computes
predictions knows each row's slot. Counts and slots take 12 bytes a row of the feature's table, much less than
the table itself.

The worst calibrated slices are those with the largest |log(sum of predictions / sum of labels)|, among slices
with at least evaluate.slice_rows rows whose interval excludes a ratio of 1. With many slices some exclude it
by chance: the interval of each of n slices therefore has confidence 1 - (1 - evaluate.confidence) / n
(Bonferroni), and is that of a ratio of means (Cochran 1977, Sampling Techniques, section 2.11) on the
logarithmic scale.
"""

import math
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from configs.manifest import Dataset
from trainer.data.catalog import load_vocabulary
from trainer.evaluation.pointwise.figures import TaskRows

REST = "all others"
UNKNOWN_KEYS = "unknown keys"
MOST_SLICES = 10_000
"""Values of a feature that are looked at for the table of the worst calibrated."""


def values_of(batch: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of rows, ids): each distinct value of each row of a batch, int64 [m] each."""
    ids = batch[name]
    if ids.ndim == 1:
        return np.arange(len(ids)), ids
    ordered = np.sort(ids, axis=1)  # -1, the padding, comes first
    new = ordered >= 0
    new[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    rows, places = np.nonzero(new)
    return rows, ordered[rows, places]


def count_values(
    batches: Iterable[dict[str, np.ndarray]], dataset: Dataset, names: Iterable[str]
) -> dict[str, np.ndarray]:
    """Rows of each value by feature: int64 [rows of its table]."""
    counts = {name: np.zeros(_table_rows(dataset, name), np.int64) for name in names}
    for batch in batches:
        for name, found in counts.items():
            np.add.at(found, values_of(batch, name)[1], 1)
    return counts


def _table_rows(dataset: Dataset, name: str) -> int:
    return dataset.tables[dataset.features[name].table or ""].rows


class ValueSlots:
    """ValueSlots of the most frequent values of a feature; all other values share the last one.

    Args:
      name: of the feature.
      counts: rows of each value, int64 [values].
      limit: most values with a slot of their own.
      fewest: fewest rows of such a value.
    """

    def __init__(self, name: str, counts: np.ndarray, limit: int, fewest: int = 1):
        self.name = name
        known = np.flatnonzero(counts >= max(fewest, 1))
        self.values = known[np.argsort(-counts[known], kind="stable")][:limit]
        """Ids by slot, int64."""
        self._slot = np.full(len(counts), len(self.values), np.int32)
        self._slot[self.values] = np.arange(len(self.values))

    def __len__(self) -> int:
        return len(self.values) + 1

    def of(self, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of rows, their slots) of a batch, int64 [m] each; a list may have a row in several slots,
        but each slot has it once."""
        rows, ids = values_of(batch, self.name)
        slots = self._slot[ids].astype(np.int64)
        if batch[self.name].ndim == 1:
            return rows, slots
        pairs = np.unique(rows * len(self) + slots)
        return pairs // len(self), pairs % len(self)

    def texts(self, dataset: Dataset) -> list[str]:
        """What the slots are called, in order."""
        return [*value_texts(dataset, self.name, self.values), REST]


def rows_in_slots(kept: np.ndarray, numbers: np.ndarray, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places among the rows that count, slots), int64 [m] each: of rows of a batch those that count.

    Args:
      kept: which rows of the batch count, bool [rows].
      numbers: of rows, int64 [n], as from ValueSlots.of.
      slots: of these, int64 [n].
    """
    inside = kept[numbers]
    return (np.cumsum(kept) - 1)[numbers[inside]], slots[inside]


def value_texts(dataset: Dataset, name: str, ids: np.ndarray) -> list[str]:
    """Values of a feature as text: keys, or ranges of numbers, or rows of hashed ids."""
    info = dataset.features[name]
    table = dataset.tables[info.table or ""]
    if info.boundaries is not None:
        return [_bucket_text(info.boundaries, int(bucket)) for bucket in ids]
    if table.ids == "hash":
        return [f"hash {value}" for value in ids]
    keys = load_vocabulary(dataset, name)
    return [
        UNKNOWN_KEYS if table.oov is not None and value >= table.oov else keys[value].decode(errors="replace")
        for value in ids
    ]


def _bucket_text(boundaries: list[float], bucket: int) -> str:
    if bucket > len(boundaries):
        return "empty"
    low = f"{boundaries[bucket - 1]:g}" if bucket else ""
    high = f"{boundaries[bucket]:g}" if bucket < len(boundaries) else ""
    if not low:
        return f"below {high}"
    return f"{low} to {high}" if high else f"{low} or more"


class SliceCalibration:
    """Sums for the calibration of each slice of a feature.

    Args:
      slots: its values.
    """

    def __init__(self, slots: ValueSlots):
        self.slots = slots
        self._sums = np.zeros((7, len(slots)))

    def add(
        self, batch: dict[str, np.ndarray], kept: np.ndarray, rows: TaskRows, predictions: np.ndarray
    ) -> None:
        """Adds rows of a batch.

        Args:
          batch: columns.
          kept: which of its rows count, bool [n]; `rows` and `predictions` are those.
        """
        numbers, slots = rows_in_slots(kept, *self.slots.of(batch))
        w, y = rows.weights[numbers], rows.labels[numbers]
        p = predictions[numbers].astype(np.float64)
        wp, wy = w * p, w * y
        for row, values in enumerate([np.ones_like(w), w, wp, wy, wp * wp, wp * wy, wy * wy]):
            self._sums[row] += np.bincount(slots, values, len(self.slots))

    def slices(self, fewest: int) -> Iterator[dict[str, float]]:
        """Slices with at least `fewest` rows and positive ones among them: slot, rows, mean_prediction,
        mean_label, calibration, and the standard error of its logarithm."""
        for slot, (n, w, p, y, pp, py, yy) in enumerate(self._sums.T[:-1].tolist()):
            if n < fewest or y <= 0 or p <= 0:
                continue
            ratio = p / y
            spread = max(pp - 2 * ratio * py + ratio * ratio * yy, 0.0)
            yield {
                "slot": slot,
                "rows": n,
                "mean_prediction": p / w,
                "mean_label": y / w,
                "calibration": ratio,
                "error": math.sqrt(spread) / p,
            }


def worst_slices(
    calibrations: Iterable[SliceCalibration], dataset: Dataset, fewest: int, confidence: float, most: int = 2
) -> dict[str, Any]:
    """The worst calibrated slices, as defined at the top of this module.

    Returns:
      examined: number of slices; slices: at most `most`, the worst first, each with feature, value, rows,
      mean_prediction, mean_label, calibration and interval.
    """
    found = [(c.slots, one) for c in calibrations for one in c.slices(fewest)]
    wide = statistics.NormalDist().inv_cdf(1 - (1 - confidence) / (2 * max(len(found), 1)))
    wrong = [pair for pair in found if abs(math.log(pair[1]["calibration"])) > wide * pair[1]["error"]]
    wrong.sort(key=lambda pair: -abs(math.log(pair[1]["calibration"])))
    slices = []
    for slots, one in wrong[:most]:
        [value] = value_texts(dataset, slots.name, slots.values[[int(one["slot"])]])
        reach = math.exp(wide * one["error"])
        slices.append(
            {
                "feature": slots.name,
                "value": value,
                "rows": int(one["rows"]),
                "mean_prediction": one["mean_prediction"],
                "mean_label": one["mean_label"],
                "calibration": one["calibration"],
                "interval": [one["calibration"] / reach, one["calibration"] * reach],
            }
        )
    return {"examined": len(found), "slices": slices}

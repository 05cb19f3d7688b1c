"""Values of list features, which are bags of keys.

From reading to grouping a whole bag is one text, so that it is sorted, compared and spooled like a key: keys
joined by \\x01, then, if they have weights, \\x02 and the weights joined by \\x01. An empty bag is empty
text.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipelines.rows.history import gather_ranges

_KEYS, _WEIGHTS = "\x01", "\x02"
RESERVED = "[\x01\x02]"
"""Regular expression of what keys of a bag must not contain."""


def join(keys: pa.StringArray, offsets: np.ndarray, weights: np.ndarray | None) -> pa.StringArray:
    """Bags as text.

    Args:
      keys: of all bags, one after the other, not empty and without RESERVED.
      offsets: int64 [bags + 1].
      weights: float32, one per key.
    """
    texts = _joined(keys, offsets)
    if weights is None:
        return texts
    numbers, place = np.unique(weights, return_inverse=True)
    shortest = pa.array(numbers.astype(np.float32)).cast(pa.string())
    texts_of_weights = _joined(shortest.take(pa.array(place)), offsets)
    whole = compute.binary_join_element_wise(texts, texts_of_weights, _WEIGHTS)
    return compute.if_else(pa.array(np.diff(offsets) > 0), whole, "")


def _joined(parts: pa.StringArray, offsets: np.ndarray) -> pa.StringArray:
    return compute.binary_join(pa.LargeListArray.from_arrays(pa.array(offsets), parts), _KEYS)


class Bags(NamedTuple):
    """Bags whose members are keys, or ids once those are known."""

    members: Any
    """Of all bags, one after the other: a pa.StringArray, or integers."""
    offsets: np.ndarray
    """int64 [bags + 1]: bag i has members[offsets[i]:offsets[i + 1]]."""
    weights: np.ndarray | None
    """float32, one per member."""

    @property
    def lengths(self) -> np.ndarray:
        """int64 [bags]."""
        return np.diff(self.offsets)


def split(texts: pa.StringArray, weighted: bool) -> Bags:
    """Inverse of `join`."""
    weights = None
    if weighted:
        halves = compute.split_pattern(texts, _WEIGHTS)
        numbers = compute.list_element(
            compute.if_else(compute.equal(texts, ""), pa.scalar(["", ""]), halves), 1
        )
        texts = compute.list_element(halves, 0)
        weights = _split(numbers)[0].cast(pa.float32()).to_numpy(zero_copy_only=False)
    members, offsets = _split(texts)
    return Bags(members, offsets, weights)


def _split(texts: pa.StringArray) -> tuple[pa.StringArray, np.ndarray]:
    filled = compute.not_equal(texts, "").to_numpy(zero_copy_only=False).astype(bool)
    parts = compute.split_pattern(texts.filter(pa.array(filled)), _KEYS)
    lengths = np.zeros(len(texts), np.int64)
    lengths[filled] = compute.list_value_length(parts).to_numpy(zero_copy_only=False)
    return parts.flatten(), np.r_[0, np.cumsum(lengths)]


class BagColumn(NamedTuple):
    """A column of rows, each with one of a few bags of ids."""

    codes: np.ndarray
    """int32 [n]: bag of each row."""
    bags: Bags

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: np.ndarray) -> "BagColumn":
        return BagColumn(self.codes[rows], self.bags)

    def arrays(self, name: str) -> dict[str, pa.LargeListArray]:
        """Arrow columns of the rows: ids, and weights if there are any."""
        first, last = self.bags.offsets[:-1][self.codes], self.bags.offsets[1:][self.codes]
        offsets = pa.array(np.r_[0, np.cumsum(last - first)])
        columns = {name: self.bags.members} | weights_of(name, self.bags.weights)
        return {
            column: pa.LargeListArray.from_arrays(offsets, pa.array(gather_ranges(values, first, last)))
            for column, values in columns.items()
        }


def weights_of(name: str, weights: np.ndarray | None) -> dict[str, np.ndarray]:
    """The column of a list feature's weights, by its name; empty without weights."""
    return {} if weights is None else {f"{name}/weight": weights}


def length_name(column: str) -> str | None:
    """Column with the lengths of a column of lists; None: another column of lists has the same lengths."""
    if column in _LENGTHS:
        return _LENGTHS[column]
    return None if column.endswith("/weight") else f"{column}/length"


_LENGTHS = {"history": "history_length", "sequence": "sequence_length", "sequence_split": None}


def taken(values: "np.ndarray | BagColumn", rows: np.ndarray) -> "np.ndarray | BagColumn":
    """Some rows of a column."""
    return values.take(rows) if isinstance(values, BagColumn) else values[rows]


def arrow(name: str, values: "np.ndarray | BagColumn") -> "dict[str, np.ndarray | pa.LargeListArray]":
    """The columns of a table for a column of rows: one, or several for bags."""
    return values.arrays(name) if isinstance(values, BagColumn) else {name: values}

"""Arrow columns out of features: one value a row, or lists.

A feature may have another type in every record. Values of several types in one block become text, which
means the same.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipelines.sources.examples.wire import (
    BYTES,
    FLOATS,
    INTEGERS,
    Feature,
    Spans,
    bytes_of,
    floats_of,
    integers_of,
)

KEYS = ("key", "keys", "split")
"""Kinds of columns that floats cannot be."""
_TEXT = pa.binary()


def column_of(data: np.ndarray, feature: Feature, kind: str) -> tuple[pa.Array, np.ndarray]:
    """A feature of all records.

    Args:
      kind: Wanted.kind.

    Returns:
      values: one a record, null where the feature is missing or its list is empty; for kinds of lists
        large lists.
      wrong: bool [n] of records whose feature is of a type that the column cannot have, or has several
        values where one is needed; their values are null.
    """
    is_list = kind in ("keys", "numbers")
    wrong = (feature.kinds == FLOATS) & (kind in KEYS)
    parts = [_part(data, feature, number, wrong) for number in _READERS]
    parts = [part for part in parts if len(part[2])]
    if len({values.type for _, _, values in parts}) > 1:
        parts = [(rows, counts, _as_text(values)) for rows, counts, values in parts]
    rows = np.concatenate([part[0] for part in parts] or [np.zeros(0, np.int64)])
    counts = np.concatenate([part[1] for part in parts] or [np.zeros(0, np.int64)])
    values = pa.concat_arrays([part[2] for part in parts]) if parts else pa.nulls(0)
    sizes = np.zeros(len(feature.kinds), np.int64)
    sizes[rows] = counts
    starts = np.zeros(len(feature.kinds), np.int64)
    starts[rows] = np.cumsum(counts) - counts
    if not is_list:
        wrong = wrong | (sizes > 1)
        return values.take(pa.array(starts, mask=(sizes != 1))), wrong
    if len(parts) > 1:  # values are in the order of their types, not of the records
        values = values.take(pa.array(_places(starts, sizes)))
    return pa.LargeListArray.from_arrays(pa.array(np.r_[0, np.cumsum(sizes)]), values), wrong


def _part(
    data: np.ndarray, feature: Feature, number: int, wrong: np.ndarray
) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Records with lists of one type, their numbers of values, and the values."""
    rows = np.flatnonzero((feature.kinds == number) & ~wrong)
    counts, values = _READERS[number](data, feature.lists.take(rows))
    return rows, counts, values


def _bytes(data: np.ndarray, lists: Spans) -> tuple[np.ndarray, pa.Array]:
    counts, offsets, content = bytes_of(data, lists)
    kind = _TEXT if offsets[-1] < 1 << 31 else pa.large_binary()
    offsets = offsets.astype(np.int32 if kind == _TEXT else np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    return counts, pa.Array.from_buffers(kind, len(offsets) - 1, buffers)


def _floats(data: np.ndarray, lists: Spans) -> tuple[np.ndarray, pa.Array]:
    counts, values = floats_of(data, lists)
    return counts, pa.array(values)


def _integers(data: np.ndarray, lists: Spans) -> tuple[np.ndarray, pa.Array]:
    counts, values = integers_of(data, lists)
    return counts, pa.array(values)


_READERS: dict[int, Callable[[np.ndarray, Spans], tuple[np.ndarray, pa.Array]]] = {
    BYTES: _bytes,
    FLOATS: _floats,
    INTEGERS: _integers,
}


def _as_text(values: pa.Array) -> pa.Array:
    if pa.types.is_floating(values.type):
        values = compute.cast(values, pa.float64())  # whose text has all digits
    if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        values = values.cast(pa.string())
    return values.cast(_TEXT)


def _places(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... for all lists in order."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(int(sizes.sum()))

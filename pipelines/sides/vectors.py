"""Validation of vectors: lists of numbers, or text with a separator, become float32 [n, dim]."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from configs.sections.features import VectorFeatureConfig
from pipelines.rows.faults import Faults
from pipelines.rows.numbers import parse_numbers
from pipelines.stages.group import known_column


def vector_columns(
    values: pa.Array, feature: VectorFeatureConfig, nulls: list[str], faults: Faults
) -> dict[str, pa.Array]:
    """Two columns: the vectors, fixed-size lists of float32, zeros where there is none, and known_column.

    Args:
      values: lists, or text with the feature's separator.
      nulls: spellings of a missing vector.
      faults: takes wrong_width_<name>, bad_<name> (not a number) and not_finite_<name>.
    """
    name, dim, rows = feature.name, feature.dim, len(values)
    lists = _lists(values, feature.separator, nulls)
    lengths = compute.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    numbers, bad = parse_numbers(lists.flatten())
    known = lengths > 0
    faults.add(known & (lengths != dim), f"wrong_width_{name}")
    fits = lengths == dim
    mine = np.repeat(fits, lengths)
    with np.errstate(over="ignore"):
        found = numbers[mine].reshape(-1, dim).astype(np.float32)
    _blame(faults, fits, bad[mine].reshape(-1, dim), f"bad_{name}")
    _blame(faults, fits, ~np.isfinite(found), f"not_finite_{name}")
    if feature.normalize:
        found = normalized(found)
    whole = np.zeros((rows, dim), np.float32)
    whole[fits] = found
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(whole.reshape(-1)), dim)
    return {name: vectors, known_column(name): pa.array(known)}


def normalized(vectors: np.ndarray) -> np.ndarray:
    """float32 [n, dim] scaled to length 1; zeros stay zeros."""
    wide = np.where(np.isfinite(vectors), vectors, 0).astype(np.float64)
    length = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    return (wide / np.where(length > 0, length, 1)).astype(np.float32)


def _lists(values: pa.Array, separator: str | None, nulls: list[str]) -> pa.Array:
    """Lists; null where there is none."""
    if separator is None:
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            return values
        return pa.nulls(len(values), pa.list_(pa.float64()))  # no value in the whole piece
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    text = compute.utf8_trim_whitespace(values.cast(pa.string()))
    missing = compute.is_in(text, pa.array(["", *nulls])).to_numpy(zero_copy_only=False).astype(bool)
    text = compute.if_else(pa.array(missing), pa.scalar(None, pa.string()), text)
    return compute.split_pattern(text, separator)


def _blame(faults: Faults, fits: np.ndarray, wrong: np.ndarray, reason: str) -> None:
    """Records rows of `fits` (bool [rows]) with a wrong value: bool [number of these, dim]."""
    rows = np.zeros(len(fits), bool)
    rows[fits] = wrong.any(axis=1)
    faults.add(rows, reason)

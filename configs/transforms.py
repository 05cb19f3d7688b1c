"""From the stored number of a numeric feature to the model's: one definition of each step, for NumPy and
TensorFlow.

`prepare` computes statistics with NumPy; the reader of batches and the served model compute with TensorFlow.
Values are float32 throughout, and an empty value is NaN until its last step. Limits, means and boundaries
become float32 before they meet a value, so both compare and subtract the same numbers.

Only log1p depends on its library, by some units in the last place, and TensorFlow's on the place of a value
in its batch. So a bucket is not found by comparing transformed values: `thresholds` carries the boundaries
back to units of stored values, and the comparison is exact everywhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.sections.features import Step


def before_standardize(steps: Sequence[Step], values: Any, xp: Any) -> Any:
    """Applies all steps but standardize.

    Args:
      steps: of FeatureInfo or NumericFeatureConfig.
      values: float32, of any shape; NaN where empty.
      xp: numpy or tensorflow.

    Returns:
      float32 of the same shape, NaN where `values` is; log1p of a number below -1 is NaN, of -1 it is -inf.
    """
    for step in steps:
        if step == "log1p":
            values = xp.math.log1p(values) if hasattr(xp, "math") else _log1p(values)
        elif not isinstance(step, str):
            low, high = (np.float32(limit) for limit in step.clip)
            values = xp.minimum(xp.maximum(values, low), high)
    return values


def _log1p(values: np.ndarray) -> np.ndarray:
    """log1p in NumPy; through float64, so that its last bit depends on no machine."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log1p(values.astype(np.float64)).astype(np.float32)


def standardized(values: Any, mean: float, stddev: float, xp: Any) -> Any:
    """(values - mean) / stddev, and 0 where a value is empty, which thereby counts as the mean.

    It multiplies by 1 / stddev, since TensorFlow's graphs rewrite divisions by constants so.

    Args:
      values: float32, of any shape, after `before_standardize`.
      mean, stddev: of FeatureInfo.
      xp: numpy or tensorflow.
    """
    return filled((values - np.float32(mean)) * np.float32(1 / stddev), xp)


def filled(values: Any, xp: Any) -> Any:
    """`values` (float32), and 0 where they are NaN: a value without standardize that is empty."""
    return xp.where(_is_nan(values, xp), np.float32(0), values)


def _is_nan(values: Any, xp: Any) -> Any:
    return xp.math.is_nan(values) if hasattr(xp, "math") else xp.isnan(values)


def _flushed(values: Any, xp: Any) -> Any:
    """`values` without denormal numbers, which TensorFlow's threads take for 0 and NumPy does not."""
    return xp.where(xp.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)


def thresholds(steps: Sequence[Step], boundaries: Sequence[float]) -> np.ndarray:
    """Boundaries of buckets in units of stored values.

    Args:
      steps: none lowers a number while another rises, so a boundary has one place.
      boundaries: ascending, in units after `steps`.

    Returns:
      float32 [boundaries], ascending but not strictly: for each the smallest number, -inf and inf included,
      that reaches the boundary after all steps; NaN if none does.
    """
    wanted = _flushed(np.asarray(boundaries, np.float32), np)
    low = np.full(len(wanted), _ordinal(np.float32(-np.inf)), np.int64)
    high = np.full(len(wanted), _ordinal(np.float32(np.inf)) + 1, np.int64)
    while (low < high).any():  # at most 33 times
        middle = (low + high) // 2
        reached = _reaches(steps, _number(middle), wanted)
        high = np.where(reached & (low < high), middle, high)
        low = np.where(~reached & (low < high), middle + 1, low)
    return _flushed(np.where(low > _ordinal(np.float32(np.inf)), np.float32(np.nan), _number(low)), np)


def _reaches(steps: Sequence[Step], values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    found = before_standardize(steps, values, np)
    return np.where(np.isnan(found), -np.inf, found) >= wanted  # NaN: log1p below -1


def _ordinal(value: np.float32) -> int:
    """Place of a number among all float32; neighbours differ by 1."""
    bits = int(value.view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _number(ordinals: np.ndarray) -> np.ndarray:
    """float32 of places (int64), clipped to inf."""
    places = np.minimum(ordinals, _ordinal(np.float32(np.inf)))
    bits = np.where(places >= 0, places, 0x80000000 | -places).astype(np.uint32)
    return bits.view(np.float32)


def buckets(boundaries: np.ndarray, values: Any, xp: Any) -> Any:
    """Buckets of numbers: the number of boundaries that are not above a value.

    Args:
      boundaries: float32 [n], ascending: `thresholds`, with stored `values`.
      values: float32 of any shape; NaN where empty. Denormal ones count as 0.
      xp: numpy or tensorflow.

    Returns:
      int64 of the shape of `values`: 0..n, and n + 1 where they are NaN.
    """
    boundaries = np.where(np.isnan(boundaries), np.float32(np.inf), boundaries)  # no finite number reaches it
    empty, values = np.int64(len(boundaries) + 1), _flushed(values, xp)
    if hasattr(xp, "math"):
        flat = xp.reshape(values, [-1])
        places = xp.searchsorted(xp.constant(boundaries), flat, side="right", out_type=xp.int64)
        places = xp.reshape(places, xp.shape(values))
    else:
        places = xp.searchsorted(boundaries, values, side="right").astype(np.int64)
    return xp.where(_is_nan(values, xp), empty, places)

"""Boundaries of buckets with about equally many values, from parts in any order with the same result.

Numbers are counted by their place among all float32, in a histogram that is exact up to `LIMIT` distinct
numbers. With more, numbers that agree in their leading bits count as the smallest of them: a boundary is then
at most a fraction of 2^-12 below the exact quantile, if all numbers lie within 16 powers of two (each
doubling of that range doubles the error).
"""

import numpy as np

from pipelines.statistics.histogram import TimeHistogram

LIMIT = 1 << 16
_INFINITY = int(np.float32(np.inf).view(np.int32))


class NumberHistogram(TimeHistogram):
    """Counts of float32."""

    def __init__(self, limit: int = LIMIT):
        super().__init__(limit)

    def add(self, values: np.ndarray) -> None:
        """Counts float32 [n] finite values."""
        super().add(places(values))

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest number of each bucket, float32, ascending, and its count."""
        found, counts = self.items()
        return numbers(np.maximum(found, -_INFINITY)), counts


def places(values: np.ndarray) -> np.ndarray:
    """int64 [n]: place of float32 values among all float32, in their order; 0 and -0 share one."""
    bits = values.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def numbers(found: np.ndarray) -> np.ndarray:
    """float32 [n] with these places."""
    bits = np.where(found >= 0, found, 0x80000000 - found)
    return bits.astype(np.uint32).view(np.float32)


def boundaries(histogram: NumberHistogram, parts: int) -> list[float]:
    """At most parts - 1 boundaries, ascending, that cut the values into parts of about equal size.

    Values equal to a boundary belong above it; a boundary that would have no value below it is left out.
    """
    values, counts = histogram.numbers()
    if not len(values):
        return []
    ends = np.cumsum(counts)
    wanted = np.arange(1, parts) * int(ends[-1]) // parts  # values below each boundary
    found = values[np.searchsorted(ends, wanted, side="right")]
    found = np.unique(found[found > values[0]])
    return [float(value) for value in found]

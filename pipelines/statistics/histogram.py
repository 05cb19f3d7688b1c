"""A histogram of timestamps that many workers can build in any order with the same result.

Buckets are 2^shift nanoseconds wide. The shift grows only when more than `limit` buckets are in use, and it
is always the smallest that keeps the whole within the limit. A part never needs wider buckets than the
whole, so the order of merging does not matter. With fewer distinct times than `limit` it is exact.
"""

import bisect
from typing import Any

import numpy as np

LIMIT = 1 << 20


class TimeHistogram:
    """Counts of int64 nanoseconds.

    Counts are kept as sorted distinct buckets. Additions are merged in from time to time, because merging
    after each batch would sort the same million buckets again and again.
    """

    def __init__(self, limit: int = LIMIT):
        self.limit = limit
        self._shift = 0
        self._buckets = [np.zeros(0, np.int64)]
        self._counts = [np.zeros(0, np.int64)]
        self._pending = 0

    def add(self, times: np.ndarray) -> None:
        """Counts int64 [n] timestamps."""
        buckets, counts = np.unique(times >> self._shift, return_counts=True)
        self._append(buckets, counts)

    def add_counts(self, counted: tuple[np.ndarray, np.ndarray]) -> None:
        """Counts times, each so often: int64 [n] both."""
        times, counts = counted
        self._append(times >> self._shift, counts)

    def merge(self, other: "TimeHistogram") -> None:
        """Adds the counts of another histogram."""
        other._fold()
        shift = max(self._shift, other._shift)
        self._widen(shift)
        self._append(other._buckets[0] >> (shift - other._shift), other._counts[0])

    @property
    def shift(self) -> int:
        """Buckets are 2^shift nanoseconds wide."""
        self._fold()
        return self._shift

    def items(self) -> tuple[np.ndarray, np.ndarray]:
        """First time of each bucket in use, ascending, and its count: int64 [buckets] each."""
        self._fold()
        return self._buckets[0] << self._shift, self._counts[0]

    def __getstate__(self) -> dict[str, Any]:
        self._fold()
        return self.__dict__

    def _append(self, buckets: np.ndarray, counts: np.ndarray) -> None:
        self._buckets.append(buckets)
        self._counts.append(counts)
        self._pending += len(buckets)
        if self._pending > 2 * self.limit:
            self._fold()

    def _widen(self, shift: int) -> None:
        if shift == self._shift:
            return
        self._buckets = [buckets >> (shift - self._shift) for buckets in self._buckets]
        self._shift = shift

    def _fold(self) -> None:
        """One sorted array of distinct buckets, no more than `limit`."""
        buckets, counts = _sum(np.concatenate(self._buckets), np.concatenate(self._counts))
        if len(buckets) > self.limit:
            wider = bisect.bisect_left(range(64), True, key=lambda s: _distinct(buckets >> s) <= self.limit)
            self._shift += wider
            buckets, counts = _sum(buckets >> wider, counts)
        self._buckets, self._counts, self._pending = [buckets], [counts], 0


def _distinct(ascending: np.ndarray) -> int:
    return int(np.count_nonzero(ascending[1:] != ascending[:-1])) + min(len(ascending), 1)


def _sum(buckets: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct buckets, ascending, and the sums of their counts."""
    order = np.argsort(buckets, kind="stable")
    buckets, counts = buckets[order], counts[order]
    first = np.flatnonzero(np.r_[True, buckets[1:] != buckets[:-1]][: len(buckets)])
    return buckets[first], np.add.reduceat(counts, first) if len(first) else counts


def cuts(histogram: TimeHistogram, valid_fraction: float, test_fraction: float) -> tuple[int, int]:
    """First time of valid and of test, nanoseconds.

    Each cut is the edge of a bucket at which the fraction of newer rows is closest to the requested one (of
    equal ones, that with fewer rows). A cut after the newest row means an empty split.
    """
    starts, counts = histogram.items()
    newer = np.append(np.cumsum(counts[::-1])[::-1], 0)  # rows at or after each edge
    edges = np.append(starts, np.iinfo(np.int64).max)
    total = int(newer[0])
    places = []
    for wanted in ((valid_fraction + test_fraction) * total, test_fraction * total):
        distance = np.abs(newer - wanted)
        places.append(len(newer) - 1 - int(np.argmin(distance[::-1])))
    return int(edges[places[0]]), int(edges[max(places)])

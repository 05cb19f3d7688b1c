"""How values are distributed over rows, for comparison with another day: sums of parts in any order.

Numbers and labels are counted by ranges that hold about equally many values, features with ids by their most
frequent keys, users and items by ranges of ids, which follow their activity: ids are in the order of counts.
Ranges and keys are exact for up to LIMIT distinct values. With more, neighbours at most a fraction of 2^-9
apart count as one if all lie within 16 powers of two, so only keys with small ids, the frequent ones of a
vocabulary, are counted on their own.

Counts on the ranges and keys of dataset.base are exact.
"""

import collections
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from configs.dataset_parts import DistributionInfo
from pipelines.statistics.histogram import TimeHistogram
from pipelines.statistics.quantiles import NumberHistogram, boundaries

RANGES = 10
"""Most ranges of a number, and of users or items."""
KEYS = 20
"""Most keys of a feature that are counted on their own."""
LIMIT = 1 << 13
_PREFIX = "spread/"  # of names among the histograms of quantiles


class IdHistogram(TimeHistogram):
    """Counts of ids in bins of their float64 bits, which become wider as ids grow: small ids stay apart."""

    def __init__(self, limit: int = LIMIT):
        super().__init__(limit)

    def add(self, ids: np.ndarray) -> None:
        """Counts ids [n] >= 0."""
        self.add_counts(_places(*np.unique(ids, return_counts=True)))

    def add_times(self, ids: np.ndarray, times: np.ndarray) -> None:
        """Counts ids [n] >= 0, each so many times: int64 [n]."""
        if not len(ids):
            return
        if int(ids.max()) < 1 << 22:  # faster than sorting
            sums = np.bincount(ids, times).astype(np.int64)
            found = np.flatnonzero(sums)
            self.add_counts(_places(found, sums[found]))
        else:
            found, place = np.unique(ids, return_inverse=True)
            self.add_counts(_places(found, np.bincount(place, times).astype(np.int64)))

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest id of each bucket, float64, ascending, and its count."""
        starts, counts = self.items()
        return np.ceil(starts.view(np.float64)), counts

    def single(self) -> np.ndarray:
        """bool [buckets]: those that hold one id only."""
        starts, _ = self.items()
        ends = (starts + (1 << self.shift)).view(np.float64)
        return np.ceil(ends) - np.ceil(starts.view(np.float64)) <= 1


def _places(ids: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ids.astype(np.float64).view(np.int64), counts


class BaseBins(NamedTuple):
    """What the values of a column are counted by, to be compared with dataset.base."""

    boundaries: np.ndarray | None
    """Of ranges, ascending: range b has values v with boundaries[b - 1] <= v < boundaries[b]."""
    keys: np.ndarray | None
    """Own ids int64 of the base's most frequent keys, in its order; -1: the key has no row any more."""

    @staticmethod
    def of(found: DistributionInfo) -> "BaseBins":
        """The bins of a distribution."""
        boundaries, keys = found.boundaries, found.keys
        return BaseBins(
            None if boundaries is None else np.array(boundaries),
            None if keys is None else np.array(keys, np.int64),
        )

    def __len__(self) -> int:
        own = self.keys if self.boundaries is None else self.boundaries
        return len(own) + 1  # type: ignore[arg-type]

    def counted(self, values: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
        """int64 [bins]: how often values [n], each so many times, are in each bin; the last one of keys is
        that of all others."""
        if self.boundaries is not None:
            places = np.searchsorted(self.boundaries, values, side="right")
        else:
            assert self.keys is not None
            order = np.argsort(self.keys, kind="stable")
            found = np.searchsorted(self.keys[order], values)
            there = np.append(self.keys[order], -2)[found] == values
            places = np.where(there, np.append(order, 0)[found], len(self.keys))
        return np.bincount(places, times, minlength=len(self)).astype(np.int64)


class Spreads:
    """Distributions of some rows, by column; parts are merged as histograms and counts.

    Attributes:
      histograms: for pipelines.stages.stats.MergeNumbers.
      counts: for pipelines.stages.stats.MergeCounts.
    """

    def __init__(self, base: Mapping[str, BaseBins]):
        """`base`: by column, what to compare with; empty without dataset.base."""
        self._base = base
        self.histograms: dict[str, TimeHistogram] = {}
        self.counts: collections.Counter[str] = collections.Counter()

    def add_numbers(self, name: str, values: np.ndarray, known: np.ndarray) -> None:
        """Counts numbers: float32 [n]; known: bool [n], where they are not empty."""
        histogram = NumberHistogram(LIMIT)
        histogram.add(values[known])
        self.histograms[_PREFIX + name] = histogram
        self.counts[_key("empty", name)] += int(np.count_nonzero(~known))
        if name in self._base:
            self._add_bins(name, self._base[name].counted(values[known]))

    def add_ids(
        self,
        name: str,
        ids: np.ndarray,
        times: np.ndarray,
        empty: int,
        first_oov: int,
        strange: np.ndarray | None = None,
    ) -> None:
        """Counts ids int [n], each so many times: int64 [n].

        Args:
          empty: number of further values, which are empty.
          first_oov: ids from here on are out of vocabulary.
          strange: bool [n], ids of keys without a row in the base; None: none are, or there is no base.
        """
        inside = ids < first_oov
        histogram = IdHistogram()
        histogram.add_times(ids[inside], times[inside])
        self.histograms[_PREFIX + name] = histogram
        self.counts[_key("empty", name)] += empty
        self.counts[_key("unknown", name)] += int(times[~inside].sum())
        if name in self._base:
            old = inside if strange is None else inside & ~strange
            self.counts[_key("strange", name)] += int(times[~old].sum())
            self._add_bins(name, self._base[name].counted(ids[old], times[old]))

    def _add_bins(self, name: str, counts: np.ndarray) -> None:
        self.counts.update({_key("bin", name, n): int(count) for n, count in enumerate(counts) if count})


def _key(what: str, name: str, number: int | None = None) -> str:
    return f"{what}/{name}" if number is None else f"{what}/{name}/{number}"


def merged_histograms(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """By column, the histograms of Spreads among all histograms of numbers."""
    return {key.removeprefix(_PREFIX): found for key, found in numbers.items() if key.startswith(_PREFIX)}


def distribution(histogram: Any, name: str, counts: Mapping[str, int], by_key: bool) -> DistributionInfo:
    """The distribution of a column over all rows.

    Args:
      histogram: of its values that are neither empty nor out of vocabulary.
      counts: of Spreads, summed.
      by_key: whether its most frequent keys are counted on their own; otherwise by ranges.
    """
    values, numbers = histogram.numbers()
    empty, unknown = counts.get(_key("empty", name), 0), counts.get(_key("unknown", name), 0)
    whole = int(numbers.sum())
    facts: dict[str, Any] = {"values": whole + empty + unknown, "empty": empty, "unknown": unknown}
    if by_key:
        order = np.lexsort((values, -numbers))
        order = order[histogram.single()[order]][:KEYS]
        top = numbers[order].tolist()
        return DistributionInfo(
            keys=values[order].astype(np.int64).tolist(), counts=[*top, whole - sum(top)], **facts
        )
    limits = boundaries(histogram, RANGES)
    places = np.searchsorted(np.array(limits), values, side="right")
    bins = np.bincount(places, numbers, minlength=len(limits) + 1).astype(np.int64)
    return DistributionInfo(boundaries=limits, counts=bins.tolist(), **facts)


def new_keys(name: str, keys: np.ndarray) -> dict[str, int]:
    """Counts that say which of a column's most frequent keys have no row in the base; see `is_new`."""
    return {_key("new", name, int(key)): 1 for key in keys}


def is_new(name: str, key: int, counts: Mapping[str, int]) -> bool:
    """Whether a key has no row in the base."""
    return bool(counts.get(_key("new", name, key)))


def on_base(name: str, counts: Mapping[str, int], bins: int) -> tuple[list[int], int, int]:
    """A column's counts on the base's bins, its values without a row in the base, and its empty ones."""
    found = [counts.get(_key("bin", name, number), 0) for number in range(bins)]
    return found, counts.get(_key("strange", name), 0), counts.get(_key("empty", name), 0)

"""Statistics of the source after reading it: counts, rejects, histogram of times, samples of keys."""

import collections
import heapq
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.rows.hashes import hash_keys
from pipelines.sources.reader import Reject
from pipelines.statistics.coverage import known_count, ones_count
from pipelines.statistics.histogram import TimeHistogram

_SAMPLE = 1024  # keys per table, used only to balance the parts of a table


class Stats:
    """Statistics of some rows; merging parts in any order gives the same result."""

    def __init__(self) -> None:
        self.rows = 0
        self.kept = 0
        self.positives = 0
        self.newest: int | None = None
        """Largest timestamp of kept rows."""
        self.label_range: tuple[float, float] | None = None
        self.filtered = 0
        self.counts: collections.Counter[str] = collections.Counter()
        # Of pipelines/stages/group.py and pipelines/stages/finish.py, once all rows are done
        self.rejected: collections.Counter[str] = collections.Counter()
        self.notes: collections.Counter[str] = collections.Counter()
        self.first_reject: Reject | None = None
        self.fatal: str | None = None
        self.histogram = TimeHistogram()
        self.samples: dict[str, list[tuple[int, str]]] = {}
        self.labels: collections.Counter[str] = collections.Counter()
        """Rows in which a further label is known (known_count) and above 0 (ones_count)."""

    def add_labels(self, labels: np.ndarray, positive: np.ndarray) -> None:
        """Counts kept rows: float32 [n], n > 0, and bool [n]."""
        self.kept += len(labels)
        self.positives += int(np.count_nonzero(positive))
        self._widen(float(labels.min()), float(labels.max()))

    def add_times(self, times: np.ndarray) -> None:
        """Takes the timestamps of kept rows: int64 [n], n > 0."""
        self._renew(int(times.max()))

    def _renew(self, newest: int | None) -> None:
        self.newest = max((time for time in (self.newest, newest) if time is not None), default=None)

    def add_label(self, name: str, values: np.ndarray) -> None:
        """Counts values of a further label: float32 [n], NaN where it is empty."""
        self.labels[known_count(name)] += int(np.count_nonzero(~np.isnan(values)))
        self.labels[ones_count(name)] += int(np.count_nonzero(values > 0))

    def _widen(self, lowest: float, highest: float) -> None:
        low, high = self.label_range or (lowest, highest)
        self.label_range = min(low, lowest), max(high, highest)

    def add_rejects(self, rejects: list[Reject]) -> None:
        self.rejected.update(reject.reason for reject in rejects)
        self._first(min(rejects, default=None))

    def add_sample(self, table: str, keys: pa.Array) -> None:
        """Keeps the keys with the smallest hashes: a uniform sample of distinct keys."""
        hashes = hash_keys(keys)
        best = np.argsort(hashes, kind="stable")[:_SAMPLE]
        pairs = zip(hashes[best].tolist(), keys.take(pa.array(best)).to_pylist(), strict=True)
        self.merge_sample(table, list(pairs))

    def merge(self, other: "Stats") -> None:
        self.rows += other.rows
        self.kept += other.kept
        self.positives += other.positives
        self._renew(other.newest)
        if other.label_range:
            self._widen(*other.label_range)
        self.filtered += other.filtered
        self.counts.update(other.counts)
        self.rejected.update(other.rejected)
        self.notes.update(other.notes)
        self.labels.update(other.labels)
        self._first(other.first_reject)
        self.fatal = min(filter(None, (self.fatal, other.fatal)), default=None)
        self.histogram.merge(other.histogram)
        for table, pairs in other.samples.items():
            self.merge_sample(table, pairs)

    def _first(self, reject: Reject | None) -> None:
        self.first_reject = min(filter(None, (self.first_reject, reject)), default=None)

    def merge_sample(self, table: str, pairs: Iterable[tuple[int, str]]) -> None:
        """Adds to a sample of keys: (hash, key)."""
        self.samples[table] = heapq.nsmallest(_SAMPLE, {*self.samples.get(table, ()), *pairs})


class MergeStats(beam.CombineFn):
    """Merges Stats."""

    def create_accumulator(self) -> Stats:
        return Stats()

    def add_input(self, accumulator: Stats, element: Stats) -> Stats:
        accumulator.merge(element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Stats]) -> Stats:
        accumulators = iter(accumulators)
        first = next(accumulators)
        for other in accumulators:
            first.merge(other)
        return first

    def extract_output(self, accumulator: Stats) -> Stats:
        return accumulator


_Numbers = dict[str, TimeHistogram]


class MergeNumbers(beam.CombineFn):
    """Merges histograms of numbers by feature."""

    def create_accumulator(self) -> _Numbers:
        return {}

    def add_input(self, accumulator: _Numbers, element: _Numbers) -> _Numbers:
        for name, histogram in element.items():
            if name not in accumulator:
                accumulator[name] = type(histogram)(histogram.limit)
            accumulator[name].merge(histogram)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Numbers]) -> _Numbers:
        merged: _Numbers = {}
        for accumulator in accumulators:
            self.add_input(merged, accumulator)
        return merged

    def extract_output(self, accumulator: _Numbers) -> _Numbers:
        return accumulator


_Counts = collections.Counter[str]


class MergeCounts(beam.CombineFn):
    """Sums Counters."""

    def create_accumulator(self) -> _Counts:
        return collections.Counter()

    def add_input(self, accumulator: _Counts, element: _Counts) -> _Counts:
        accumulator.update(element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Counts]) -> _Counts:
        return sum(accumulators, collections.Counter())

    def extract_output(self, accumulator: _Counts) -> _Counts:
        return accumulator

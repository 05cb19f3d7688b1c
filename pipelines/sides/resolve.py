"""Rows of one key: equal ones are one, different ones an error unless the newest is wanted."""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.job import Job
from pipelines.sides.order import REST, TIME, WHOLE
from pipelines.stages.members import rank_keys
from pipelines.stages.spool import Ref, SpoolWriter, array, column, read_tables
from pipelines.stages.stats import Stats
from pipelines.stages.threads import ThreadedDoFn
from pipelines.stages.write import as_matrix

_PLACE = ("_row", "_line", "_path", WHOLE, REST, TIME)  # columns that end with the duplicates


class ResolveSide(ThreadedDoFn):
    """(part, [(first row, ref)]) to (shard, ref): rows by key, one each, with output `stats`."""

    def __init__(self, job: Job, number: int):
        super().__init__(job.sides[number])
        self._number = number

    def work(self, element: tuple[int, Iterable[tuple[int, Ref]]]) -> Iterator[Any]:
        part, refs = element
        rows = read_tables(ref for _, ref in sorted(refs))
        keys, codes = rank_keys(array(rows["key"]))
        order = self._order(rows, codes)
        begin = np.flatnonzero(np.r_[True, codes[order][1:] != codes[order][:-1]])
        stats = Stats()
        stats.counts["duplicates"] = len(order) - len(begin)
        chosen = order[begin]
        if self._job.source.keep is not None:
            chosen = order[np.r_[begin[1:], len(order)] - 1]
            times = column(rows, TIME)
            if times.any() and not times.all():
                one, other = (int(np.argmax(times == kind)) for kind in (True, False))
                stats.fatal = self._two_kinds(rows, min(one, other), max(one, other))
        elif len(begin) < len(order):
            first = np.repeat(order[begin], np.diff(np.r_[begin, len(order)]))
            stats.fatal = self._conflict(rows, keys, codes, first, order)
        yield beam.pvalue.TaggedOutput("stats", (self._number, stats))
        if stats.fatal:
            return
        kept = rows.drop_columns([name for name in _PLACE if name in rows.column_names]).take(
            pa.array(chosen)
        )
        kept = kept.set_column(kept.column_names.index("key"), "key", keys)
        with SpoolWriter(self._job.layout.spool, "side", kept.num_rows) as spool:
            output = (self._job.layout.first_shard(self._number) + part, spool.add(kept.combine_chunks()))
        yield output

    def _order(self, rows: pa.Table, codes: np.ndarray) -> np.ndarray:
        """Rows by key, then by what decides, then as in the source."""
        by = [column(rows, name) for name in (REST, WHOLE) if name in rows.column_names]
        return np.lexsort((column(rows, "_row"), *by, codes))

    def _conflict(
        self, rows: pa.Table, keys: pa.StringArray, codes: np.ndarray, first: np.ndarray, order: np.ndarray
    ) -> str | None:
        """The first row in the source that differs from the first one of its key, in words; None: none."""
        found: tuple[int, int, str] | None = None
        for feature in self._job.source.features:
            if feature.name in rows.column_names:
                differs = np.flatnonzero(_differ(array(rows[feature.name]), first, order))
                if len(differs):
                    which = differs[np.argmin(column(rows, "_row")[order[differs]])]
                    candidate = (int(order[which]), int(first[which]), feature.source_column)
                    number = column(rows, "_row")
                    if found is None or number[candidate[0]] < number[found[0]]:
                        found = candidate
        if found is None:
            return None
        row, before, name = found
        side = self._job.source
        return (
            f"{_place(rows, row)}: {side.of} {keys[int(codes[row])].as_py()!r} has another {name!r} than in "
            f"{_place(rows, before)}; remove one of the rows, or set keep: newest and order_by"
        )

    def _two_kinds(self, rows: pa.Table, one: int, other: int) -> str:
        return (
            f"{_place(rows, other)}: {self._job.source.order_by!r} has both numbers and times (see "
            f"{_place(rows, one)}); write one of the two in all rows"
        )


def _place(rows: pa.Table, row: int) -> str:
    return f"{rows['_path'][row].as_py()}:{rows['_line'][row].as_py()}"


def _differ(values: pa.Array, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """bool [n]: where rows `first` and `second` have different values."""
    if pa.types.is_dictionary(values.type):
        codes = values.indices.to_numpy()
        return codes[first] != codes[second]
    if pa.types.is_fixed_size_list(values.type):
        again = np.flatnonzero(first != second)
        found, matrix = np.zeros(len(first), bool), as_matrix(values)
        found[again] = (matrix[first[again]] != matrix[second[again]]).any(axis=1)
        return found
    numbers = values.to_numpy(zero_copy_only=False)
    one, other = numbers[first], numbers[second]
    return ~((one == other) | (np.isnan(one) & np.isnan(other)))

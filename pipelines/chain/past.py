"""Between the ids and the last look at rows: what the users of a day did in the datasets below.

The users with a row or a further id in the base are sent to the catalog file that has them, each file is read
once, and what it says goes back to the shards of the users.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from configs.chain import LEFT, Moved, translated
from configs.dataset_parts import TableInfo
from pipelines.base.numbering import TableIds
from pipelines.base.sequences import Sequences
from pipelines.job import Job
from pipelines.rows.history import gather_ranges
from pipelines.stages.finish import PAST
from pipelines.stages.ids import by_file
from pipelines.stages.spool import Ref, SpoolWriter, column, read_table
from pipelines.stages.threads import ThreadedDoFn


class ReadPast(beam.PTransform):
    """Maps of users by shard to (shard, (PAST, "user", file, ref of id and items))."""

    def __init__(self, job: Job, tables: Any, moved: Any):
        """`tables`: singleton of all TableIds; `moved`: (table, ref of pairs), as AssignIds puts them out."""
        super().__init__()
        self._job, self._tables, self._moved = job, tables, moved

    # Beam reads annotations, and has none for tuples of collections.
    def expand(self, maps: Any) -> Any:
        # A list: an iterable is read again and again, and only in the thread of the bundle.
        moved = beam.pvalue.AsSingleton(self._moved | "MovedIds" >> beam.combiners.ToList())
        return (
            maps
            | "SendTouched" >> beam.ParDo(SendTouched(self._job))
            | "ByBaseFile" >> beam.GroupByKey()
            | "ReadSequences" >> beam.ParDo(ReadSequences(self._job), self._tables, moved)
        )


class SendTouched(ThreadedDoFn):
    """(user shard, ("map", "user", part, ref)) to (file of the base's catalog, (shard, ref of ids here and in
    the base)); other elements are left out."""

    def work(self, element: tuple[int, tuple[str, str, int, Ref]]) -> Iterator[Any]:
        shard, (kind, table, _, ref) = element
        if (kind, table) != ("map", "user") or not 0 <= shard < self._job.layout.user_shards:
            return
        found = read_table(ref).combine_chunks()
        own = column(found, "id")
        before = column(found, "base") if "base" in found.column_names else own  # hashed ids stay
        users = pa.table({"own": own, "id": before}).filter(pa.array(before != LEFT))
        output = []
        with SpoolWriter(self._job.layout.spool, "past") as spool:
            for file, slice_ in by_file(users) if users.num_rows else ():
                output.append((file, (shard, spool.add(slice_))))
        yield from output


class ReadSequences(ThreadedDoFn):
    """(file of the base's catalog, [(shard, ref of users)]) to (shard, (PAST, "user", file, ref))."""

    def work(
        self,
        element: tuple[int, Iterable[tuple[int, Ref]]],
        tables: dict[str, TableIds],
        moved: list[tuple[str, Ref]],
    ) -> Iterator[Any]:
        file, parts = element
        assert self._job.base is not None
        refs: dict[int, list[Ref]] = {}
        for shard, ref in sorted(parts):
            refs.setdefault(shard, []).append(ref)
        wanted = {shard: pa.concat_tables(map(read_table, mine)) for shard, mine in refs.items()}
        wanted = {shard: mine.combine_chunks() for shard, mine in wanted.items()}
        users = np.unique(np.concatenate([column(users, "id") for users in wanted.values()]))
        renamed = _Renamed(tables["item"], [ref for table, ref in sorted(moved) if table == "item"])
        length = self._job.dataset.history_length or 0
        past = Sequences(self._job.base.datasets, renamed).newest(users, length)
        ends = np.cumsum(past.lengths)
        output = []
        with SpoolWriter(self._job.layout.spool, "past") as spool:
            for shard, mine in wanted.items():
                ids, first = np.unique(column(mine, "own"), return_index=True)
                place = np.searchsorted(users, column(mine, "id")[first])
                some = np.flatnonzero(past.lengths[place])
                place, ids = place[some], ids[some]
                items = gather_ranges(past.items, ends[place] - past.lengths[place], ends[place])
                offsets = pa.array(np.r_[0, np.cumsum(past.lengths[place])])
                lists = pa.LargeListArray.from_arrays(offsets, pa.array(items))
                output.append((shard, (PAST, "user", file, spool.add(pa.table({"id": ids, "items": lists})))))
        yield from output


class _Renamed:
    """From catalog ids of items in the base to ids here, LEFT for items without a row of the table."""

    def __init__(self, items: TableIds, refs: list[Ref]):
        pairs = [read_table(ref).combine_chunks() for ref in refs]
        before, after = (
            np.concatenate([np.zeros(0, np.int64), *(column(found, name) for found in pairs)])
            for name in ("before", "after")
        )
        order = np.argsort(before)
        self._moved = Moved(before[order], after[order])
        self._first_oov = items.first_oov
        oov = None if items.hashed else items.keys
        rows = items.rows if items.base_rows is None else items.base_rows
        self._table = TableInfo(
            ids="hash" if items.hashed else "vocab", rows=items.rows, oov=oov, keys=items.keys,
            base_rows=rows, base_oov=items.base_oov,
        )  # fmt: skip

    def __call__(self, items: np.ndarray) -> np.ndarray:
        found = translated(items, self._table, self._moved)
        return np.where(found < self._first_oov, found, LEFT)

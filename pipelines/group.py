"""Second stage: all rows of a part of the users together; order in time, splits, counts of keys."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines import split
from pipelines.ids import hash_ids, rank_keys, send_keys
from pipelines.plan import Plan
from pipelines.spool import Ref, SpoolWriter, array, column, read_tables, stable_order
from pipelines.threads import ThreadedDoFn


class GroupUsers(ThreadedDoFn):
    """(user shard, [(first row, ref)]) to (user shard, ("rows", "", 0, ref)), with output `keys`.

    Rows are sorted by user, then oldest first (ties by row number); tables are int32 places among the
    shard's distinct keys in byte order. `keys` holds ((table, part), (user shard, ref)).
    """

    def work(self, element: tuple[int, Iterable[tuple[int, Ref]]], plan: Plan) -> Iterator:
        if plan.failed:
            return
        shard, refs = element
        rows = read_tables(ref for _, ref in sorted(refs))  # ascending row numbers
        keys, columns = {}, {}
        for table in self._job.tables:
            keys[table], columns[table] = rank_keys(array(rows[table]))
        for name in rows.column_names:
            if name not in columns:
                columns[name] = column(rows, name)
        columns = self._sort(columns)
        columns["_split"] = split.assign(
            self._job.dataset.split,
            self._job.dataset.seed,
            plan.cuts,
            columns | {"starts": starts(columns["user"])},
        )
        output = []
        with SpoolWriter(self._job.layout.spool, "group", rows.num_rows) as spool:
            output.append((shard, ("rows", "", 0, spool.add(pa.table(columns)))))
            for table in self._job.tables:
                output += self._send(shard, table, keys[table], columns, plan, spool)
        yield from output

    def _sort(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """By user, then time; rows come in ascending row number, which stays the order of ties."""
        time = columns["timestamp"]
        if (time[1:] >= time[:-1]).all():
            order = stable_order(columns["user"])
        else:
            order = np.lexsort((time, columns["user"]))
        return {name: values[order] for name, values in columns.items()}

    def _send(self, shard: int, table: str, keys: pa.StringArray, columns, plan: Plan, spool) -> Iterator:
        train = columns[table][columns["_split"] == split.TRAIN]
        counts = np.bincount(train, minlength=len(keys)).astype(np.int64)
        config, ids = self._job.ids_of(table), None
        if config.kind == "hash":
            ids = hash_ids(keys, config.rows)
            yield shard, ("map", table, 0, spool.add(pa.table({"id": ids})))
        for part, slice_ in send_keys(self._job, plan, table, keys, counts, ids):
            yield beam.pvalue.TaggedOutput("keys", ((table, part), (shard, spool.add(slice_))))


def starts(users: np.ndarray) -> np.ndarray:
    """int64 [n]: first row of each row's user, for sorted users."""
    begin = np.flatnonzero(np.r_[True, users[1:] != users[:-1]][: len(users)])
    return np.repeat(begin, np.diff(np.r_[begin, len(users)]))

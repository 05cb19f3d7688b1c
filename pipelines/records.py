"""Third stage: ids and histories go into the rows of a part of the users; rows go to their files."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from configs.dataset import SPLITS
from pipelines import split
from pipelines.catalog import item_slices, user_slices
from pipelines.group import starts
from pipelines.hashes import hash_rows
from pipelines.history import gather_ranges, history_ranges
from pipelines.ids import TableIds, id_type
from pipelines.plan import Plan
from pipelines.spool import Ref, SpoolWriter, column, partition, read_table
from pipelines.threads import ThreadedDoFn

_STREAM = 2  # of hash_rows; split.py uses another


class FinishRows(ThreadedDoFn):
    """(user shard, rows and maps) to ((split, file), (bucket, ref)), with output `catalog`."""

    def work(self, element: tuple[int, Iterable], plan: Plan, tables: dict[str, TableIds]) -> Iterator:
        shard, parts = element
        parts = sorted(parts)
        rows = next(read_table(ref) for kind, _, _, ref in parts if kind == "rows")
        columns = {name: column(rows, name) for name in rows.column_names}
        starts_ = starts(columns["user"])
        for table in self._job.tables:
            columns[table] = _map_ids(parts, table, tables[table].rows)[columns[table]]
        output = []
        with SpoolWriter(self._job.layout.spool, "records", rows.num_rows) as spool:
            for key, slice_ in user_slices(self._job, columns, tables["user"]):
                output.append(beam.pvalue.TaggedOutput("catalog", (key, ("rows", shard, spool.add(slice_)))))
            for key, slice_ in item_slices(self._job, columns, tables["item"]):
                output.append(beam.pvalue.TaggedOutput("catalog", (key, ("rows", shard, spool.add(slice_)))))
            for key, bucket, slice_ in self._rows(columns, starts_, plan, tables["item"]):
                output.append((key, (bucket, spool.add(slice_))))
        yield from output

    def _rows(
        self, columns: dict[str, np.ndarray], starts_: np.ndarray, plan: Plan, items: TableIds
    ) -> Iterator:
        """Rows by split, file and bucket: the hash of the row number decides its file and its place there."""
        place = hash_rows(columns["_row"], self._job.dataset.seed, _STREAM)
        files = np.array([self._job.num_files(s) for s in range(len(SPLITS))], np.uint64)
        base = np.cumsum(files) - files
        which = columns["_split"].astype(np.int64)
        bucket_bits = plan.buckets.bit_length() - 1
        bucket = place >> np.uint64(64 - bucket_bits) if bucket_bits else np.uint64(0)
        part = ((base[which] + place % files[which]) << np.uint64(bucket_bits)) + bucket
        order, bounds = partition(part.astype(np.int64), int(files.sum()) << bucket_bits)
        names = [name for name in columns if name not in ("_row", "_split")]
        sorted_columns = {"_place": place[order]} | {name: columns[name][order] for name in names}
        table = pa.table(sorted_columns)
        if self._job.dataset.history_length:
            table = table.append_column("history", self._histories(columns, starts_, items, order))
        for index in np.flatnonzero(np.diff(bounds)):
            file = int(index) >> bucket_bits
            s = int(np.searchsorted(base, file, side="right")) - 1
            key = (s, file - int(base[s]))
            bucket_number = int(index) & (plan.buckets - 1)
            yield key, bucket_number, table.slice(bounds[index], bounds[index + 1] - bounds[index])

    def _histories(self, columns: dict, starts_: np.ndarray, items: TableIds, order: np.ndarray) -> pa.Array:
        """Lists of item ids, oldest first, for rows in `order`."""
        length = self._job.dataset.history_length
        known = columns["item"] < items.keys if self._job.ids_of("item").kind == "vocab" else True
        is_test = columns["_split"] == split.TEST
        train = (columns["_split"] == split.TRAIN) & known
        later = ~is_test & known
        members = np.concatenate([columns["item"][train], columns["item"][later]])
        first, last = history_ranges(starts_, train, length)
        test_first, test_last = history_ranges(starts_, later, length)
        shift = int(train.sum())
        first = np.where(is_test, test_first + shift, first)[order]
        last = np.where(is_test, test_last + shift, last)[order]
        offsets = np.zeros(len(order) + 1, np.int64)
        np.cumsum(last - first, out=offsets[1:])
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(gather_ranges(members, first, last)))


def _map_ids(parts: list, table: str, rows: int) -> np.ndarray:
    """Final ids of the shard's keys of a table, in byte order of the keys."""
    refs: list[Ref] = [ref for kind, name, _, ref in parts if kind == "map" and name == table]
    ids = np.concatenate([column(read_table(ref), "id") for ref in refs])
    return ids.astype(id_type(rows))

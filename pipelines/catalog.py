"""Catalogs: users/ with their sequences, items/ with their counts; both with the newest side features."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from pipelines.ids import CATALOG_FILE_ROWS, TableIds
from pipelines.layout import Job
from pipelines.spool import Ref, array, column, read_table
from pipelines.threads import ThreadedDoFn
from pipelines.write import STEP_ROWS, BlockWriter, WrittenFile, close_durably, open_staged, take

_DIRECTORY = {"user": "users", "item": "items"}
_LENGTH_NAMES = {"sequence": "sequence_length", "sequence_split": None}


def user_slices(job: Job, columns: dict[str, np.ndarray], users: TableIds) -> Iterator:
    """((user, file), table of id, sequence, sequence_split and features) of a shard's users.

    Args:
      columns: final ids and all else of rows sorted by user key, then oldest first.
    """
    ids = columns["user"]
    if job.ids_of("user").kind == "hash":
        order = np.lexsort((columns["_row"], columns["timestamp"], ids))  # keys that share an id are one user
    else:
        order = np.argsort(ids, kind="stable")
        order = order[: np.searchsorted(ids[order], users.keys)]  # without the out-of-vocabulary row
    if not len(order):
        return
    ids = ids[order]
    begin = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    offsets = pa.array(np.r_[begin, len(ids)])
    last = order[np.r_[begin[1:], len(ids)] - 1]
    table = pa.table(
        {
            "id": ids[begin],
            "sequence": pa.LargeListArray.from_arrays(offsets, pa.array(columns["item"][order])),
            "sequence_split": pa.LargeListArray.from_arrays(offsets, pa.array(columns["_split"][order])),
        }
        | {
            feature.name: columns[feature.name][last]
            for feature in job.source.features
            if feature.of == "user"
        }
    )
    yield from _files("user", table)


def item_slices(job: Job, columns: dict[str, np.ndarray], items: TableIds) -> Iterator:
    """((item, file), table of id, timestamp, row and features) with the shard's newest row of each item."""
    names = [feature.name for feature in job.source.features if feature.of == "item"]
    if not names:
        return
    ids = columns["item"]
    order = np.lexsort((columns["_row"], columns["timestamp"], ids))
    ids = ids[order]
    last = order[np.r_[ids[1:] != ids[:-1], True][: len(ids)]]
    if job.ids_of("item").kind == "vocab":
        last = last[columns["item"][last] < items.keys]
    if len(last):
        table = {
            "id": columns["item"][last],
            "timestamp": columns["timestamp"][last],
            "_row": columns["_row"][last],
        }
        yield from _files("item", pa.table(table | {name: columns[name][last] for name in names}))


def _files(table: str, rows: pa.Table) -> Iterator[tuple[tuple[str, int], pa.Table]]:
    """Cuts rows with ascending `id` into catalog files."""
    files = column(rows, "id") // CATALOG_FILE_ROWS
    begin = np.flatnonzero(np.r_[True, files[1:] != files[:-1]])
    for start, stop in itertools.pairwise([*begin.tolist(), len(files)]):
        yield (table, int(files[start])), rows.slice(start, stop - start)


class WriteCatalog(ThreadedDoFn):
    """((table, file), [(keys | rows, part, ref)]) to WrittenFile, ids ascending."""

    def work(self, element: tuple[tuple[str, int], Iterable[tuple[str, int, Ref]]]) -> Iterator[WrittenFile]:
        (table, number), slices = element
        slices = sorted(slices)
        keys = pa.concat_tables(
            [read_table(ref) for kind, _, ref in slices if kind == "keys"]
        ).combine_chunks()
        rows, newest = None, None
        features = [read_table(ref) for kind, _, ref in slices if kind == "rows"]
        if features:
            rows = pa.concat_tables(features).combine_chunks()
            newest = _newest(rows)
            rows = rows.drop_columns([n for n in ("id", "timestamp") if n in rows.column_names])
        written = WrittenFile(_DIRECTORY[table], number, {})
        file = open_staged(self._job.layout.staging, written.directory, written.name)
        writer = BlockWriter(file, self._job.block_rows)
        order = np.argsort(column(keys, "id"), kind="stable")
        names = array(keys["key"]).cast(pa.binary())
        for start in range(0, len(order), STEP_ROWS):
            step = order[start : start + STEP_ROWS]
            columns = {
                "id": column(keys, "id")[step],
                "count": column(keys, "count")[step],
                "key": names.take(pa.array(step)).to_pylist(),
            }
            if rows is not None:
                columns |= take(rows, newest[start : start + STEP_ROWS], _LENGTH_NAMES)
            writer.add(columns)
        info = writer.close()
        close_durably(file)
        yield written._replace(info=info)


def _newest(rows: pa.Table) -> np.ndarray:
    """The newest row of each id, ids ascending. Users have one row each."""
    ids = column(rows, "id")
    keys = [column(rows, name) for name in ("_row", "timestamp") if name in rows.column_names]
    order = np.lexsort((*keys, ids))
    return order[np.r_[ids[order][1:] != ids[order][:-1], True][: len(ids)]]

"""Catalogs: users/ with sequences, items/ with counts; both with side features as of three points in time.
Vocabularies of categorical features are written like them.

configs/manifest.py defines the values of a feature: the newest known one, and those that evaluation of valid
and of test may use.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from configs.manifest import SPLITS, feature_as_of
from pipelines.job import Job
from pipelines.rows.bags import arrow, taken
from pipelines.rows.blocks import BlockWriter, Columns, slice_columns
from pipelines.stages.files import WrittenFile, close_durably, open_staged
from pipelines.stages.ids import CATALOG_FILE_ROWS
from pipelines.stages.spool import Ref, array, column, read_table
from pipelines.stages.threads import ThreadedDoFn
from pipelines.stages.write import STEP_ROWS, take

_DIRECTORY = {"user": "users", "item": "items"}
_FEATURE = "feature/"  # prefix of the kind of an item feature's slices
_VALUE = "value"


class RowFacts(NamedTuple):
    """Facts about a shard's rows besides their columns, in the same order."""

    starts: np.ndarray
    """int64 [n], first row of the row's user."""
    positive: np.ndarray
    """bool [n]."""
    known: dict[str, np.ndarray]
    """By side feature, bool [n]: where its value is not empty."""


def user_slices(job: Job, columns: dict[str, np.ndarray], rows_of: RowFacts) -> Iterator[Any]:
    """((user, file), table of id, sequence, sequence_split and features) of a shard's users.

    Args:
      columns: all columns, with final ids, of rows sorted by user key, then oldest first.
    """
    ids = columns["user"]
    if job.ids_of("user").kind == "hash":
        order = np.lexsort((columns["_row"], columns["timestamp"], ids))  # keys that share an id are one user
    else:
        order = np.argsort(ids, kind="stable")
    if not len(order):
        return
    ids = ids[order]
    begin = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    positive = rows_of.positive[order]
    offsets = pa.array(np.r_[0, np.cumsum(np.add.reduceat(positive.astype(np.int64), begin))])
    mine = order[positive]
    table: dict[str, Any] = {
        "id": ids[begin],
        "sequence": pa.LargeListArray.from_arrays(offsets, pa.array(columns["item"][mine])),
        "sequence_split": pa.LargeListArray.from_arrays(offsets, pa.array(columns["_split"][mine])),
    }
    whose = np.repeat(np.arange(len(begin)), np.diff(np.r_[begin, len(ids)]))
    ends = np.r_[begin[1:], len(ids)] - 1
    whens = {
        name: _first_rows(columns["_split"][order], positive, number, begin, ends)
        for number, name in enumerate(SPLITS[1:], 1)
    }
    for feature in job.source.features:
        if feature.of == "user":
            values, known = taken(columns[feature.name], order), rows_of.known[feature.name][order]
            newest = _newest_known(known, whose)
            table |= arrow(feature.name, taken(values, newest[ends]))
            for name, rows in whens.items():
                table |= arrow(feature_as_of(feature.name, name), taken(values, newest[rows]))
    yield from _files("user", pa.table(table))


def _first_rows(
    splits: np.ndarray, positive: np.ndarray, number: int, begin: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """int64 [users]: each user's first positive row in a split, or else the user's last row."""
    n = len(splits)
    first = np.minimum.reduceat(np.where(positive & (splits == number), np.arange(n), n), begin)
    return np.where(first < n, first, ends)


def _newest_known(known: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """int64 [n]: for each row its owner's newest known row up to it, or else the row itself.

    Args:
      owners: int64 [n], equal ones adjacent, their rows oldest first.
    """
    rows = np.arange(len(known))
    newest = np.maximum.accumulate(np.where(known, rows, -1))
    there = (newest >= 0) & (owners[newest] == owners)
    return np.where(there, newest, rows)


def item_slices(job: Job, columns: dict[str, np.ndarray], known: dict[str, np.ndarray]) -> Iterator[Any]:
    """((item, file), kind, table) of each item feature. The table has, for each item and split, the shard's
    newest row with a known value, or else its newest row: id, timestamp, _row, split, known and value."""
    for feature in job.source.features:
        if feature.of != "item":
            continue
        ids, splits = columns["item"], columns["_split"]
        order = np.lexsort((columns["_row"], columns["timestamp"], known[feature.name], splits, ids))
        differs = (ids[order][1:] != ids[order][:-1]) | (splits[order][1:] != splits[order][:-1])
        last = order[np.r_[differs, True][: len(order)]]
        if not len(last):
            continue
        table = {"id": ids[last], "split": splits[last], "known": known[feature.name][last]}
        table |= {name: columns[name][last] for name in ("timestamp", "_row")}
        values = arrow(_VALUE, taken(columns[feature.name], last))
        for key, slice_ in _files("item", pa.table(table | values)):
            yield key, _FEATURE + feature.name, slice_


def _files(table: str, rows: pa.Table) -> Iterator[tuple[tuple[str, int], pa.Table]]:
    """Cuts rows with ascending `id` into catalog files."""
    files = column(rows, "id") // CATALOG_FILE_ROWS
    begin = np.flatnonzero(np.r_[True, files[1:] != files[:-1]])
    for start, stop in itertools.pairwise([*begin.tolist(), len(files)]):
        yield (table, int(files[start])), rows.slice(start, stop - start)


class WriteCatalog(ThreadedDoFn):
    """((table, file), [(keys | rows | feature/<name>, part, ref)]) to WrittenFile, ids ascending."""

    def work(self, element: tuple[tuple[str, int], Iterable[tuple[str, int, Ref]]]) -> Iterator[WrittenFile]:
        (table, number), slices = element
        by_kind: dict[str, list[Ref]] = {}
        for kind, _, ref in sorted(slices):
            by_kind.setdefault(kind, []).append(ref)
        whole = {kind: _concatenated(refs) for kind, refs in by_kind.items()}
        keys, rows = whole["keys"], whole.get("rows")
        written = WrittenFile(_DIRECTORY.get(table, "vocabularies"), number, {})
        if table not in _DIRECTORY:
            written = written._replace(table=table)
        file = open_staged(self._job.layout.staging, written.directory, written.name)
        writer = BlockWriter(file, self._job.block_rows)
        order = np.argsort(column(keys, "id"), kind="stable")
        features: Columns = {}
        coverage: dict[str, int] = {}
        for kind, values in whole.items():
            if kind.startswith(_FEATURE):
                name = kind.removeprefix(_FEATURE)
                found, coverage[name] = _as_of_each(name, values)
                features |= found
        if rows is not None:
            of_users = np.argsort(column(rows, "id"), kind="stable")  # one row each
            rows = rows.drop_columns(["id"])
        names = array(keys["key"]).cast(pa.binary())
        for start in range(0, len(order), STEP_ROWS):
            step = order[start : start + STEP_ROWS]
            columns = {
                "id": column(keys, "id")[step],
                "count": column(keys, "count")[step],
                "key": names.take(pa.array(step)).to_pylist(),
            }
            columns |= slice_columns(features, start, start + STEP_ROWS)
            if rows is not None:
                columns |= take(rows, of_users[start : start + STEP_ROWS])
            writer.add(columns)
        info = writer.close()
        close_durably(file)
        yield written._replace(info=info, coverage=coverage)


def _concatenated(refs: list[Ref]) -> pa.Table:
    return pa.concat_tables([read_table(ref) for ref in refs]).combine_chunks()


def _as_of_each(name: str, rows: pa.Table) -> tuple[Columns, int]:
    """An item feature and its values as of valid and test, ids ascending, from the slices of all shards; and
    the number of items with a known value."""
    ids, splits, known, times, numbers = (
        column(rows, n) for n in ("id", "split", "known", "timestamp", "_row")
    )
    columns: Columns = {}
    values = rows.select([column for column in rows.column_names if column.partition("/")[0] == _VALUE])
    for number, split in enumerate((*SPLITS[1:], ""), 1):  # rows of earlier splits, finally all rows
        order = np.lexsort((numbers, times, known, splits < number, ids))
        last = order[np.r_[ids[order][1:] != ids[order][:-1], True][: len(ids)]]
        as_of = feature_as_of(name, split) if split else name
        columns |= take(values.rename_columns([as_of + n[len(_VALUE) :] for n in values.column_names]), last)
    return columns, int(np.count_nonzero(known[last]))

"""Catalogs: users/ with sequences, items/ with counts; both with side features as of three points in time.
Vocabularies of categorical features are written like them.

configs/manifest.py defines the values of a feature: the newest known one, and those that evaluation of valid
and of test may use.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from configs.columns import feature_as_of, feature_of_column
from configs.manifest import SPLITS
from configs.sections.dataset import GivenIdsConfig, HashIdsConfig
from configs.sections.features import (
    CategoricalFeatureConfig,
    CrossFeatureConfig,
    NumericFeatureConfig,
    VectorFeatureConfig,
)
from configs.transforms import before_standardize
from pipelines.base.numbering import TableIds
from pipelines.job import Job
from pipelines.rows.bags import arrow, taken
from pipelines.rows.blocks import BlockWriter, Columns, Lists, slice_columns
from pipelines.stages.files import WrittenFile, close_durably, open_staged
from pipelines.stages.ids import CATALOG_FILE_ROWS, hash_ids
from pipelines.stages.members import crossed
from pipelines.stages.plan import Plan
from pipelines.stages.spool import Ref, array, column, read_table
from pipelines.stages.threads import ThreadedDoFn
from pipelines.stages.write import STEP_ROWS, take, write_vectors
from pipelines.statistics.moments import Moments

_DIRECTORY = {"user": "users", "item": "items"}
_FEATURE = "feature/"  # prefix of the kind of an item feature's slices
SIDE = "side/"
"""Prefix of the kind of a side table's slices."""
VECTOR = "vector/"
"""Prefix of the kind of a vector's slices."""
ALL = "all"
"""Kind of an element without a slice, which makes a file for a range of ids without keys."""
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
    if "user" not in job.owners:
        return
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
    listed = positive if job.has_pairs else np.zeros(len(order), bool)
    offsets = pa.array(np.r_[0, np.cumsum(np.add.reduceat(listed.astype(np.int64), begin))])
    mine = order[listed]
    table: dict[str, Any] = {
        "id": ids[begin],
        "sequence": pa.LargeListArray.from_arrays(offsets, pa.array(columns.get("item", ids)[mine])),
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
    yield from by_catalog_file("user", pa.table(table))


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
        for key, slice_ in by_catalog_file("item", pa.table(table | values)):
            yield key, _FEATURE + feature.name, slice_


def by_catalog_file(table: str, rows: pa.Table) -> Iterator[tuple[tuple[str, int], pa.Table]]:
    """Cuts rows with ascending `id` into catalog files."""
    files = column(rows, "id") // CATALOG_FILE_ROWS
    begin = np.flatnonzero(np.r_[True, files[1:] != files[:-1]][: len(files)])
    for start, stop in itertools.pairwise([*begin.tolist(), len(files)]):
        yield (table, int(files[start])), rows.slice(start, stop - start)


class WriteCatalog(ThreadedDoFn):
    """((table, file), [(kind, part, ref)]) to WrittenFile, ids ascending, and those of vectors.

    Kinds are keys, rows (of users), feature/<name>, and those of pipelines/stages/sides.py.
    """

    def work(
        self, element: tuple[tuple[str, int], Iterable[tuple[str, int, Ref]]], tables: dict[str, TableIds]
    ) -> Iterator[WrittenFile]:
        (table, number), slices = element
        by_kind: dict[str, list[Ref]] = {}
        for kind, _, ref in sorted(slices):
            by_kind.setdefault(kind, []).append(ref)
        for name, dim in self._vectors(table).items():
            rows = min(tables[table].catalog_rows - number * CATALOG_FILE_ROWS, CATALOG_FILE_ROWS)
            refs = by_kind.pop(VECTOR + name, [])
            if not refs and self._job.base is not None:
                continue
            yield write_vectors(self._job.layout.staging, _DIRECTORY[table], name, number, refs, rows, dim)
        by_kind.pop(ALL, None)
        if by_kind:
            whole = {kind: _concatenated(refs) for kind, refs in by_kind.items()}
            yield self._write(table, number, whole, tables)

    def _vectors(self, table: str) -> dict[str, int]:
        """Number of values of each vector feature of users or items."""
        features = self._job.source.all_features
        return {f.name: f.dim for f in features if isinstance(f, VectorFeatureConfig) and f.of == table}

    def _write(
        self, table: str, number: int, whole: dict[str, pa.Table], tables: dict[str, TableIds]
    ) -> WrittenFile:
        written = WrittenFile(_DIRECTORY.get(table, "vocabularies"), number, {})
        if table not in _DIRECTORY:
            written = written._replace(table=table)
        file = open_staged(self._job.layout.staging, written.directory, written.name)
        writer = BlockWriter(file, self._job.block_rows)
        keys = whole.pop("keys")
        order = np.argsort(column(keys, "id"), kind="stable")
        ids, counts = column(keys, "id")[order], column(keys, "count")[order]
        columns, coverage = self._features(table, ids, whole, tables)
        names = array(keys["key"]).cast(pa.binary())
        for start in range(0, len(order), STEP_ROWS):
            step = slice(start, start + STEP_ROWS)
            found: Columns = {"id": ids[step], "count": counts[step]}
            found["key"] = names.take(pa.array(order[step])).to_pylist()
            writer.add(found | slice_columns(columns, start, start + STEP_ROWS))
        info = writer.close()
        close_durably(file)
        moments = self._moments(columns, counts)
        return written._replace(info=info, coverage=coverage, moments=moments)

    def _features(
        self, table: str, ids: np.ndarray, whole: dict[str, pa.Table], tables: dict[str, TableIds]
    ) -> tuple[Columns, dict[str, int]]:
        """All columns besides keys, of `ids`, and the number of items with a known value by feature."""
        columns: Columns = {}
        coverage: dict[str, int] = {}
        empties = functools.cache(lambda name: empty_value(self._job, name, tables))
        for kind, rows in whole.items():
            there = np.unique(column(rows, "id"))
            if kind.startswith(_FEATURE):
                name = kind.removeprefix(_FEATURE)
                found, coverage[name] = _as_of_each(name, rows)
            else:
                mine = np.argsort(column(rows, "id"), kind="stable")  # one row each
                found = take(rows.drop_columns(["id"]), mine)
            columns |= spread(found, there, ids, empties)
        return columns, coverage

    def _moments(self, columns: Columns, counts: np.ndarray) -> dict[str, Moments]:
        """Of numeric features of side tables, over users or items with train rows."""
        found = {}
        for side in self._job.sides:
            for feature in side.numbers:
                if feature.name in columns and "standardize" in feature.steps:
                    values = before_standardize(feature.steps, columns[feature.name][counts > 0], np)
                    values = values[~np.isnan(values)]
                    if len(values):
                        found[feature.name] = Moments.of(values)
        return found


def vector_files(job: Job, tables: dict[str, TableIds], plan: Plan) -> Iterator[Any]:
    """((user or item, file), (ALL, 0, no ref)) of every file of vectors, which need not have any key."""
    if plan.failed or job.base is not None:  # a day has only the files with vectors
        return
    for table in job.owners:
        if any(isinstance(f, VectorFeatureConfig) and f.of == table for f in job.source.all_features):
            for number in range(-(-tables[table].catalog_rows // CATALOG_FILE_ROWS)):
                yield (table, number), (ALL, 0, ("", 0, 0))


def empty_value(job: Job, column_: str, tables: dict[str, TableIds]) -> float | int:
    """Value of a catalog column of users or items for whom it is not known."""
    name = feature_of_column(column_)
    feature = next(f for f in job.source.all_features if f.name == name)
    if isinstance(feature, NumericFeatureConfig):
        return np.nan if feature.missing is None else feature.missing
    if isinstance(feature, CrossFeatureConfig):
        key = crossed([(pa.array([""]), np.zeros(1, np.int32))] * len(feature.keys)).dictionary
        return int(hash_ids(key, feature.rows)[0])
    assert isinstance(feature, CategoricalFeatureConfig)
    ids = job.ids_of(feature.table_name)
    if isinstance(ids, HashIdsConfig):
        return int(hash_ids(pa.array([""]), ids.rows)[0])
    if isinstance(ids, GivenIdsConfig):  # no line of a vocabulary file is empty
        return job.given[feature.table_name] + int(hash_ids(pa.array([""]), ids.oov_rows)[0])
    return tables[feature.table_name].empty


def spread(
    columns: Columns, there: np.ndarray, ids: np.ndarray, empty: Callable[[str], float | int]
) -> Columns:
    """Columns of the ids `there` as columns of `ids`, which contain them; both ascending.

    Args:
      empty: value of a column where there is none; lists are empty.
    """
    if len(there) == len(ids):
        return columns
    place = np.searchsorted(there, ids)
    place[np.r_[there, -1][place] != ids] = len(there)
    found: Columns = {}
    for name, values in columns.items():
        if isinstance(values, Lists):
            longer = Lists(values.values, np.r_[values.offsets, values.offsets[-1]], values.length_name)
            found[name] = longer.take(place)
        else:
            found[name] = np.append(values, np.array([empty(name)], values.dtype))[place]
    return found


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

"""Third stage: adds ids and histories to the rows of a user shard and sends rows to their files.

dataset.keep_negatives thins train rows here, when all that counts rows has seen them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from configs.columns import label_column
from configs.manifest import SPLITS
from pipelines.base.numbering import TableIds
from pipelines.job import RECORDS, Job
from pipelines.rows import split
from pipelines.rows.bags import BagColumn, arrow, taken
from pipelines.rows.hashes import hash_rows, unit_hashes
from pipelines.rows.history import OtherItems, Past, earlier_items, gather_ranges
from pipelines.stages.catalog import RowFacts, item_slices, user_slices
from pipelines.stages.group import known_column, starts
from pipelines.stages.ids import id_type
from pipelines.stages.members import bags_of
from pipelines.stages.plan import Plan
from pipelines.stages.spool import Ref, SpoolWriter, array, column, partition, read_table
from pipelines.stages.threads import ThreadedDoFn
from pipelines.statistics.coverage import occurrences, value_counts
from pipelines.statistics.distributions import Spreads

PAST = "past"
"""Kind of a part with the items of users in the datasets below."""
_STREAM, _HISTORY_STREAM, _THINNING = 2, 3, 4  # of hash_rows; split.py uses another


class FinishRows(ThreadedDoFn):
    """(user shard, rows and maps) to ((directory, file), (bucket, ref)), with outputs `catalog`, `counts` and
    `numbers`: distributions of ids."""

    def work(
        self, element: tuple[int, Iterable[Any]], plan: Plan, tables: dict[str, TableIds]
    ) -> Iterator[Any]:
        shard, parts = element
        parts = sorted(parts)
        rows = next(read_table(ref) for kind, _, _, ref in parts if kind == "rows")
        columns: dict[str, Any] = {name: column(rows, name) for name in rows.column_names}
        rows_of = RowFacts(
            starts(columns),
            self._job.dataset.is_positive(columns["label"]),
            {f.name: columns.pop(known_column(f.name)) for f in self._job.source.features},
        )
        columns |= mapped(parts, self._job.columns, columns, tables)
        counts = self._left_out(columns, rows_of, tables["user"]) if "user" in self._job.owners else Counter()
        oov = {name: tables[table].first_oov for name, table in self._job.columns.items()}
        counts += value_counts(self._job.source.features, columns, rows_of.known, oov)
        kept = self._kept(columns, rows_of)
        counts["thinned"] += int(np.count_nonzero(~kept))
        spreads = id_spreads(self._job, self._job.columns, columns, rows_of.known, tables)
        output = [beam.pvalue.TaggedOutput("counts", counts + spreads.counts)]
        output.append(beam.pvalue.TaggedOutput("numbers", spreads.histograms))
        with SpoolWriter(self._job.layout.spool, "records", rows.num_rows) as spool:
            for key, slice_ in user_slices(self._job, columns, rows_of):
                output.append(beam.pvalue.TaggedOutput("catalog", (key, ("rows", shard, spool.add(slice_)))))
            for key, name, slice_ in item_slices(self._job, columns, rows_of.known):
                output.append(beam.pvalue.TaggedOutput("catalog", (key, (name, shard, spool.add(slice_)))))
            histories = self._histories(columns, rows_of, tables.get("item"), parts)
            for key, bucket, slice_ in self._rows(columns, rows_of, kept, plan, histories):
                output.append((key, (bucket, spool.add(slice_))))
        yield from output

    def _left_out(self, columns: dict[str, np.ndarray], rows_of: RowFacts, users: TableIds) -> Counter[str]:
        """Counts users, and their positive rows, in held-out splits that evaluation leaves out; see
        SplitInfo."""
        mine = np.flatnonzero(rows_of.positive)
        ids, owner = np.unique(columns["user"][mine].astype(np.int64), return_inverse=True)
        shares_row = (ids >= users.keys) & (self._job.ids_of("user").kind != "hash")
        rows = np.zeros((len(SPLITS), len(ids)), np.int64)
        np.add.at(rows, (columns["_split"][mine], owner), 1)
        known = np.zeros(len(ids), bool) if users.base_oov is None else ids < users.keys  # by the base
        counts: Counter[str] = Counter()
        for number, name in enumerate(SPLITS[1:], 1):
            for kind, whom in (("cold", (rows[0] == 0) & ~known), ("rare", (rows[0] > 0) & shares_row)):
                held_out = rows[number][whom & (rows[number] > 0)]
                counts[f"{name}/{kind}_users"] += len(held_out)
                counts[f"{name}/{kind}_user_rows"] += int(held_out.sum())
        return counts

    def _kept(self, columns: dict[str, np.ndarray], rows_of: RowFacts) -> np.ndarray:
        """bool [n]: the rows that stay in records. Of the train rows in which all labels are 0 or empty,
        a share by a hash of their numbers."""
        share = self._job.dataset.keep_negatives
        if share == 1:
            return np.ones(len(columns["_row"]), bool)
        kept = columns["_split"] != split.TRAIN
        if self._job.source.roles.label is not None:
            kept |= rows_of.positive
        for name in self._job.source.roles.learned_labels:
            kept |= np.nan_to_num(columns[label_column(name)]) != 0
        return kept | (unit_hashes(columns["_row"], self._job.dataset.seed, _THINNING) < share)

    def _rows(
        self,
        columns: dict[str, np.ndarray],
        rows_of: RowFacts,
        kept: np.ndarray,
        plan: Plan,
        histories: Callable[[np.ndarray], pa.Array] | None,
    ) -> Iterator[Any]:
        """Rows by directory, file and bucket; the hash of a row's number determines its file and position.

        Args:
          kept: bool [n], those that stay.
        """
        place = hash_rows(columns["_row"], self._job.dataset.seed, _STREAM)
        files = np.array([self._job.num_files(s) for s in range(len(RECORDS))], np.uint64)
        base = np.cumsum(files) - files
        row = np.flatnonzero(kept)
        which = columns["_split"][row].astype(np.int64)
        if not plan.all_positive and self._job.has_pairs:
            again = np.flatnonzero((columns["_split"] == split.TRAIN) & rows_of.positive & kept)
            row, which = np.r_[row, again], np.r_[which, np.full(len(again), RECORDS.index("positives"))]
        bucket_bits = plan.buckets.bit_length() - 1
        bucket = place[row] >> np.uint64(64 - bucket_bits) if bucket_bits else np.uint64(0)
        part = ((base[which] + place[row] % files[which]) << np.uint64(bucket_bits)) + bucket
        order, bounds = partition(part.astype(np.int64), int(files.sum()) << bucket_bits)
        names = [name for name in columns if name not in ("_row", "_split")]
        for index in np.flatnonzero(np.diff(bounds)):
            file = int(index) >> bucket_bits
            s = int(np.searchsorted(base, file, side="right")) - 1
            chosen = row[order[bounds[index] : bounds[index + 1]]]
            found = {"_place": place[chosen]}
            for name in names:
                found |= arrow(name, taken(columns[name], chosen))
            table = pa.table(found)
            if histories:
                table = table.append_column("history", histories(chosen))
            yield (s, file - int(base[s])), int(index) & (plan.buckets - 1), table

    def _histories(
        self, columns: dict[str, np.ndarray], rows_of: RowFacts, items: TableIds | None, parts: list[Any]
    ) -> Callable[[np.ndarray], pa.Array] | None:
        """Function from row numbers int64 [k] to their histories as lists, since those of a whole shard might
        not fit in memory; None without histories.

        Args:
          parts: all that the shard got.
        """
        length = self._job.dataset.history_length
        if not length or items is None:
            return None
        known = columns["item"] < items.keys if self._job.ids_of("item").kind != "hash" else True
        is_train, is_test = columns["_split"] == split.TRAIN, columns["_split"] == split.TEST
        train = is_train & known & rows_of.positive
        if self._job.dataset.history_of == "others":
            seed = self._job.dataset.seed
            turn = np.where(is_train, hash_rows(columns["_row"], seed, _HISTORY_STREAM), np.uint64(0))
            others = OtherItems(rows_of.starts, columns["user"], columns["item"], train, turn, seed)
            return lambda rows: _lists(*others.gather(rows, length))
        later = ~is_test & known & rows_of.positive
        past = past_of(parts, columns["user"], rows_of.starts, columns["item"].dtype)
        values, first, last = earlier_items(rows_of.starts, columns["item"], train, length, past)
        test_values, test_first, test_last = earlier_items(
            rows_of.starts, columns["item"], later, length, past
        )
        members, shift = np.concatenate([values, test_values]), len(values)
        first, last = np.where(is_test, test_first + shift, first), np.where(is_test, test_last + shift, last)
        return lambda rows: _lists((last - first)[rows], gather_ranges(members, first[rows], last[rows]))


def _lists(lengths: np.ndarray, values: np.ndarray) -> pa.LargeListArray:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))


def id_spreads(
    job: Job,
    of: dict[str, str],
    columns: dict[str, Any],
    known: dict[str, np.ndarray],
    tables: dict[str, TableIds],
) -> Spreads:
    """Distributions of columns of ids.

    Args:
      of: table of each column.
      columns: ids of rows, or a BagColumn.
      known: by feature, bool [rows], where its value is not empty; every row has users and items.
    """
    found = Spreads(job.base_bins)
    for name, table in of.items():
        mask = known.get(name)
        mask = np.ones(len(columns[name]), bool) if mask is None else mask
        ids, times = occurrences(columns[name], mask)
        empty, first_oov = int(np.count_nonzero(~mask)), tables[table].first_oov
        found.add_ids(name, ids, times, empty, first_oov, tables[table].is_new(ids))
    return found


def past_of(parts: list[Any], users: np.ndarray, starts: np.ndarray, dtype: Any) -> Past | None:
    """What came before the rows of a shard; None: nothing.

    Args:
      parts: all that the shard got.
      users: int [n], id of each row's user; rows are sorted by user.
      starts: int64 [n], first row of the row's user.
      dtype: of ids of items.
    """
    tables = [read_table(ref) for kind, _, _, ref in parts if kind == PAST]
    if not any(table.num_rows for table in tables):
        return None
    found = pa.concat_tables(tables).combine_chunks()
    order = np.argsort(column(found, "id"), kind="stable")
    ids = column(found, "id")[order]
    lists = array(found["items"])
    offsets = lists.offsets.to_numpy()
    mine = users[starts == np.arange(len(starts))].astype(np.int64)
    place = np.searchsorted(ids, mine)
    place = np.where(np.append(ids, -1)[place] == mine, np.append(order, -1)[place], -1)
    first = np.where(place < 0, 0, offsets[:-1][place])
    last = np.where(place < 0, 0, offsets[1:][place])
    values = lists.values.to_numpy(zero_copy_only=False).astype(dtype)
    return Past(last - first, gather_ranges(values, first, last))


def mapped(
    parts: list[Any], of: dict[str, str], columns: dict[str, np.ndarray], tables: dict[str, TableIds]
) -> "dict[str, np.ndarray | BagColumn]":
    """Columns of final ids.

    Args:
      parts: all that a shard got, in order: maps of tables and bags of columns.
      of: table of each column.
      columns: indices int32 [n] into the shard's keys of the table, or into its bags.
    """
    maps = {table: _map_ids(parts, table, tables[table].id_bound) for table in dict.fromkeys(of.values())}
    found: dict[str, np.ndarray | BagColumn] = {}
    for name, table in of.items():
        ref = next((ref for kind, column_, _, ref in parts if (kind, column_) == ("bags", name)), None)
        if ref is None:
            found[name] = maps[table][columns[name]]
        else:
            bags = bags_of(read_table(ref))
            found[name] = BagColumn(columns[name], bags._replace(members=maps[table][bags.members]))
    return found


def _map_ids(parts: list[Any], table: str, bound: int) -> np.ndarray:
    """Final ids, below `bound`, of the shard's keys of a table, in byte order of the keys."""
    refs: list[Ref] = [ref for kind, name, _, ref in parts if kind == "map" and name == table]
    ids = np.concatenate([np.zeros(0, np.int64), *(column(read_table(ref), "id") for ref in refs)])
    for kind, name, _, ref in parts:
        if (kind, name) == ("order", table):
            ids = put_back(ids, column(read_table(ref), "order"))
    return ids.astype(id_type(bound))


def put_back(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The values of which `values` are those in `order`."""
    found = np.empty_like(values)
    found[order] = values
    return found

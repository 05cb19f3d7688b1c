"""Ids: exact dense ids by descending train frequency, or hashed ids.

Every user shard counts its distinct keys. Keys are divided into ranges at sampled splitters; each range sums
the counts of its keys and sorts them. The number of keys of each count in each range determines the first id
of each count in each range, in the order (count descending, range, key), which is (count descending, key).
Keys outside the vocabulary of users and items get catalog ids after it in the order (range, key), which is by
key. No step has more than one range of keys in memory.
"""

import collections
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from configs.manifest import VECTOR_ROWS
from configs.sections.dataset import GivenIdsConfig, HashIdsConfig, VocabIdsConfig
from configs.system.chips import spare_metadata_server
from pipelines.job import Job
from pipelines.stages.members import merge_given, merge_given_owners, merge_hashed, merge_keys
from pipelines.stages.plan import Plan, key_bounds
from pipelines.stages.spool import Ref, SpoolWriter, column, partition, read_table
from pipelines.stages.threads import ThreadedDoFn

CATALOG_FILE_ROWS = VECTOR_ROWS  # 25 million keys make 382 files
WITH_CATALOG = ("user", "item")
"""Tables whose keys have a catalog, and catalog ids."""


class CountHistogram(NamedTuple):
    """Number of keys of each train count in one part of a table."""

    table: str
    part: int
    counts: np.ndarray
    """int64, descending: counts of keys in the vocabulary."""
    numbers: np.ndarray
    """int64: keys of each count."""
    others: int
    """Number of keys outside the vocabulary."""
    met: int = 0
    """Number of keys that occur in the interactions, with side tables and WITH_CATALOG only."""
    empty: int | None = None
    """Count of the empty key; None: it is not in this part."""
    deepest: int = 0
    """The most keys on one out-of-vocabulary row, with given ids and WITH_CATALOG only."""


class TableIds(NamedTuple):
    """The ids of a table, from all its parts."""

    keys: int
    """Distinct keys in train (with vocab: with at least min_count rows)."""
    rows: int
    """Rows of the table."""
    others: int
    """Distinct keys on the out-of-vocabulary row."""
    first_ids: dict[int, np.ndarray]
    """By part: first id of each of its counts, as in its CountHistogram."""
    catalog_rows: int = 0
    """As TableInfo.catalog_rows; 0 for tables without a catalog."""
    first_others: dict[int, int] = {}
    """By part: first catalog id of its keys outside the vocabulary, if there are catalog ids."""
    met: int = 0
    """As in CountHistogram."""
    empty: int = 0
    """Id of the empty key, with side tables only."""
    hashed: bool = False
    """Whether no id is out of vocabulary."""

    @property
    def first_oov(self) -> int:
        """First id that is out of vocabulary; the number of rows if none is."""
        return self.rows if self.hashed else self.keys

    @property
    def id_bound(self) -> int:
        """One more than the largest id."""
        return max(self.rows, self.catalog_rows)


def hash_ids(keys: pa.Array, rows: int) -> np.ndarray:
    """int64 [n] ids of keys (text), equal to tf.strings.to_hash_bucket_fast in a serving graph."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # otherwise it logs an error that there is no GPU
    spare_metadata_server()
    import tensorflow as tf  # imported in this mode only

    if not len(keys):
        return np.zeros(0, np.int64)
    with tf.device("CPU"):
        return tf.strings.to_hash_bucket_fast(keys.to_pylist(), rows).numpy()


def id_type(rows: int) -> type:
    """int32 if it can represent ids below `rows`, else int64."""
    return np.int32 if rows <= 2**31 else np.int64


def send_keys(
    job: Job, plan: Plan, table: str, keys: pa.StringArray, counts: np.ndarray, ids: np.ndarray | None
) -> Iterator[tuple[int, pa.Table]]:
    """Cuts a user shard's distinct keys into the table's parts: (part, table of key, count and, hashed, id).

    Args:
      keys: distinct, in byte order.
      counts: int64 train rows of each.
      ids: int64 ids if they are hashed or given, or None under vocab.
    """
    if ids is None:
        bounds = key_bounds(keys, plan.splitters.get(table, []))
        whole = pa.table({"key": keys, "count": counts})
    else:
        order, begins = parts_of(job, table, ids)
        bounds = begins.tolist()
        whole = pa.table({"key": keys.take(pa.array(order)), "count": counts[order], "id": ids[order]})
    for part, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if stop > start:
            yield part, whole.slice(start, stop - start)


def parts_of(job: Job, table: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order of keys by part of the table, where each part begins) by their hashed or given ids."""
    shards = job.layout.key_shards
    return partition(ids * shards // _known_rows(job, table), shards)


def _known_rows(job: Job, table: str) -> int:
    """Rows of a table with hashed or given ids."""
    ids = job.ids_of(table)
    if isinstance(ids, GivenIdsConfig):
        return job.given[table] + ids.oov_rows
    assert isinstance(ids, HashIdsConfig)
    return ids.rows


def _min_count(job: Job, table: str) -> int:
    """Train rows that a key of a vocabulary needs."""
    ids = job.ids_of(table)
    assert isinstance(ids, VocabIdsConfig)
    return ids.min_count


class CountKeys(ThreadedDoFn):
    """((table, part), [(user shard, ref)]) to ((table, part), ref of keys, [(user shard, ref of ranks)]).

    Output `histogram` holds a CountHistogram per part.
    """

    def work(self, element: tuple[tuple[str, int], Iterable[tuple[int, Ref]]]) -> Iterator[Any]:
        (table, part), slices = element
        slices = sorted(slices)
        pieces = [read_table(ref) for _, ref in slices]
        whole = pa.concat_tables(pieces)
        refs: list[tuple[int, Ref]] = []  # of ranks; hashed and given ids are known to their shards
        with SpoolWriter(self._job.layout.spool, "ids") as spool:
            met = self._met(table, slices, pieces)
            if self._job.ids_of(table).kind == "hash":
                merged, seen = merge_hashed(whole)
                refs = [] if met is None else self._facts_of_hashed(slices, pieces, whole, met, spool)
                histogram = CountHistogram(table, part, np.array([1]), np.array([seen]), 0)
            elif self._job.ids_of(table).kind == "given":
                keys = self._job.given[table]
                if table in WITH_CATALOG:
                    bound = _known_rows(self._job, table)
                    merged, ranks, deepest = merge_given_owners(whole, keys, bound)
                    refs = self._given_refs(slices, pieces, ranks, merged, met, spool)
                    others = int(np.count_nonzero(column(merged, "id") >= bound))
                else:
                    (merged, others), deepest = merge_given(whole, keys), 0
                number = np.array([merged.num_rows])
                histogram = CountHistogram(table, part, np.array([1]), number, others, deepest=deepest)
            else:
                merged, ranks = merge_keys(whole)
                ends = np.cumsum([piece.num_rows for piece in pieces])
                parts = np.split(ranks, ends[:-1])
                refs = [
                    (shard, spool.add(pa.table({"rank": r})))
                    for (shard, _), r in zip(slices, parts, strict=True)
                ]
                histogram = self._histogram(table, part, column(merged, "count"))
                if met is not None:
                    merged = merged.append_column("met", pa.array(_any_of(ranks, met, merged.num_rows)))
                elif merged.num_rows and merged["key"][0].as_py() == "":
                    histogram = histogram._replace(empty=merged["count"][0].as_py())
            if met is not None:
                histogram = histogram._replace(met=_distinct(whole, met))
            output = (table, part), spool.add(merged), refs
        yield output
        yield beam.pvalue.TaggedOutput("histogram", histogram)

    def _met(self, table: str, slices: list[tuple[int, Ref]], pieces: list[pa.Table]) -> np.ndarray | None:
        """Which of the keys come from interactions, bool [keys of all pieces]; None: it does not matter."""
        if table not in WITH_CATALOG or not self._job.source.sides:
            return None
        from_rows = [0 <= shard < self._job.layout.user_shards for shard, _ in slices]
        return np.repeat(from_rows, [piece.num_rows for piece in pieces])

    def _given_refs(
        self,
        slices: list[tuple[int, Ref]],
        pieces: list[pa.Table],
        ranks: np.ndarray,
        merged: pa.Table,
        met: np.ndarray | None,
        spool: SpoolWriter,
    ) -> list[tuple[int, Ref]]:
        """For each shard its keys' catalog ids, and for side tables what AssignIds adds to them."""
        facts = {"id": column(merged, "id")}
        if met is not None:
            counts = column(merged, "count")
            facts |= {"count": counts, "total": counts, "met": _any_of(ranks, met, merged.num_rows)}
        ends = np.cumsum([piece.num_rows for piece in pieces])
        found = []
        for (shard, _), own in zip(slices, np.split(ranks, ends[:-1]), strict=True):
            names = list(facts) if shard >= self._job.layout.user_shards else ["id"]
            if shard >= 0:  # not the vocabulary file
                found.append((shard, spool.add(pa.table({name: facts[name][own] for name in names}))))
        return found

    def _facts_of_hashed(
        self,
        slices: list[tuple[int, Ref]],
        pieces: list[pa.Table],
        whole: pa.Table,
        met: np.ndarray,
        spool: SpoolWriter,
    ) -> list[tuple[int, Ref]]:
        """For each part of a side table, as AssignIds does for exact ids: id, count, total and met."""
        merged, ranks = merge_keys(whole)
        ids = column(whole.combine_chunks(), "id")
        counts = column(merged, "count")
        own = np.zeros(merged.num_rows, np.int64)
        own[ranks] = ids
        _, place = np.unique(own, return_inverse=True)
        totals = np.bincount(place, weights=counts).astype(np.int64)[place]
        known = _any_of(ranks, met, merged.num_rows)
        facts = pa.table({"id": own, "count": counts, "total": totals, "met": known})
        found, end = [], 0
        for (shard, _), piece in zip(slices, pieces, strict=True):
            start, end = end, end + piece.num_rows
            if shard >= self._job.layout.user_shards:
                found.append((shard, spool.add(facts.take(pa.array(ranks[start:end])))))
        return found

    def _histogram(self, table: str, part: int, counts: np.ndarray) -> CountHistogram:
        admitted = counts[counts >= _min_count(self._job, table)]
        values, numbers = np.unique(admitted, return_counts=True)
        others = len(counts) - len(admitted)
        return CountHistogram(table, part, values[::-1].copy(), numbers[::-1].copy(), others)


def _any_of(ranks: np.ndarray, chosen: np.ndarray, size: int) -> np.ndarray:
    """bool [size]: which ranks occur among the chosen rows."""
    found = np.zeros(size, bool)
    found[ranks[chosen]] = True
    return found


def _distinct(whole: pa.Table, chosen: np.ndarray) -> int:
    """Number of distinct keys among the chosen rows."""
    return len(whole["key"].combine_chunks().filter(pa.array(chosen)).unique())


def plan_ids(histograms: list[CountHistogram], job: Job, tables: list[str]) -> dict[str, TableIds]:
    """First ids of every (table, part, count), by prefix sums in the order (count descending, part).

    Args:
      tables: whose ids are planned.
    """
    by_table = collections.defaultdict(list)
    for histogram in sorted(histograms, key=lambda h: (h.table, h.part)):
        by_table[histogram.table].append(histogram)
    result = {}
    for table in tables:
        parts = by_table[table]
        keys = sum(int(h.numbers.sum()) for h in parts)
        ids = job.ids_of(table)
        if ids.kind == "hash":
            catalog_rows = ids.rows if table in WITH_CATALOG else 0
            met = sum(h.met for h in parts)
            result[table] = TableIds(keys, ids.rows, 0, {}, catalog_rows, met=met, hashed=True)
            continue
        others = sum(h.others for h in parts)
        if ids.kind == "given":
            found = TableIds(job.given[table], _known_rows(job, table), others, {})
            if table in WITH_CATALOG:
                deepest = max((h.deepest for h in parts), default=0)
                catalog_rows = found.rows + deepest * (found.rows - found.keys)
                found = found._replace(catalog_rows=catalog_rows, met=sum(h.met for h in parts))
            result[table] = found
            continue
        counts = np.concatenate([h.counts for h in parts] or [np.zeros(0, np.int64)])
        numbers = np.concatenate([h.numbers for h in parts] or [np.zeros(0, np.int64)])
        order = np.argsort(-counts, kind="stable")
        first = np.empty(len(counts), np.int64)
        first[order] = np.cumsum(numbers[order]) - numbers[order]
        ends = np.cumsum([len(h.counts) for h in parts])
        pieces = np.split(first, ends[:-1]) if parts else []
        first_ids = {h.part: piece for h, piece in zip(parts, pieces, strict=True)}
        result[table] = TableIds(keys, keys + 1, others, first_ids)
        if table in WITH_CATALOG:
            starts = itertools.accumulate((h.others for h in parts), initial=keys + 1)
            first_others = {h.part: start for h, start in zip(parts, starts, strict=False)}
            result[table] = result[table]._replace(catalog_rows=keys + 1 + others, first_others=first_others)
        empty = _empty_id(parts, first_ids, keys)
        result[table] = result[table]._replace(met=sum(h.met for h in parts), empty=empty)
    return result


def _empty_id(parts: list[CountHistogram], first_ids: dict[int, np.ndarray], oov: int) -> int:
    """Id of the empty key, which is the first of its count, because it is the first in byte order."""
    for part in parts:
        if part.empty is not None:
            return int(next(iter(first_ids[part.part][part.counts == part.empty]), oov))
    return oov


class AssignIds(ThreadedDoFn):
    """Output of CountKeys to (shard, ("map", table, part, ref of ids)), and `catalog` slices.

    Parts of side tables get, for their users or items, also the key's train count, that of all keys with its
    id, and whether it occurs in the interactions: count, total, met.

    Catalog slices are ((table, file), ("keys", part, ref of id, key, count)): of all tables but those of
    features with hashed ids.
    """

    def work(self, element: tuple[Any, ...], tables: dict[str, TableIds]) -> Iterator[Any]:
        (table, part), keys_ref, refs = element
        whole = read_table(keys_ref).combine_chunks()
        output = []
        with SpoolWriter(self._job.layout.spool, "ids") as spool:
            has_vocab = self._job.ids_of(table).kind == "vocab"
            if has_vocab:
                ids = dense_ids(column(whole, "count"), _min_count(self._job, table), part, tables[table])
                whole = whole.append_column("id", pa.array(ids))
                for shard, ref in refs:
                    ranks = column(read_table(ref), "rank")
                    found = {"id": ids[ranks]}
                    if "met" in whole.column_names and shard >= self._job.layout.user_shards:
                        counts = column(whole, "count")[ranks]
                        found |= {"count": counts, "total": counts, "met": column(whole, "met")[ranks]}
                    output.append((shard, ("map", table, part, spool.add(pa.table(found)))))
                if table not in WITH_CATALOG:  # others have rows of their own in the catalog
                    whole = whole.filter(pa.array(ids < tables[table].keys))
            else:
                output += [(shard, ("map", table, part, ref)) for shard, ref in refs]
            listed = has_vocab or table in WITH_CATALOG or self._job.ids_of(table).kind == "given"
            if listed and whole.num_rows:
                for file, slice_ in by_file(whole):
                    item = ((table, file), ("keys", part, spool.add(slice_)))
                    output.append(beam.pvalue.TaggedOutput("catalog", item))
        yield from output


def dense_ids(counts: np.ndarray, min_count: int, part: int, table: TableIds) -> np.ndarray:
    """int64 [n] ids of a part's keys, which are in byte order; keys outside the vocabulary get catalog ids,
    or else the last row."""
    ids = np.full(len(counts), table.keys, np.int64)
    if table.first_others:
        others = np.flatnonzero(counts < min_count)
        ids[others] = table.first_others[part] + np.arange(len(others))
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= min_count]
    if len(order):
        falling = counts[order]
        begin = np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]])
        lengths = np.diff(np.r_[begin, len(order)])
        first = np.repeat(table.first_ids[part] - begin, lengths)
        ids[order] = first + np.arange(len(order))
    return ids


def by_file(whole: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Cuts a table with `id` into catalog files, ids ascending."""
    ids = column(whole, "id")
    order = np.argsort(ids, kind="stable")
    files = ids[order] // CATALOG_FILE_ROWS
    whole = whole.take(pa.array(order))
    begin = np.flatnonzero(np.r_[True, files[1:] != files[:-1]][: len(files)])
    for start, stop in itertools.pairwise([*begin.tolist(), len(files)]):
        yield int(files[start]), whole.slice(start, stop - start)

"""Ids: exact dense ids by falling train frequency, or hashed ids.

Every user shard has counted its own distinct keys. Keys are cut into ranges at sampled splitters; each
range sums its keys' counts and sorts them; how many keys of each count each range has gives every range
the first id of each of its counts, in the order (count falling, range, key), which is (count falling, key).
No step holds more than one range of keys.
"""

import collections
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from configs.system.chips import spare_metadata_server
from pipelines.layout import Job
from pipelines.stages.plan import Plan, key_bounds, sort_keys
from pipelines.stages.spool import Ref, SpoolWriter, array, column, partition, read_table
from pipelines.stages.threads import ThreadedDoFn

CATALOG_FILE_ROWS = 1 << 16  # 25 million keys make 382 files


class CountHistogram(NamedTuple):
    """How many keys of each train count one part of a table has."""

    table: str
    part: int
    counts: np.ndarray
    """int64, falling: counts that the vocabulary admits."""
    numbers: np.ndarray
    """int64: keys of each count."""
    others: int
    """Keys that the vocabulary does not admit."""


class TableIds(NamedTuple):
    """What all parts together say about a table."""

    keys: int
    """Distinct keys in train (with at least min_count rows under vocab)."""
    rows: int
    """Rows of the table."""
    others: int
    """Distinct keys on the out-of-vocabulary row."""
    first_ids: dict[int, np.ndarray]
    """By part: first id of each of its counts, as in its CountHistogram."""


def hash_ids(keys: pa.Array, rows: int) -> np.ndarray:
    """int64 [n] ids of keys (text), as tf.strings.to_hash_bucket_fast gives in a serving graph."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # or it logs at error level that there is no GPU
    spare_metadata_server()
    import tensorflow as tf  # only this mode pays for it

    if not len(keys):
        return np.zeros(0, np.int64)
    with tf.device("CPU"):
        return tf.strings.to_hash_bucket_fast(keys.to_pylist(), rows).numpy()


def id_type(rows: int) -> type:
    """Narrowest of int32 and int64 for ids below `rows`."""
    return np.int32 if rows <= 2**31 else np.int64


def rank_keys(values: pa.DictionaryArray) -> tuple[pa.StringArray, np.ndarray]:
    """Distinct keys in byte order, and the int32 [n] place of each row's key among them."""
    order = sort_keys(values.dictionary)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return values.dictionary.take(pa.array(order)), rank[values.indices.to_numpy()]


def send_keys(
    job: Job, plan: Plan, table: str, keys: pa.StringArray, counts: np.ndarray, ids: np.ndarray | None
) -> Iterator[tuple[int, pa.Table]]:
    """Cuts a user shard's distinct keys into the table's parts: (part, table of key, count and, hashed, id).

    Args:
      keys: distinct, in byte order.
      counts: int64 train rows of each.
      ids: int64 hashed ids, or None under vocab.
    """
    if ids is None:
        bounds = key_bounds(keys, plan.splitters.get(table, []))
        whole = pa.table({"key": keys, "count": counts})
    else:
        parts = ids * job.layout.key_shards // job.ids_of(table).rows
        order, bounds = partition(parts, job.layout.key_shards)
        whole = pa.table({"key": keys.take(pa.array(order)), "count": counts[order], "id": ids[order]})
    for part, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if stop > start:
            yield part, whole.slice(start, stop - start)


class CountKeys(ThreadedDoFn):
    """((table, part), [(user shard, ref)]) to ((table, part), ref of keys, [(user shard, ref of ranks)]).

    Output `histogram` holds a CountHistogram per part.
    """

    def work(self, element: tuple[tuple[str, int], Iterable[tuple[int, Ref]]]) -> Iterator:
        (table, part), slices = element
        slices = sorted(slices)
        pieces = [read_table(ref) for _, ref in slices]
        whole = pa.concat_tables(pieces)
        with SpoolWriter(self._job.layout.spool, "ids") as spool:
            if self._job.ids_of(table).kind == "hash":
                merged, seen = merge_hashed(whole)
                refs = []
                histogram = CountHistogram(table, part, np.array([1]), np.array([seen]), 0)
            else:
                merged, ranks = merge_keys(whole)
                ends = np.cumsum([piece.num_rows for piece in pieces])
                parts = np.split(ranks, ends[:-1])
                refs = [
                    (shard, spool.add(pa.table({"rank": r})))
                    for (shard, _), r in zip(slices, parts, strict=True)
                ]
                histogram = self._histogram(table, part, column(merged, "count"))
            output = (table, part), spool.add(merged), refs
        yield output
        yield beam.pvalue.TaggedOutput("histogram", histogram)

    def _histogram(self, table: str, part: int, counts: np.ndarray) -> CountHistogram:
        admitted = counts[counts >= self._job.ids_of(table).min_count]
        values, numbers = np.unique(admitted, return_counts=True)
        others = len(counts) - len(admitted)
        return CountHistogram(table, part, values[::-1].copy(), numbers[::-1].copy(), others)


def merge_keys(whole: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Sums the counts of equal keys: (key, count) in byte order, and each row's int32 rank there."""
    encoded = whole["key"].combine_chunks().dictionary_encode()
    keys, ranks = rank_keys(encoded)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, ranks, column(whole.combine_chunks(), "count"))
    return pa.table({"key": keys, "count": counts}), ranks


def merge_hashed(whole: pa.Table) -> tuple[pa.Table, int]:
    """One row per id: id, train count of all its keys, its most frequent key; and the keys seen in train."""
    merged, ranks = merge_keys(whole)
    counts = column(merged, "count")
    ids = np.zeros(len(counts), np.int64)
    ids[ranks] = column(whole.combine_chunks(), "id")
    order = np.lexsort((np.arange(len(ids)), -counts, ids))  # best key of each id first
    ids = ids[order]
    first = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]][: len(ids)])
    result = pa.table(
        {
            "key": array(merged["key"]).take(pa.array(order[first])),
            "count": np.add.reduceat(counts[order], first),
            "id": ids[first],
        }
    )
    return result, int((counts > 0).sum())


def plan_ids(histograms: list[CountHistogram], job: Job) -> dict[str, TableIds]:
    """First ids of every (table, part, count) by prefix sums in the order (count falling, part)."""
    by_table = collections.defaultdict(list)
    for histogram in sorted(histograms, key=lambda h: (h.table, h.part)):
        by_table[histogram.table].append(histogram)
    result = {}
    for table in job.tables:
        parts = by_table[table]
        keys = sum(int(h.numbers.sum()) for h in parts)
        ids = job.ids_of(table)
        if ids.kind == "hash":
            result[table] = TableIds(keys, ids.rows, 0, {})
            continue
        counts = np.concatenate([h.counts for h in parts] or [np.zeros(0, np.int64)])
        numbers = np.concatenate([h.numbers for h in parts] or [np.zeros(0, np.int64)])
        order = np.argsort(-counts, kind="stable")
        first = np.empty(len(counts), np.int64)
        first[order] = np.cumsum(numbers[order]) - numbers[order]
        ends = np.cumsum([len(h.counts) for h in parts])
        pieces = np.split(first, ends[:-1]) if parts else []
        first_ids = {h.part: piece for h, piece in zip(parts, pieces, strict=True)}
        result[table] = TableIds(keys, keys + 1, sum(h.others for h in parts), first_ids)
    return result


class AssignIds(ThreadedDoFn):
    """Output of CountKeys to (user shard, ("map", table, part, ref of ids)), and `catalog` slices.

    Catalog slices are ((table, file), ("keys", part, ref of id, key, count)): of all tables but those of
    features with hashed ids.
    """

    def work(self, element, tables: dict[str, TableIds]) -> Iterator:
        (table, part), keys_ref, refs = element
        whole = read_table(keys_ref).combine_chunks()
        output = []
        with SpoolWriter(self._job.layout.spool, "ids") as spool:
            has_vocab = self._job.ids_of(table).kind == "vocab"
            if has_vocab:
                ids = dense_ids(
                    column(whole, "count"), self._job.ids_of(table).min_count, part, tables[table]
                )
                whole = whole.append_column("id", pa.array(ids))
                for shard, ref in refs:
                    found = pa.table({"id": ids[column(read_table(ref), "rank")]})
                    output.append((shard, ("map", table, part, spool.add(found))))
                whole = whole.filter(pa.array(ids < tables[table].keys))
            if (has_vocab or table in ("user", "item")) and whole.num_rows:
                for file, slice_ in by_file(whole):
                    item = ((table, file), ("keys", part, spool.add(slice_)))
                    output.append(beam.pvalue.TaggedOutput("catalog", item))
        yield from output


def dense_ids(counts: np.ndarray, min_count: int, part: int, table: TableIds) -> np.ndarray:
    """int64 [n] ids of a part's keys, which are in byte order; out-of-vocabulary keys get the last row."""
    ids = np.full(len(counts), table.keys, np.int64)
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

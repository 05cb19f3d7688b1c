"""Ids: exact dense ids by descending train frequency, or hashed ids.

Every user shard counts its distinct keys. Keys are divided into ranges at sampled splitters; each range sums
the counts of its keys and sorts them. The number of keys of each count in each range determines the first id
of each count in each range, in the order (count descending, range, key), which is (count descending, key).
Keys outside the vocabulary of users and items get catalog ids after it in the order (range, key), which is by
key. No step has more than one range of keys in memory.

With dataset.base each range also reads what the base's index files say of its keys, see pipelines/base/;
every range of exact ids leaves an index file for datasets that stand on this one.
"""

import collections
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import google_crc32c
import numpy as np
import pyarrow as pa

from configs.chain import LEFT
from configs.manifest import VECTOR_ROWS
from configs.sections.dataset import GivenIdsConfig, HashIdsConfig, VocabIdsConfig
from configs.system.chips import spare_metadata_server
from pipelines.base.chain import NO_TABLE, BaseTable
from pipelines.base.changes import index_columns, moved_ids
from pipelines.base.index import write_index
from pipelines.base.numbering import (
    CountHistogram,
    LongestUnseen,
    TableIds,
    dense_ids,
    empty_id,
    plan_vocab,
)
from pipelines.job import OWNERS, Job
from pipelines.stages.files import WrittenFile, close_durably, open_staged
from pipelines.stages.members import Facts
from pipelines.stages.plan import Plan, key_bounds
from pipelines.stages.spool import Ref, SpoolWriter, column, partition, read_table
from pipelines.stages.threads import ThreadedDoFn

CATALOG_FILE_ROWS = VECTOR_ROWS  # 25 million keys make 382 files
WITH_CATALOG = OWNERS
"""Tables whose keys have a catalog, and catalog ids."""


def hash_ids(keys: pa.Array, rows: int) -> np.ndarray:
    """int64 [n] ids of keys (text), equal to tf.strings.to_hash_bucket_fast in a serving graph."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # otherwise it logs an error that there is no GPU
    spare_metadata_server()
    import tensorflow as tf  # imported in this mode only

    if not len(keys):
        return np.zeros(0, np.int64)
    # Arrow makes objects of bytes in one pass; TensorFlow looks at each item of a list several times.
    values = keys.cast(pa.binary()).to_numpy(zero_copy_only=False)
    with tf.device("CPU"):
        return tf.strings.to_hash_bucket_fast(tf.convert_to_tensor(values, tf.string), rows).numpy()


def id_type(rows: int) -> type:
    """int32 if it can represent ids below `rows`, else int64."""
    return np.int32 if rows <= 2**31 else np.int64


def send_keys(
    job: Job, plan: Plan, table: str, keys: pa.StringArray, facts: Facts, ids: np.ndarray | None
) -> Iterator[tuple[int, pa.Table]]:
    """Cuts a user shard's distinct keys into the table's parts: (part, table of key, count and, under vocab,
    held and seen, else id).

    Args:
      keys: distinct, in byte order.
      ids: int64 ids if they are hashed or given, or None under vocab.
    """
    if ids is None:
        bounds = key_bounds(keys, plan.splitters.get(table, []))
        whole = pa.table({"key": keys, "count": facts.counts, "held": facts.held, "seen": facts.seen})
    else:
        order, begins = parts_of(job, table, ids)
        bounds = begins.tolist()
        counts = facts.counts[order]
        whole = pa.table({"key": keys.take(pa.array(order)), "count": counts, "id": ids[order]})
    for part, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if stop > start:
            yield part, whole.slice(start, stop - start)


def parts_of(job: Job, table: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order of keys by part of the table, where each part begins) by their hashed or given ids."""
    shards = job.layout.key_shards
    return partition(ids * shards // known_rows(job, table), shards)


def known_rows(job: Job, table: str) -> int:
    """Rows of a table with hashed or given ids."""
    ids = job.ids_of(table)
    if isinstance(ids, GivenIdsConfig):
        return job.given[table] + ids.oov_rows
    assert isinstance(ids, HashIdsConfig)
    return ids.rows


def vocab_of(job: Job, table: str) -> VocabIdsConfig:
    """The ids section of a table with a vocabulary."""
    ids = job.ids_of(table)
    assert isinstance(ids, VocabIdsConfig)
    return ids


def base_of(job: Job, table: str) -> BaseTable:
    """A table in the base; of no rows if there is none."""
    return job.base.tables.get(table, NO_TABLE) if job.base else NO_TABLE


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
            found = TableIds(job.given[table], known_rows(job, table), others, {})
            if table in WITH_CATALOG:
                deepest = max((h.deepest for h in parts), default=0)
                catalog_rows = found.rows + deepest * (found.rows - found.keys)
                found = found._replace(catalog_rows=catalog_rows, met=sum(h.met for h in parts))
            result[table] = found
            continue
        found = plan_vocab(parts, vocab_of(job, table), base_of(job, table), table in WITH_CATALOG)
        if found.left:
            found = found._replace(reused=_longest_unseen(parts, found.left))
        result[table] = found._replace(empty=empty_id(parts, found))
    return result


def _longest_unseen(parts: list[CountHistogram], number: int) -> np.ndarray:
    """int64: rows of keys that are not seen for longest, one part in memory at a time."""
    unseen = LongestUnseen(number)
    for ref in (h.idle[0] for h in parts if h.idle):
        idle = read_table(ref).combine_chunks()
        unseen.add(column(idle, "seen"), column(idle, "id"))
    return unseen.rows


class AssignIds(ThreadedDoFn):
    """Output of CountKeys to (shard, ("map", table, part, ref of ids)), with outputs `catalog`, `moved`,
    `files`.

    Of users and items of exact ids, `base` is the catalog id in the base, or LEFT. Parts of side tables get,
    for their users or items, also the key's train count, that of all keys with its id, and whether it occurs
    in the interactions: count, total, met.

    Catalog slices are ((table, file), ("keys", part, ref of id, key, count)): of all tables but those of
    features with hashed ids. `moved` holds (table, ref of pairs), `files` the WrittenFile of the part's
    index.
    """

    def work(self, element: tuple[Any, ...], tables: dict[str, TableIds], plan: Plan) -> Iterator[Any]:
        (table, part), keys_ref, refs, idle_ref = element
        whole = read_table(keys_ref).combine_chunks()
        output = []
        with SpoolWriter(self._job.layout.spool, "ids") as spool:
            has_vocab = self._job.ids_of(table).kind == "vocab"
            if has_vocab:
                idle = None if idle_ref is None else read_table(idle_ref).combine_chunks()
                whole, outputs = self._assign(table, part, whole, refs, idle, tables[table], plan, spool)
                output += outputs
            else:
                output += [(shard, ("map", table, part, ref)) for shard, ref in refs]
            listed = has_vocab or table in WITH_CATALOG or self._job.ids_of(table).kind == "given"
            if listed and whole.num_rows:
                for file, slice_ in by_file(whole.select(["id", "key", "count"])):
                    item = ((table, file), ("keys", part, spool.add(slice_)))
                    output.append(beam.pvalue.TaggedOutput("catalog", item))
        yield from output

    def _assign(
        self,
        table: str,
        part: int,
        whole: pa.Table,
        refs: list[tuple[int, Ref]],
        idle: pa.Table | None,
        ids_of: TableIds,
        plan: Plan,
        spool: SpoolWriter,
    ) -> tuple[pa.Table, list[Any]]:
        """The keys that catalogs or vocabularies list, with their ids; and outputs."""
        base, has_catalog, output = base_of(self._job, table), table in WITH_CATALOG, []
        counts, before, own = weighed(whole)
        ids = dense_ids(counts, vocab_of(self._job, table).min_count, part, ids_of, before, base)
        whole = whole.append_column("id", pa.array(ids))
        for shard, ref in refs:
            ranks = column(read_table(ref), "rank")
            found = {"id": ids[ranks]}
            if before is not None and has_catalog:
                found["base"] = before[ranks]
            if "met" in whole.column_names and shard >= self._job.layout.user_shards:
                count = counts[ranks]
                found |= {"count": count, "total": count, "met": column(whole, "met")[ranks]}
            output.append((shard, ("map", table, part, spool.add(pa.table(found)))))
        has_row, left = ids < ids_of.keys, None
        changed = own
        if before is not None:
            had_row = (before != LEFT) & (before < (base.oov or 0))
            changed = own | (has_row & ~had_row)
            if idle is not None and ids_of.reused is not None:
                left = idle.filter(pa.array(np.isin(column(idle, "id"), ids_of.reused)))
                taken = ~own & had_row & np.isin(before, ids_of.reused)
                has_row &= ~taken
            pairs = moved_ids(ids[~had_row], before[~had_row], left, base, ids_of)
            if len(pairs):
                ref = spool.add(pa.table({"before": pairs[:, 0], "after": pairs[:, 1]}))
                output.append(beam.pvalue.TaggedOutput("moved", (table, ref)))
        index = index_columns(_chosen(whole, changed), left)
        output.append(beam.pvalue.TaggedOutput("files", self._write_index(table, part, index, plan)))
        if has_catalog:  # keys without a row have catalog rows of their own
            return _chosen(whole, own), output
        listed = _chosen(whole, has_row)
        if before is not None:  # the whole vocabulary
            listed = listed.drop_columns(["count"]).rename_columns({"total": "count"})
        return listed, output

    def _write_index(self, table: str, part: int, columns: dict[str, Any], plan: Plan) -> WrittenFile:
        written = WrittenFile("index", part, {}, table=table, suffix="arrow")
        file = open_staged(self._job.layout.staging, written.directory, written.name)
        info = write_index(file, columns, plan.splitters.get(table, []))
        close_durably(file)
        return written._replace(info=info)


def _chosen(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Some rows, bool [n]; without a copy if these are all."""
    return table if rows.all() else table.filter(pa.array(rows)).combine_chunks()


def weighed(keys: pa.Table) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Rows of keys in the whole chain; their ids in the base, None if there is none; whether they are
    today's."""
    if "base" not in keys.column_names:
        return column(keys, "count"), None, np.ones(keys.num_rows, bool)
    return column(keys, "total"), column(keys, "base"), column(keys, "own")


class WriteMoved(ThreadedDoFn):
    """(table, [ref]) to the WrittenFile of all ids that follow no rule, see configs/manifest.py."""

    def work(self, element: tuple[str, Iterable[Ref]]) -> Iterator[WrittenFile]:
        table, refs = element
        found = pa.concat_tables([read_table(ref) for ref in refs]).combine_chunks()
        pairs = np.stack([column(found, "before"), column(found, "after")], axis=1)
        data = pairs[np.argsort(pairs[:, 0])].astype("<i8").tobytes()
        written = WrittenFile("moved", 0, {}, table=table, suffix="i64")
        file = open_staged(self._job.layout.staging, written.directory, written.name)
        file.write(data)
        close_durably(file)
        crc32c = f"{google_crc32c.value(data):08x}"
        yield written._replace(info={"rows": len(pairs), "bytes": len(data), "crc32c": crc32c})


def by_file(whole: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Cuts a table with `id` into catalog files, ids ascending."""
    ids = column(whole, "id")
    order = np.argsort(ids, kind="stable")
    files = ids[order] // CATALOG_FILE_ROWS
    whole = whole.take(pa.array(order))
    begin = np.flatnonzero(np.r_[True, files[1:] != files[:-1]][: len(files)])
    for start, stop in itertools.pairwise([*begin.tolist(), len(files)]):
        yield int(files[start]), whole.slice(start, stop - start)

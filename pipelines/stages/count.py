"""Counts the distinct keys of each part of a table, before ids can be planned."""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from configs.chain import LEFT
from configs.sections.dataset import VocabIdsConfig
from pipelines.base.index import NEVER
from pipelines.base.numbering import CountHistogram, histogram_of, is_candidate, weights
from pipelines.base.part import BasePart, Wanted
from pipelines.base.today import with_base
from pipelines.stages.ids import WITH_CATALOG, base_of, known_rows, vocab_of, weighed
from pipelines.stages.members import Facts, merge_given, merge_given_owners, merge_hashed, merge_keys
from pipelines.stages.plan import Plan
from pipelines.stages.spool import Ref, SpoolWriter, column, read_table
from pipelines.stages.threads import ThreadedDoFn

_DAY = 24 * 3600 * 10**9


class SendParts(ThreadedDoFn):
    """Table to ((table, part), (-1, ref)) of no keys, for every part of a vocabulary: each leaves an index
    file, and keys of the base need no rows today to lose or get one."""

    def work(self, table: str, plan: Plan) -> Iterator[Any]:
        if plan.failed:
            return
        none = pa.table({"key": pa.array([], pa.string()), **Facts.none(0)._asdict()})
        none = none.rename_columns(["key", "count", "held", "seen"])
        with SpoolWriter(self._job.layout.spool, "parts") as spool:
            ref = spool.add(none)
        for part in range(len(plan.splitters.get(table, [])) + 1):
            yield (table, part), (-1, ref)


class CountKeys(ThreadedDoFn):
    """((table, part), [(user shard, ref)]) to ((table, part), ref of keys, [(user shard, ref of ranks)], ref
    of the keys that may lose their row or None).

    Output `histogram` holds a CountHistogram per part.
    """

    def work(self, element: tuple[tuple[str, int], Iterable[tuple[int, Ref]]], plan: Plan) -> Iterator[Any]:
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
                    bound = known_rows(self._job, table)
                    merged, ranks, deepest = merge_given_owners(whole, keys, bound)
                    refs = self._given_refs(slices, pieces, ranks, merged, met, spool)
                    others = int(np.count_nonzero(column(merged, "id") >= bound))
                else:
                    (merged, others), deepest = merge_given(whole, keys), 0
                number = np.array([merged.num_rows])
                histogram = CountHistogram(table, part, np.array([1]), number, others, deepest=deepest)
            else:
                merged, ranks, histogram = self._count_vocab(table, part, whole, met, plan, spool)
                ends = np.cumsum([piece.num_rows for piece in pieces])
                parts = np.split(ranks, ends[:-1])
                refs = [
                    (shard, spool.add(pa.table({"rank": r})))
                    for (shard, _), r in zip(slices, parts, strict=True)
                    if shard >= 0
                ]
            if met is not None:
                histogram = histogram._replace(met=_distinct(whole, met))
            idle = histogram.idle[0] if histogram.idle else None
            output = (table, part), spool.add(merged), refs, idle
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

    def _count_vocab(
        self,
        table: str,
        part: int,
        whole: pa.Table,
        met: np.ndarray | None,
        plan: Plan,
        spool: SpoolWriter,
    ) -> tuple[pa.Table, np.ndarray, CountHistogram]:
        """Distinct keys, with those of the base that matter; each row's place among them; and their
        weights."""
        merged, ranks = merge_keys(whole)
        base, config, idle = base_of(self._job, table), vocab_of(self._job, table), None
        if base.layers:
            below = BasePart(base, part, table in WITH_CATALOG)
            since = _seen_since(config, plan)
            wanted = Wanted(config.min_count, since, all_rows=table not in WITH_CATALOG)
            today = with_base(merged, below, wanted)
            merged, ranks = today.keys, today.places[ranks]
            if today.idle.num_rows:
                idle = spool.add(today.idle), today.idle.num_rows
        if met is not None:
            merged = merged.append_column("met", pa.array(_any_of(ranks, met, merged.num_rows)))
        return merged, ranks, self._histogram(table, part, merged)._replace(idle=idle)

    def _histogram(self, table: str, part: int, merged: pa.Table) -> CountHistogram:
        """Args: merged: key and count; with a base total, base and own."""
        base = base_of(self._job, table)
        counts, ids, own = weighed(merged)
        chosen = is_candidate(counts, ids, vocab_of(self._job, table).min_count, base)
        weight = weights(counts, ids)
        left_over = own & ~chosen
        new = left_over if ids is None else left_over & (ids == LEFT)
        further = 0 if ids is None else int(np.count_nonzero(left_over & (ids >= base.rows)))
        found = CountHistogram(table, part, *histogram_of(weight[chosen]), int(np.count_nonzero(new)))
        found = found._replace(further=further)
        if merged.num_rows and merged["key"][0].as_py() == "":
            if chosen[0]:
                return found._replace(empty=int(weight[0]))
            if ids is not None and LEFT < ids[0] < (base.oov or 0):
                return found._replace(empty_row=int(ids[0]))
        return found


def _seen_since(config: VocabIdsConfig, plan: Plan) -> int:
    """Time after which a key must have been seen to keep its row for certain."""
    if config.expire_days is None or plan.newest is None:
        return NEVER
    return plan.newest - round(config.expire_days * _DAY)


def _any_of(ranks: np.ndarray, chosen: np.ndarray, size: int) -> np.ndarray:
    """bool [size]: which ranks occur among the chosen rows."""
    found = np.zeros(size, bool)
    found[ranks[chosen]] = True
    return found


def _distinct(whole: pa.Table, chosen: np.ndarray) -> int:
    """Number of distinct keys among the chosen rows."""
    return len(whole["key"].combine_chunks().filter(pa.array(chosen)).unique())

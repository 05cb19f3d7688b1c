"""Gives the rows of a side table ids: those of their users or items, then those of their features' keys."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from configs.sections.features import VectorFeatureConfig
from pipelines.base.numbering import TableIds
from pipelines.job import Job
from pipelines.rows.bags import arrow
from pipelines.stages.catalog import SIDE, VECTOR, by_catalog_file
from pipelines.stages.finish import id_spreads, mapped, put_back
from pipelines.stages.group import GroupUsers, Occurrences, known_column
from pipelines.stages.ids import hash_ids, parts_of
from pipelines.stages.members import Facts, crossed, rank_keys
from pipelines.stages.plan import Plan, side_count
from pipelines.stages.spool import Ref, SpoolWriter, array, column, read_table
from pipelines.stages.threads import ThreadedDoFn
from pipelines.statistics.coverage import known_count, value_counts


class SendSide(GroupUsers):
    """(shard, ref) to ((table, part), (shard, ref)): the users or items of a part, without train rows."""

    def __init__(self, job: Job, number: int):
        super().__init__(job.sides[number])

    def work(self, element: tuple[int, Ref], plan: Plan) -> Iterator[Any]:  # type: ignore[override]
        if plan.failed:
            return
        shard, ref = element
        keys, of = array(read_table(ref)["key"]), self._job.source.of
        output = []
        with SpoolWriter(self._job.layout.spool, "side") as spool:
            for sent in self._send(shard, of, keys, Facts.none(len(keys)), plan, spool):
                if isinstance(sent, beam.pvalue.TaggedOutput):  # what the ids stage answers has the ids too
                    output.append(sent.value)
        yield from output


class JoinSide(GroupUsers):
    """(shard, rows and facts of its keys) to (shard, (kind, name, 0, ref)) as GroupUsers does, with outputs
    `keys`, `counts` and `numbers`."""

    def __init__(self, job: Job, number: int):
        super().__init__(job.sides[number])
        self._number = number

    def work(self, element: tuple[int, Iterable[Any]], plan: Plan) -> Iterator[Any]:
        if plan.failed:
            return
        shard, parts = element
        parts = sorted(parts)
        rows = next(read_table(ref) for kind, _, _, ref in parts if kind == "rows")
        facts = self._facts(array(rows["key"]), [ref for kind, _, _, ref in parts if kind == "map"])
        counts = collections.Counter(
            {
                side_count(self._number, "matched"): int(np.count_nonzero(facts["met"])),
                side_count(self._number, "alone"): int(np.count_nonzero(~facts["met"])),
            }
        )
        # With hashed ids, that of the keys of an id which has most train rows.
        order = np.lexsort((np.arange(rows.num_rows), -facts["count"], facts["id"]))
        order = order[np.r_[True, facts["id"][order][1:] != facts["id"][order][:-1]][: len(order)]]
        rows = rows.take(pa.array(order)).combine_chunks()
        counted = facts["total"][order] > 0
        keys, columns = self._columns(rows)
        vectors = [f.name for f in self._job.source.features if isinstance(f, VectorFeatureConfig)]
        output = [beam.pvalue.TaggedOutput("counts", counts)]
        output.append(beam.pvalue.TaggedOutput("numbers", self._quantiles(columns, counted)))
        with SpoolWriter(self._job.layout.spool, "side", rows.num_rows) as spool:
            # Its rows are of the time at which the source ends.
            times = None if plan.newest is None else np.full(len(counted), plan.newest)
            occurrences = Occurrences(counted, np.zeros(len(counted), bool), times)
            output += self._send_keys(
                shard, self._job.feature_columns, keys, columns, occurrences, plan, spool
            )
            table = pa.table({"id": facts["id"][order], **columns} | {n: array(rows[n]) for n in vectors})
            output.append((shard, ("rows", "", 0, spool.add(table))))
        yield from output

    def _facts(self, keys: pa.StringArray, refs: list[Ref]) -> dict[str, np.ndarray]:
        """id, count, total and met of each key of the part."""
        answers = pa.concat_tables([read_table(ref) for ref in refs]).combine_chunks()
        facts = {name: column(answers, name) for name in answers.column_names}
        ids = self._job.ids_of(self._job.source.of)
        if ids.kind != "vocab":  # they were sent in the order of parts of the table
            of = self._job.source.of
            own = hash_ids(keys, ids.rows) if ids.kind == "hash" else self._given.ids(of, keys)
            order, _ = parts_of(self._job, of, own)
            facts = {name: put_back(values, order) for name, values in facts.items()}
        return facts

    def _columns(self, rows: pa.Table) -> tuple[dict[str, pa.StringArray], dict[str, np.ndarray]]:
        """Distinct keys or bags of features, and columns of indices into them, numbers and known_column."""
        keys, columns = {}, {}
        for name in self._job.feature_columns:
            if name in rows.column_names:
                keys[name], columns[name] = rank_keys(_compacted(array(rows[name])))
        for cross in self._job.crosses:
            parts = [(keys[name], columns[name]) for name in cross.keys]
            keys[cross.name], columns[cross.name] = rank_keys(crossed(parts))
        for name in rows.column_names:
            if name in self._job.numeric or name.startswith(known_column("")):
                columns[name] = column(rows, name)
        self._mark_known(columns, keys)
        return keys, columns


def _compacted(values: pa.DictionaryArray) -> pa.DictionaryArray:
    """The same values, with only used keys in the dictionary."""
    return values.dictionary_decode().dictionary_encode()


class FinishSide(ThreadedDoFn):
    """(shard, rows and maps) to ((user or item, catalog file), (kind, shard, ref)), with outputs `counts` and
    `numbers`.

    Of the kinds, SIDE + number has id and features, and VECTOR + name ids and vectors where there are any.
    """

    def __init__(self, job: Job, number: int):
        super().__init__(job.sides[number])
        self._number = number

    def work(self, element: tuple[int, Iterable[Any]], tables: dict[str, TableIds]) -> Iterator[Any]:
        shard, parts = element
        parts = sorted(parts)
        rows = next(read_table(ref) for kind, _, _, ref in parts if kind == "rows").combine_chunks()
        side, job = self._job.source, self._job
        names = [*job.feature_columns, *job.numeric]
        columns: dict[str, Any] = {name: column(rows, name) for name in ["id", *names]}
        columns |= mapped(parts, job.feature_columns, columns, tables)
        known = {f.name: column(rows, known_column(f.name)) for f in side.features}
        oov = {name: tables[table].first_oov for name, table in job.feature_columns.items()}
        counts = value_counts(side.features, columns | {"user": columns["id"]}, known, oov)
        counts |= collections.Counter({known_count(name): int(mask.sum()) for name, mask in known.items()})
        spreads = id_spreads(job, job.feature_columns, columns, known, tables)
        for name in job.numeric:
            spreads.add_numbers(name, columns[name], known[name])
        output = [beam.pvalue.TaggedOutput("counts", counts + spreads.counts)]
        output.append(beam.pvalue.TaggedOutput("numbers", spreads.histograms))
        with SpoolWriter(job.layout.spool, "side", rows.num_rows) as spool:
            table: dict[str, Any] = {}
            for name, values in columns.items():
                table |= arrow(name, values)
            for key, slice_ in by_catalog_file(side.of, pa.table(table)):
                output.append((key, (f"{SIDE}{self._number}", shard, spool.add(slice_))))
            for feature in side.features:
                if isinstance(feature, VectorFeatureConfig):
                    there = rows.filter(pa.array(known[feature.name])).select(["id", feature.name])
                    for key, slice_ in by_catalog_file(side.of, there):
                        output.append((key, (VECTOR + feature.name, shard, spool.add(slice_))))
        yield from output

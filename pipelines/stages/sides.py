"""Side tables, from their files to the catalogs.

Rows of a side table are spread over parts by the hash of their key, so that no worker has more than one part
in memory. Each part drops its duplicate keys, takes part in assigning ids to users or items like a user shard
whose keys have no train rows, gets the ids and train counts of its keys, counts the keys of its features over
the users or items with train rows, gets the ids of these, and sends its rows to the catalog files.

Parts are numbered from JobLayout.first_shard on, among the user shards.
"""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from configs.errors import DataError
from configs.sections.features import VectorFeatureConfig
from pipelines.job import Job
from pipelines.rows.bags import arrow
from pipelines.rows.order import REST, TIME, WHOLE
from pipelines.rows.validate import validate_side
from pipelines.rows.vectors import as_matrix, known_column
from pipelines.sources.reader import Place, Range
from pipelines.stages.catalog import SIDE, VECTOR, by_catalog_file
from pipelines.stages.finish import mapped
from pipelines.stages.group import GroupUsers
from pipelines.stages.ids import TableIds, hash_ids, rank_keys
from pipelines.stages.members import crossed
from pipelines.stages.plan import Plan, side_count
from pipelines.stages.read import ReadRows, shards_of
from pipelines.stages.spool import Ref, SpoolWriter, array, column, partition, read_table, read_tables
from pipelines.stages.stats import Stats
from pipelines.stages.threads import ThreadedDoFn
from pipelines.statistics.coverage import known_count, value_counts

_PLACE = ("_row", "_line", "_path", WHOLE, REST, TIME)  # columns that end with the duplicates


class ReadSide(ReadRows):
    """Range of a side table to (part, (first row, reference)), with outputs `stats` and `rejected`.

    `stats` holds (side table, Stats).
    """

    def __init__(self, job: Job, number: int):
        super().__init__(job.sides[number])
        self._number = number

    def work(self, part: Range, places: dict[int, Place]) -> Iterator[Any]:
        stats = Stats()
        try:
            for piece in self._pieces(part, places[part.index]):
                table, rejects = validate_side(piece, self._job)
                stats.rows += len(piece.rows) + len(piece.rejects)
                stats.kept += table.num_rows
                stats.add_rejects(rejects)
                stats.notes.update(piece.notes)
                yield from self._in_order(self._write_rejects(part.index, rejects))
                if table.num_rows:
                    self._count(table, stats)
                    yield from self._write_parts(table)
        except DataError as error:
            stats.fatal = str(error).replace("source.paths", "source.sides.paths")
        yield beam.pvalue.TaggedOutput("stats", (self._number, stats))

    def _in_order(self, rejected: Iterator[Any]) -> Iterator[Any]:
        """Rejected rows of side tables come after those of the interactions."""
        for output in rejected:
            zero, (row, ref) = output.value
            yield beam.pvalue.TaggedOutput(output.tag, (zero, (row + ((self._number + 1) << 48), ref)))

    def _count(self, table: pa.Table, stats: Stats) -> None:
        side = self._job.source
        for feature in side.features:
            if feature.name in table.column_names:
                stats.counts[known_count(feature.name)] += _number_known(table, feature.name)
        if self._job.layout.key_shards > 1:
            stats.add_sample(side.of, array(table["key"]).dictionary)
            self._sample(table, self._job.feature_columns, stats)

    def _write_parts(self, table: pa.Table) -> Iterator[Any]:
        side, layout = self._job.source, self._job.layout
        keys = array(table["key"])
        parts = shards_of(self._job, side.of, keys.dictionary, layout.side_shards[self._number])
        yield from self._write_shards(table, parts[keys.indices.to_numpy()], layout.side_shards[self._number])


class ResolveSide(ThreadedDoFn):
    """(part, [(first row, ref)]) to (shard, ref): rows by key, one each, with output `stats`."""

    def __init__(self, job: Job, number: int):
        super().__init__(job.sides[number])
        self._number = number

    def work(self, element: tuple[int, Iterable[tuple[int, Ref]]]) -> Iterator[Any]:
        part, refs = element
        rows = read_tables(ref for _, ref in sorted(refs))
        keys, codes = rank_keys(array(rows["key"]))
        order = self._order(rows, codes)
        begin = np.flatnonzero(np.r_[True, codes[order][1:] != codes[order][:-1]])
        stats = Stats()
        stats.counts["duplicates"] = len(order) - len(begin)
        chosen = order[begin]
        if self._job.source.keep is not None:
            chosen = order[np.r_[begin[1:], len(order)] - 1]
            times = column(rows, TIME)
            if times.any() and not times.all():
                one, other = (int(np.argmax(times == kind)) for kind in (True, False))
                stats.fatal = self._two_kinds(rows, min(one, other), max(one, other))
        elif len(begin) < len(order):
            first = np.repeat(order[begin], np.diff(np.r_[begin, len(order)]))
            stats.fatal = self._conflict(rows, keys, codes, first, order)
        yield beam.pvalue.TaggedOutput("stats", (self._number, stats))
        if stats.fatal:
            return
        kept = rows.drop_columns([name for name in _PLACE if name in rows.column_names]).take(
            pa.array(chosen)
        )
        kept = kept.set_column(kept.column_names.index("key"), "key", keys)
        with SpoolWriter(self._job.layout.spool, "side", kept.num_rows) as spool:
            output = (self._job.layout.first_shard(self._number) + part, spool.add(kept.combine_chunks()))
        yield output

    def _order(self, rows: pa.Table, codes: np.ndarray) -> np.ndarray:
        """Rows by key, then by what decides, then as in the source."""
        by = [column(rows, name) for name in (REST, WHOLE) if name in rows.column_names]
        return np.lexsort((column(rows, "_row"), *by, codes))

    def _conflict(
        self, rows: pa.Table, keys: pa.StringArray, codes: np.ndarray, first: np.ndarray, order: np.ndarray
    ) -> str | None:
        """The first row in the source that differs from the first one of its key, in words; None: none."""
        found: tuple[int, int, str] | None = None
        for feature in self._job.source.features:
            if feature.name in rows.column_names:
                differs = np.flatnonzero(_differ(array(rows[feature.name]), first, order))
                if len(differs):
                    which = differs[np.argmin(column(rows, "_row")[order[differs]])]
                    candidate = (int(order[which]), int(first[which]), feature.source_column)
                    number = column(rows, "_row")
                    if found is None or number[candidate[0]] < number[found[0]]:
                        found = candidate
        if found is None:
            return None
        row, before, name = found
        side = self._job.source
        return (
            f"{_place(rows, row)}: {side.of} {keys[int(codes[row])].as_py()!r} has another {name!r} than in "
            f"{_place(rows, before)}; remove one of the rows, or set keep: newest and order_by"
        )

    def _two_kinds(self, rows: pa.Table, one: int, other: int) -> str:
        return (
            f"{_place(rows, other)}: {self._job.source.order_by!r} has both numbers and times (see "
            f"{_place(rows, one)}); write one of the two in all rows"
        )


def _number_known(table: pa.Table, name: str) -> int:
    """Rows with a value that is not empty."""
    values = array(table[name])
    if pa.types.is_dictionary(values.type):
        filled = compute.not_equal(values.dictionary, "").to_numpy(zero_copy_only=False).astype(bool)
        return int(np.count_nonzero(filled[values.indices.to_numpy()]))
    if pa.types.is_fixed_size_list(values.type):
        return int(column(table, known_column(name)).sum())
    return int(np.count_nonzero(~np.isnan(values.to_numpy(zero_copy_only=False))))


def _place(rows: pa.Table, row: int) -> str:
    return f"{rows['_path'][row].as_py()}:{rows['_line'][row].as_py()}"


def _differ(values: pa.Array, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """bool [n]: where rows `first` and `second` have different values."""
    if pa.types.is_dictionary(values.type):
        codes = values.indices.to_numpy()
        return codes[first] != codes[second]
    if pa.types.is_fixed_size_list(values.type):
        again = np.flatnonzero(first != second)
        found, matrix = np.zeros(len(first), bool), as_matrix(values)
        found[again] = (matrix[first[again]] != matrix[second[again]]).any(axis=1)
        return found
    numbers = values.to_numpy(zero_copy_only=False)
    one, other = numbers[first], numbers[second]
    return ~((one == other) | (np.isnan(one) & np.isnan(other)))


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
            for sent in self._send(shard, of, keys, np.zeros(len(keys), np.int64), plan, spool):
                if isinstance(sent, beam.pvalue.TaggedOutput):  # what the ids stage answers has the ids too
                    output.append(sent.value)
        yield from output


class JoinSide(GroupUsers):
    """(shard, rows and facts of its keys) to (shard, (kind, name, 0, ref)) as GroupUsers does, with outputs
    `keys`, `counts` and `numbers`."""

    def __init__(self, job: Job, number: int):
        super().__init__(job.sides[number])
        self._number = number

    def work(self, element: tuple[int, Iterable[Any]], plan: Plan) -> Iterator[Any]:  # type: ignore[override]
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
            output += self._send_keys(shard, self._job.feature_columns, keys, columns, counted, plan, spool)
            table = pa.table({"id": facts["id"][order], **columns} | {n: array(rows[n]) for n in vectors})
            output.append((shard, ("rows", "", 0, spool.add(table))))
        yield from output

    def _facts(self, keys: pa.StringArray, refs: list[Ref]) -> dict[str, np.ndarray]:
        """id, count, total and met of each key of the part."""
        answers = pa.concat_tables([read_table(ref) for ref in refs]).combine_chunks()
        facts = {name: column(answers, name) for name in answers.column_names}
        ids = self._job.ids_of(self._job.source.of)
        if ids.kind == "hash":  # they were sent in the order of parts of the table
            shards = self._job.layout.key_shards
            order, _ = partition(hash_ids(keys, ids.rows) * shards // ids.rows, shards)
            facts = {name: _put_back(values, order) for name, values in facts.items()}
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


def _put_back(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    found = np.empty_like(values)
    found[order] = values
    return found


class FinishSide(ThreadedDoFn):
    """(shard, rows and maps) to ((user or item, catalog file), (kind, shard, ref)), with output `counts`.

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
        output = [beam.pvalue.TaggedOutput("counts", counts)]
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

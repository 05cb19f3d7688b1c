"""Folding a chain: users and items as its datasets say together, one row each.

Counts are added up, with the held-out rows of all datasets but the newest, which are train rows now.
Sequences follow each other, and of features the newest known value stays.
"""

import collections
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from configs.chain import LEFT
from configs.columns import feature_as_of, feature_of_column
from configs.dataset_parts import FeatureInfo, FileInfo
from configs.manifest import SPLITS, VECTOR_ROWS, Dataset
from configs.system.storage import read_bytes
from pipelines.base.translation import Translation
from pipelines.chain.fold_records import HELD, translated_feature
from pipelines.job import Job
from pipelines.rows.bags import length_name
from pipelines.rows.blocks import BlockWriter, Columns, Lists, lists, slice_columns
from pipelines.rows.decode import read_blocks
from pipelines.stages.catalog import VECTOR, by_catalog_file
from pipelines.stages.files import WrittenFile, close_durably, open_staged
from pipelines.stages.ids import CATALOG_FILE_ROWS
from pipelines.stages.spool import Ref, SpoolWriter, array, column, read_table
from pipelines.stages.threads import ThreadedDoFn
from pipelines.stages.write import STEP_ROWS, write_vectors
from pipelines.statistics.coverage import other_count, value_count

ROWS = "rows"
"""Kind of a slice of a catalog."""
DIRECTORIES = {"user": "users", "item": "items"}


class CatalogOf(NamedTuple):
    """A file of a catalog, or of vectors, of a chain."""

    level: int
    """Of the dataset; 0 is the newest."""
    owner: str
    """user or item."""
    vector: str
    """Feature of the vectors; empty: a catalog."""
    file: FileInfo


def catalog_files(chain: list[Dataset]) -> list[CatalogOf]:
    """All catalog files, and those of vectors that the newest dataset has."""
    found = []
    for level, dataset in enumerate(chain):
        for owner, catalog in (("user", dataset.users), ("item", dataset.items)):
            found += [CatalogOf(level, owner, "", info) for info in catalog.files]
        for name, feature in dataset.features.items():
            if feature.kind == "vector" and name in chain[0].features:
                found += [CatalogOf(level, feature.of, name, info) for info in feature.files]
    return found


class SendCatalog(ThreadedDoFn):
    """CatalogOf to ((user or item, catalog file), (kind, level, ref)), with ids of the newest dataset and
    without keys that have left."""

    def __init__(self, job: Job, chain: list[Dataset]):
        super().__init__(job)
        self._chain = chain

    def setup(self) -> None:
        super().setup()
        self._translation = Translation(self._chain)

    def work(self, element: CatalogOf) -> Iterator[Any]:
        output: list[Any] = []
        dataset = self._chain[element.level]
        path, kind = dataset.file_path(element.file), VECTOR + element.vector if element.vector else ROWS
        with SpoolWriter(self._job.layout.spool, "fold") as spool:
            if element.vector:
                tables = [self._vectors(element, path)]
            else:
                blocks = read_blocks(path, element.file)
                tables = [self._rows(element, {**block}) for block in blocks]
            whole = pa.concat_tables(tables)
            whole = whole.filter(pa.array(whole["id"].to_numpy() != LEFT)).sort_by("id").combine_chunks()
            for key, slice_ in by_catalog_file(element.owner, whole) if whole.num_rows else ():
                output.append((key, (kind, element.level, spool.add(slice_))))
        yield from output

    def _rows(self, element: CatalogOf, block: dict[str, Any]) -> pa.Table:
        level, top = element.level, self._chain[0]
        ids = self._translation.to_top(level, element.owner, block["id"])
        found: dict[str, Any] = {
            "id": ids,
            "count": block["count"],
            "key": pa.array(block["key"], pa.binary()),
        }
        if "sequence_length" in block:
            offsets = pa.array(np.r_[0, np.cumsum(block["sequence_length"])].astype(np.int64))
            items, splits = block.get("sequence", []), block.get("sequence_split", [])
            if "item" in top.tables:
                items = self._translation.rows_at_top(level, "item", np.asarray(items, np.int64))
            splits = np.asarray(splits, np.int64) * (level == 0)  # what is below is train
            for name, values in (("sequence", items), ("sequence_split", splits)):
                found[name] = pa.LargeListArray.from_arrays(offsets, pa.array(np.asarray(values, np.int64)))
        for name, info in top.features.items():
            if info.of == element.owner and info.kind != "vector":
                for as_of in catalog_columns(name, info):
                    if as_of in block:
                        found |= translated_feature(self._translation, level, name, info, block, as_of)
        return pa.table(found)

    def _vectors(self, element: CatalogOf, path: str) -> pa.Table:
        dim = self._chain[0].features[element.vector].dim
        whole = np.frombuffer(read_bytes(path), "<f4").reshape(-1, dim)
        rows = np.flatnonzero(whole.any(axis=1))
        ids = rows + element.file.number * VECTOR_ROWS
        ids = self._translation.to_top(element.level, element.owner, ids)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(whole[rows].reshape(-1)), dim)
        return pa.table({"id": ids, element.vector: vectors})


def catalog_columns(name: str, info: FeatureInfo) -> list[str]:
    """First columns of a feature in a catalog: of the newest value, and as of each split."""
    as_of = [feature_as_of(name, split) for split in SPLITS[1:]] if info.lives == "records" else []
    return [name, *as_of]


class FoldCatalog(ThreadedDoFn):
    """((user or item, catalog file), [(kind, level, ref)]) to WrittenFile.

    Args:
      top: the newest dataset.
      empty: by feature with single values, the one that is stored where it is not known.
    """

    def __init__(self, job: Job, top: Dataset, empty: dict[str, float | int]):
        super().__init__(job)
        self._top, self._empty = top, empty

    def work(self, element: tuple[tuple[str, int], Iterable[tuple[str, int, Ref]]]) -> Iterator[WrittenFile]:
        (owner, number), slices = element
        by_kind: dict[str, list[tuple[int, Ref]]] = {}
        for kind, level, ref in sorted(slices, key=lambda slice_: (-slice_[1], slice_[2])):
            by_kind.setdefault(kind, []).append((level, ref))
        for name, info in self._top.features.items():
            if info.kind == "vector" and info.of == owner:
                rows = min(
                    self._top.tables[owner].catalog_rows - number * CATALOG_FILE_ROWS, CATALOG_FILE_ROWS
                )
                refs = [ref for _, ref in by_kind.get(VECTOR + name, [])]  # the newest value is written last
                yield write_vectors(
                    self._job.layout.staging, DIRECTORIES[owner], name, number, refs, rows, info.dim
                )
        if ROWS in by_kind:
            parts = [(level, read_table(ref).combine_chunks()) for level, ref in by_kind[ROWS]]
            held = [read_table(ref).combine_chunks() for _, ref in by_kind.get(HELD, [])]
            yield self._write(owner, number, parts, held)

    def _write(
        self, owner: str, number: int, parts: list[tuple[int, pa.Table]], held: list[pa.Table]
    ) -> WrittenFile:
        """Writes a catalog file.

        Args:
          parts: rows with their level, oldest first.
          held: counts that are added.
        """
        written = WrittenFile(DIRECTORIES[owner], number, {})
        file = open_staged(self._job.layout.staging, written.directory, written.name)
        writer = BlockWriter(file, self._job.block_rows)
        ids = np.unique(np.concatenate([column(table, "id") for _, table in parts]))
        places = [np.searchsorted(ids, column(table, "id")) for _, table in parts]
        columns: Columns = {"id": ids, "count": _sums(ids, [table for _, table in parts] + held)}
        columns |= _sequences(parts, places, len(ids)) if owner == "user" else {}
        coverage: collections.Counter[str] = collections.Counter()
        for name, info in self._top.features.items():
            if info.of == owner and info.kind != "vector":
                for as_of in catalog_columns(name, info):
                    found, known = self._newest(as_of, name, info, parts, places, len(ids))
                    columns |= found
                    if as_of == name:
                        coverage += self._coverage(name, info, found[name], known)
        newest = _rows_of_newest(places, len(ids))
        keys = pa.concat_arrays([array(table["key"]) for _, table in parts]).take(pa.array(newest))
        for start in range(0, len(ids), STEP_ROWS):
            step = slice_columns(columns, start, start + STEP_ROWS)
            writer.add(step | {"key": keys.slice(start, STEP_ROWS).to_pylist()})
        info_ = writer.close()
        close_durably(file)
        return written._replace(info=info_, coverage=dict(coverage))

    def _newest(
        self,
        column_: str,
        name: str,
        info: FeatureInfo,
        parts: list[tuple[int, pa.Table]],
        places: list[np.ndarray],
        size: int,
    ) -> tuple[Columns, np.ndarray]:
        """A feature, or a feature as of a split: of each user or item the newest known value, else an empty
        one; and where it is known, bool [size]."""
        suffixes = ["", "/weight"] if info.weighted else [""]
        pieces: dict[str, list[Any]] = {suffix: [self._nothing(name, info, suffix)] for suffix in suffixes}
        chosen, done, known_at = np.zeros(size, np.int64), 1, np.zeros(size, bool)
        for (level, table), place in zip(parts, places, strict=True):
            # What is below is earlier than all splits of the newest dataset.
            source = column_ if level == 0 else feature_of_column(column_)
            if source not in table.column_names:
                continue
            values = {s: _values(table, source + s) for s in suffixes}
            known = self._known(name, info, values[""])
            rows = np.arange(done, done + table.num_rows)
            takes = known | ~known_at[place]
            chosen[place[takes]] = rows[takes]
            known_at[place[known]] = True
            done += table.num_rows
            for suffix, found in values.items():
                pieces[suffix].append(found)
        return {column_ + s: _taken(found, chosen, column_ + s) for s, found in pieces.items()}, known_at

    def _nothing(self, name: str, info: FeatureInfo, suffix: str) -> Any:
        """One row without a value."""
        if info.kind == "list":
            return Lists(np.zeros(0, np.float32 if suffix else np.int64), np.zeros(2, np.int64), None)
        return np.array([self._empty[name]], info.dtype)

    def _known(self, name: str, info: FeatureInfo, values: Any) -> np.ndarray:
        if isinstance(values, Lists):
            return np.diff(values.offsets) > 0
        empty = self._empty[name]
        if info.is_numeric:
            return ~np.isnan(values) & (values != np.float32(empty))
        return values != empty

    def _coverage(
        self, name: str, info: FeatureInfo, values: Any, known: np.ndarray
    ) -> collections.Counter[str]:
        found = collections.Counter({name: int(np.count_nonzero(known))})
        if info.lives == "catalog" and info.table is not None and not info.is_numeric:
            table = self._top.tables[info.table]
            ids = values.values if isinstance(values, Lists) else values[known]
            found[value_count(name)] = len(ids)
            found[other_count(name)] = 0 if table.oov is None else int(np.count_nonzero(ids >= table.oov))
        return found


def _sums(ids: np.ndarray, tables: list[pa.Table]) -> np.ndarray:
    """int64: counts of each id; those of other ids, which share the out-of-vocabulary row, are left out."""
    counts = np.zeros(len(ids) + 1, np.int64)
    for table in tables:
        own = column(table, "id")
        place = np.searchsorted(ids, own)
        place[np.append(ids, -1)[place] != own] = len(ids)
        np.add.at(counts, place, column(table, "count"))
    return counts[:-1]


def _sequences(parts: list[tuple[int, pa.Table]], places: list[np.ndarray], size: int) -> Columns:
    """Sequences of users, those of older datasets first."""
    if not any("sequence" in table.column_names for _, table in parts):
        return {}
    owners = np.concatenate(places)
    order = np.argsort(owners, kind="stable")
    found: Columns = {}
    for name in ("sequence", "sequence_split"):
        pieces = [_values(table, name) for _, table in parts]
        joined = pieces[0]
        for piece in pieces[1:]:
            joined = joined.join(piece)
        lengths = np.bincount(owners, np.diff(joined.offsets), minlength=size).astype(np.int64)
        joined = joined.take(order)
        found[name] = Lists(joined.values, np.r_[0, np.cumsum(lengths)], length_name(name))
    return found


def _rows_of_newest(places: list[np.ndarray], size: int) -> np.ndarray:
    """int64 [size]: the newest row of each id, among the rows of all parts, oldest part first."""
    newest = np.zeros(size, np.int64)
    rows = np.concatenate(places)
    newest[rows] = np.arange(len(rows))  # of equal ones the last stays
    return newest


def _values(table: pa.Table, name: str) -> Any:
    """A column as an array, or as Lists."""
    values = array(table[name])
    return lists(values, length_name(name)) if pa.types.is_large_list(values.type) else column(table, name)


def _taken(pieces: list[Any], rows: np.ndarray, name: str) -> Any:
    if not isinstance(pieces[0], Lists):
        return np.concatenate(pieces)[rows]
    joined = pieces[0]
    for piece in pieces[1:]:
        joined = joined.join(piece)
    return Lists(*joined.take(rows)[:2], length_name(name))

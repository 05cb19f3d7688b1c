"""Folding a chain: indexes of keys, and files that stay as they are."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from configs.chain import LEFT
from configs.dataset_parts import FileInfo
from configs.errors import DataError
from configs.manifest import SPLITS, Dataset
from configs.system.storage import exists, reading
from pipelines.base.chain import Base
from pipelines.base.index import read_index, write_index
from pipelines.base.translation import Translation
from pipelines.job import Job
from pipelines.stages.files import WrittenFile, close_durably, open_staged
from pipelines.stages.ids import WITH_CATALOG
from pipelines.stages.threads import ThreadedDoFn

_CHUNK_BYTES = 4 << 20


class IndexOf(NamedTuple):
    """A range of keys of a table."""

    table: str
    part: int


def index_parts(base: Base) -> list[IndexOf]:
    """The ranges of keys of all tables with an index."""
    tables = [(name, table.layers[0].paths) for name, table in base.tables.items() if table.layers]
    return [IndexOf(name, part) for name, paths in tables for part in range(len(paths))]


class FoldIndex(ThreadedDoFn):
    """IndexOf to WrittenFile: the index of a range, as of the whole chain. `base`: all of it, opened."""

    def __init__(self, job: Job, base: Base):
        super().__init__(job)
        self._base = base

    def setup(self) -> None:
        super().setup()
        self._translation = Translation(self._base.datasets)

    def work(self, element: IndexOf) -> Iterator[WrittenFile]:
        tables: list[pa.Table] = []
        newer: list[pa.Array] = []
        for level, layer in enumerate(self._base.tables[element.table].layers):
            index = read_index(layer.paths[element.part]).combine_chunks()
            keys = index["key"].combine_chunks()
            fresh = np.ones(len(keys), bool)
            for others in newer:
                fresh &= ~compute.is_in(keys, value_set=others).to_numpy(zero_copy_only=False)
            newer.append(keys)
            ids = index["id"].to_numpy().astype(np.int64)
            rows = np.flatnonzero(fresh & (ids != LEFT))
            tables.append(self._entries(element.table, level, index.take(pa.array(rows)), ids[rows]))
        whole = pa.concat_tables(tables).sort_by("key").combine_chunks()
        columns: dict[str, Any] = {name: whole[name].to_numpy() for name in ("id", "count", "held", "seen")}
        splitters = self._base.tables[element.table].splitters
        written = WrittenFile("index", element.part, {}, table=element.table, suffix="arrow")
        file = open_staged(self._job.layout.staging, written.directory, written.name)
        info = write_index(file, {"key": whole["key"].combine_chunks(), **columns}, splitters)
        close_durably(file)
        yield written._replace(info=info)

    def _entries(self, table: str, level: int, index: pa.Table, ids: np.ndarray) -> pa.Table:
        """Keys of one dataset with ids of the newest one, below which held-out rows are train rows."""
        if table not in WITH_CATALOG:  # keys without a row have that of all others
            oov, top = self._base.tables[table].layers[level].oov, self._base.tables[table].oov
            assert oov is not None and top is not None, "only exact ids have an index"
            ids = np.where(ids < oov, self._translation.to_top(level, table, ids), top)
        else:
            ids = self._translation.to_top(level, table, ids)
        count, held = (index[name].to_numpy().astype(np.int64) for name in ("count", "held"))
        if level:
            count, held = count + held, np.zeros_like(held)
        return pa.table({"key": index["key"], "id": ids, "count": count, "held": held, "seen": index["seen"]})


class CopyOf(NamedTuple):
    """A file of the new dataset that is one or several existing ones."""

    written: WrittenFile
    """Without info of files that need not be compared with dataset.json."""
    paths: list[str]


def copies(chain: list[Dataset]) -> list[CopyOf]:
    """Held-out rows and vocabularies of the newest dataset, and rejected rows of all, oldest first."""
    top = chain[0]
    found = []
    for split in SPLITS[1:]:
        found += [_copy(top, split, info) for info in top.splits[split].files]
    for name, table in top.tables.items():
        found += [_copy(top, "vocabularies", info, name) for info in table.files]
    rejected = WrittenFile("rejected", 0, {})
    names = [f"{d.path}/{rejected.directory}/{d.fingerprint[:8]}-{rejected.name}" for d in reversed(chain)]
    if names := [name for name in names if exists(name)]:
        found.append(CopyOf(rejected, names))
    return found


def _copy(dataset: Dataset, directory: str, info: FileInfo, table: str = "") -> CopyOf:
    facts = info.model_dump(exclude={"path"})
    return CopyOf(WrittenFile(directory, info.number, facts, table=table), [dataset.file_path(info)])


class CopyFile(ThreadedDoFn):
    """CopyOf to WrittenFile."""

    def work(self, element: CopyOf) -> Iterator[WrittenFile]:
        written, checksum, size = element.written, google_crc32c.Checksum(), 0
        file = open_staged(self._job.layout.staging, written.directory, written.name)
        for path in element.paths:
            with reading(path) as source:
                while chunk := source.read(_CHUNK_BYTES):
                    checksum.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
        close_durably(file)
        found = {"bytes": size, "crc32c": checksum.digest().hex()}
        if any(found[name] != written.info[name] for name in found if written.info):
            raise DataError(
                f"{element.paths[0]}: differs from dataset.json; restore the file, or run `lazytower "
                "prepare` of its dataset again"
            )
        yield written

"""Folding a chain as one Beam pipeline: from the files of its datasets to those of one dataset."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import fsspec
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsIter
from pydantic import TypeAdapter

from configs.columns import feature_of_column
from configs.manifest import Dataset
from pipelines.base.chain import Base
from pipelines.base.numbering import TableIds
from pipelines.chain.fold_catalogs import FoldCatalog, SendCatalog, catalog_files
from pipelines.chain.fold_files import CopyFile, FoldIndex, copies, index_parts
from pipelines.chain.fold_records import FoldRecords, record_files
from pipelines.job import Job
from pipelines.rows.decode import read_blocks
from pipelines.stages.catalog import ALL, empty_value
from pipelines.stages.files import WrittenFile
from pipelines.stages.ids import CATALOG_FILE_ROWS
from pipelines.stages.write import WriteFile

_FILE_NAME = "files.json"
_BUCKET_ITEMS = 1 << 24  # items of histories in a bucket of an output file


def build_fold(pipeline: beam.Pipeline, job: Job, base: Base) -> None:
    """Adds all stages; the last one writes the list of WrittenFile into the spool.

    Args:
      base: the whole chain, with the newest dataset as its top.
    """
    chain = list(base.datasets)
    top = chain[0]
    all_positive = not job.has_pairs or all(dataset.positives is None for dataset in chain)
    folded = _each(pipeline, "RecordFiles", record_files(chain)) | "FoldRecords" >> beam.ParDo(
        FoldRecords(job, chain, all_positive, _buckets(job, chain))
    ).with_outputs("catalog", main="rows")
    records = folded.rows | "ByFile" >> beam.GroupByKey() | "WriteRecords" >> beam.ParDo(WriteFile(job))
    sent = _each(pipeline, "CatalogFiles", catalog_files(chain)) | beam.ParDo(SendCatalog(job, chain))
    every = pipeline | "VectorFiles" >> beam.Create(_vector_files(top))
    catalogs = (
        (folded.catalog, sent, every)
        | "Slices" >> beam.Flatten()
        | "ByCatalogFile" >> beam.GroupByKey()
        | "FoldCatalogs" >> beam.ParDo(FoldCatalog(job, top, _empty_values(job, top)))
    )
    indexes = _each(pipeline, "Ranges", index_parts(base)) | "FoldIndexes" >> beam.ParDo(FoldIndex(job, base))
    copied = _each(pipeline, "Copies", copies(chain)) | "CopyFiles" >> beam.ParDo(CopyFile(job))
    files = (records, catalogs, indexes, copied) | "AllFiles" >> beam.Flatten()
    once = pipeline | "Once" >> beam.Create([job.layout.spool])
    _ = once | "ListFiles" >> beam.Map(_list_files, files=AsIter(files))


def _each(pipeline: beam.Pipeline, name: str, elements: list[Any]) -> Any:
    return pipeline | name >> beam.Create(elements) | f"Spread{name}" >> beam.Reshuffle()


def _buckets(job: Job, chain: list[Dataset]) -> int:
    """Parts of an output file, a power of two."""
    rows = sum(dataset.splits["train"].rows for dataset in chain) // job.dataset.num_shards
    most = min(job.layout.bucket_rows, max(1, _BUCKET_ITEMS // max(1, job.dataset.history_length or 0)))
    return 1 << max(0, (rows // most).bit_length())


def _vector_files(top: Dataset) -> list[Any]:
    """((user or item, file), (ALL, 0, no ref)) of every file of vectors, which need not have any."""
    owners = {info.of for info in top.features.values() if info.kind == "vector"}
    return [
        ((owner, number), (ALL, 0, ("", 0, 0)))
        for owner in sorted(owners)
        for number in range(-(-top.tables[owner].catalog_rows // CATALOG_FILE_ROWS))
    ]


def _empty_values(job: Job, top: Dataset) -> dict[str, float | int]:
    """By feature of users and items with single values, the one that stands for no value."""
    single = [name for name, info in top.features.items() if info.kind not in ("list", "vector")]
    names = [name for name in single if top.features[name].of != "context"]
    tables = {}
    for name in names:
        table = top.features[name].table
        if top.features[name].has_keys and table is not None:
            info = top.tables[table]
            tables[table] = TableIds(info.keys, info.rows, 0, {}, empty=_empty_id(top, table))
    given = {name: info.keys for name, info in top.tables.items() if info.ids == "given"}
    job = dataclasses.replace(job, given=given)
    return {name: empty_value(job, feature_of_column(name), tables) for name in names}


def _empty_id(top: Dataset, table: str) -> int:
    """Id of the empty key in a vocabulary; the out-of-vocabulary row if it has none."""
    info = top.tables[table]
    for file in info.files:
        for block in read_blocks(top.file_path(file), file, ["id", "key"]):
            keys = pa.array(block["key"], pa.binary())
            place = keys.index(pa.scalar(b"", pa.binary())).as_py()
            if place >= 0:
                return int(np.asarray(block["id"])[place])
    return info.oov or 0


def _list_files(spool: str, files: Iterable[WrittenFile]) -> None:
    """Writes the list of all files into the spool."""
    found = [file._asdict() for file in sorted(files, key=WrittenFile.place)]
    with fsspec.open(f"{spool}/{_FILE_NAME}", "wb") as file:
        file.write(json.dumps(found).encode())


def listed_files(spool: str) -> list[WrittenFile]:
    """What the job has written. Raises FileNotFoundError: its workers wrote to another disk."""
    with fsspec.open(f"{spool}/{_FILE_NAME}", "rb") as file:
        return TypeAdapter(list[WrittenFile]).validate_json(file.read())

"""Folding a chain: train rows of all its datasets, and held-out rows of all but the newest, as train rows.

Ids become those of the newest dataset; a key that has left becomes the out-of-vocabulary row, and leaves
histories. Rows are shuffled anew among the files and within them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from configs.columns import label_column
from configs.dataset_parts import FeatureInfo
from configs.manifest import SPLITS, Dataset
from pipelines.base.translation import Translation
from pipelines.job import OWNERS, RECORDS, Job
from pipelines.rows import split
from pipelines.rows.blocks import Lists
from pipelines.rows.decode import Block, read_blocks
from pipelines.rows.hashes import hash_rows
from pipelines.stages.catalog import by_catalog_file
from pipelines.stages.spool import SpoolWriter, partition
from pipelines.stages.threads import ThreadedDoFn

HELD = "held"
"""Kind of the rows of users or items that were held out in datasets below, and are train rows now."""
_STREAM = 5  # of hash_rows; other stages use smaller ones
_CHUNK_BLOCKS = 32


class RecordsOf(NamedTuple):
    """A record file of a chain."""

    level: int
    """Of the dataset; 0 is the newest."""
    directory: str
    """One of SPLITS."""
    file: int
    """Index among the split's files."""
    number: int
    """Index among all record files that are folded."""


def record_files(chain: list[Dataset]) -> list[RecordsOf]:
    """The files whose rows are train rows once the chain is folded, oldest first."""
    found: list[RecordsOf] = []
    for level in reversed(range(len(chain))):
        for directory in SPLITS if level else SPLITS[:1]:
            for file in range(len(chain[level].splits[directory].files)):
                found.append(RecordsOf(level, directory, file, len(found)))
    return found


class FoldRecords(ThreadedDoFn):
    """RecordsOf to ((directory, file), (bucket, ref)), with output `catalog`: ((user or item, catalog file),
    (HELD, level, ref of id and count)).

    Args:
      chain: newest first.
      all_positive: whether every row of the chain is positive.
      buckets: parts of an output file; a power of two.
    """

    def __init__(self, job: Job, chain: list[Dataset], all_positive: bool, buckets: int):
        super().__init__(job)
        self._chain, self._all_positive, self._buckets = chain, all_positive, buckets

    def setup(self) -> None:
        super().setup()
        self._translation = Translation(self._chain)

    def work(self, element: RecordsOf) -> Iterator[Any]:
        dataset = self._chain[element.level]
        info = dataset.splits[element.directory].files[element.file]
        output: list[Any] = []
        held: dict[str, list[np.ndarray]] = {owner: [] for owner in self._job.owners}
        done = 0
        with SpoolWriter(self._job.layout.spool, "fold", info.rows) as spool:
            for blocks in _chunks(read_blocks(dataset.file_path(info), info)):
                table, label = pa.concat_tables([self._columns(element.level, b) for b in blocks]), "label"
                table = table.combine_chunks()
                labels = table[label].to_numpy()
                rows = np.arange(done, done + table.num_rows) + (element.number << 32)
                done += table.num_rows
                for key, bucket, slice_ in self._placed(table, rows, labels):
                    output.append((key, (bucket, spool.add(slice_))))
                counted = self._job.dataset.is_counted(labels)
                for owner, ids in held.items():
                    ids.append(table[owner].to_numpy()[counted])
            if element.directory != SPLITS[0]:
                for owner, parts in held.items():
                    distinct, counts = np.unique(np.concatenate(parts), return_counts=True)
                    for key, slice_ in by_catalog_file(owner, pa.table({"id": distinct, "count": counts})):
                        item = key, (HELD, element.level, spool.add(slice_))
                        output.append(beam.pvalue.TaggedOutput("catalog", item))
        yield from output

    def _placed(self, table: pa.Table, rows: np.ndarray, labels: np.ndarray) -> Iterator[Any]:
        """Rows by directory, file and bucket; the hash of a row's number decides its file and position."""
        place = hash_rows(rows, self._job.dataset.seed, _STREAM)
        table = table.append_column("_place", pa.array(place))
        bits = self._buckets.bit_length() - 1
        chosen = {split.TRAIN: np.arange(len(rows))}
        if not self._all_positive:
            positive = self._job.dataset.is_positive(labels)
            chosen[RECORDS.index("positives")] = np.flatnonzero(positive)
        for directory, mine in chosen.items():
            files = self._job.num_files(directory)
            bucket = place[mine] >> np.uint64(64 - bits) if bits else np.uint64(0)
            part = ((place[mine] % np.uint64(files)) << np.uint64(bits)) + bucket
            order, bounds = partition(part.astype(np.int64), files << bits)
            for index in np.flatnonzero(np.diff(bounds)):
                some = mine[order[bounds[index] : bounds[index + 1]]]
                slice_ = table.take(pa.array(some)).combine_chunks()
                yield (directory, int(index) >> bits), int(index) & (self._buckets - 1), slice_

    def _columns(self, level: int, block: Block) -> pa.Table:
        """A block with the columns and ids of the newest dataset."""
        top = self._chain[0]
        found: dict[str, Any] = {"timestamp": block["timestamp"], "label": block["label"]}
        for owner in OWNERS:
            if owner in top.tables:
                found[owner] = self._translation.rows_at_top(level, owner, np.asarray(block[owner]))
        for name in (*map(label_column, top.labels), *(["weight"] if top.has_weight else [])):
            found[name] = block[name]
        for name, info in top.features.items():
            if info.lives == "records":
                found |= translated_feature(self._translation, level, name, info, block, name)
        if top.history_length:
            items = self._translation.to_top(level, "item", np.asarray(block["history"]))
            known = top.tables["item"].has_row(items) & (items >= 0)
            lists = Lists(items, _offsets(np.asarray(block["history_length"])), None)
            found["history"] = _array(_filtered(lists, known))
        return pa.table(found)


def translated_feature(
    translation: Translation, level: int, name: str, info: FeatureInfo, block: Block, column: str
) -> dict[str, Any]:
    """Arrow columns of a feature, with ids of the newest dataset.

    Args:
      column: the first of its columns in the block, as of any time.
    """
    values = np.asarray(block[column])
    if info.has_keys and info.table is not None:
        values = translation.rows_at_top(level, info.table, values)
    if info.kind != "list":
        return {column: values}
    offsets = _offsets(np.asarray(block[f"{column}/length"]))
    found = {column: _array(Lists(values, offsets, None))}
    if info.weighted:
        found[f"{column}/weight"] = _array(Lists(np.asarray(block[f"{column}/weight"]), offsets, None))
    return found


def _chunks(blocks: Iterator[Block]) -> Iterator[list[Block]]:
    """Some blocks at once."""
    found: list[Block] = []
    for block in blocks:
        found.append(block)
        if len(found) == _CHUNK_BLOCKS:
            yield found
            found = []
    if found:
        yield found


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.r_[0, np.cumsum(lengths)].astype(np.int64)


def _array(lists: Lists) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(lists.offsets), pa.array(lists.values))


def _filtered(lists: Lists, kept: np.ndarray) -> Lists:
    """Lists with some of their values: bool [values]."""
    before = np.r_[0, np.cumsum(kept)]
    return Lists(lists.values[kept], before[lists.offsets], lists.length_name)

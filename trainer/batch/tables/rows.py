"""Predictions of a ranking model for each row of a source, as `lazytower predict` gives them."""

import collections
import functools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from absl import logging

from configs.errors import DataError
from pipelines.rows import bags
from trainer.batch.source_rows import RangeReader, as_text
from trainer.batch.tables.base import BaseTable, shard_name
from trainer.batch.target import Shard
from trainer.serving.client import load_model, read_metadata

_AT_ONCE = 8192


@functools.lru_cache(maxsize=1)
def _open_ranking(model: str):
    """(TensorFlow, the loaded SavedModel, its tasks), once a process."""
    from configs.sections.devices import CpuDeviceConfig
    from trainer.runtime import start_tensorflow

    metadata = read_metadata(model, "ranking")
    tf = start_tensorflow(CpuDeviceConfig(), deterministic=True)
    return tf, load_model(tf, model), [task["name"] for task in metadata["tasks"]]


class Table(BaseTable):
    """As BaseTable: a row for each valid row of the source, with its number, user, item and predictions."""

    family = "ranking"

    def __init__(self, model, options):
        super().__init__(model, options)
        self._tf, self._loaded, self._tasks = _open_ranking(model)
        self._reader = RangeReader(options.source)
        self._rejected: collections.Counter = collections.Counter()

    @classmethod
    def plan(cls, subject, metadata, options, state):
        ranges = subject.ranges()
        if not ranges:
            raise DataError("source: has no rows; check source.paths")
        return [
            Shard(shard_name("rows", number, len(ranges), options), -1, "rows", as_text(*part))
            for number, part in enumerate(ranges)
        ]

    def schema(self, part):
        keys = [(name, pa.string()) for name in self._reader.job.owners]
        return pa.schema([("row", pa.int64()), *keys, *((task, pa.float32()) for task in self._tasks)])

    def batches(self, part, state) -> Iterator[pa.RecordBatch]:
        self._rejected.clear()
        for table in self._reader.tables(part.source, self._rejected):
            for start in range(0, table.num_rows, _AT_ONCE):
                yield self._predicted(table.slice(start, _AT_ONCE).combine_chunks(), self.schema(part))
        if self._rejected:
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in self._rejected.most_common())
            logging.warning("%s: rows left out: %s", part.name, reasons)

    def facts(self):
        return {"left_out": dict(sorted(self._rejected.items()))}

    def _predicted(self, table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
        job = self._reader.job
        columns = {name: pa.concat_arrays(table.column(name).chunks) for name in table.column_names}
        given = {name: self._strings(columns[name]) for name in (*job.owners, *job.categorical)}
        for name in job.numeric:
            given[name] = self._tf.constant(columns[name].to_numpy(zero_copy_only=False))
        for feature in job.lists:
            given |= self._lists(feature.name, columns[feature.name], feature.weights is not None)
        answer = self._loaded.score(**given)
        found = [columns["_row"], *(columns[name].dictionary_decode() for name in job.owners)]
        found += [pa.array(answer[task].numpy()) for task in self._tasks]
        return pa.RecordBatch.from_arrays(found, schema=schema)

    def _strings(self, column: pa.DictionaryArray):
        keys = self._tf.constant(column.dictionary.to_pylist(), self._tf.string)
        return self._tf.gather(keys, column.indices.to_numpy())

    def _lists(self, name: str, column: pa.DictionaryArray, weighted: bool) -> dict:
        """Keys of a list feature, filled up with "", and their weights."""
        found = bags.split(column.dictionary_decode(), weighted)
        members = found.members.dictionary_encode()
        width = int(found.lengths.max(initial=0))
        there = np.arange(width) < found.lengths[:, None]
        places = np.zeros(there.shape, np.int64)
        places[there] = members.indices.to_numpy() + 1
        keys = self._tf.constant(["", *members.dictionary.to_pylist()], self._tf.string)
        given = {name: self._tf.gather(keys, places)}
        if weighted:
            weights = np.zeros(there.shape, np.float32)
            weights[there] = found.weights
            given[f"weight_{name}"] = self._tf.constant(weights)
        return given

"""Vectors of users and items with their keys, for a vector database; their dot product is the score."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from configs.system import storage
from trainer.batch.tables.base import BaseTable, shard_name, user_parts
from trainer.batch.tables.topk import open_retrieval
from trainer.batch.target import Shard
from trainer.batch.user_keys import read_keys
from trainer.serving.client import start_for

_AT_ONCE = 8192


class Table(BaseTable):
    """As BaseTable: files of users and files of items, a row for each."""

    def __init__(self, model, options):
        super().__init__(model, options)
        self._tf, self._loaded = start_for(model, deterministic=True), open_retrieval(model)
        of_one = self._of_items(np.array([b""], object))
        self._dim = of_one.shape[1]

    @classmethod
    def plan(cls, subject, metadata, options, state):
        items, rows = metadata["recommended_items"], options.shard_rows
        starts = range(0, items, rows)
        of_items = [
            Shard(shard_name("items", n, len(starts), options), min(rows, items - start), "items", str(start))
            for n, start in enumerate(starts)
        ]
        return user_parts("users", subject, options, state) + of_items

    def schema(self, part):
        return pa.schema([("key", pa.string()), ("vector", pa.list_(pa.float32(), self._dim))])

    def batches(self, part, state) -> Iterator[pa.RecordBatch]:
        if part.of == "users":
            keys, vectors_of = read_keys(storage.join(state, part.source)), self._of_users
        else:
            first = int(part.source)
            keys = self._loaded.item_names[first : first + part.rows].numpy()
            vectors_of = self._of_items
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            values = pa.array(vectors_of(some).numpy().ravel())
            columns = [
                pa.array(some, pa.binary()).cast(pa.string()),
                pa.FixedSizeListArray.from_arrays(values, self._dim),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema(part))

    def _of_users(self, keys: np.ndarray):
        return self._loaded.user_embedding(user=self._strings(keys))["embedding"]

    def _of_items(self, keys: np.ndarray):
        return self._loaded.item_embedding(item=self._strings(keys))["embedding"]

    def _strings(self, keys: np.ndarray):
        return self._tf.constant(keys.tolist(), self._tf.string)

"""The best items of each user, as `lazytower recommend` gives them, by exact search under every index."""

import functools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from configs.system import storage
from trainer.batch.search import make_search
from trainer.batch.tables.base import BaseTable, user_parts
from trainer.batch.user_keys import read_keys
from trainer.serving.client import load_model, read_metadata, start_for

_ROWS_AT_ONCE = 1024


@functools.lru_cache(maxsize=1)
def open_retrieval(model: str):
    """The loaded SavedModel, once a process: its weights may fill a good part of the memory.

    Raises:
      ExportError: it cannot be loaded.
    """
    return load_model(start_for(model, deterministic=True), model)


class Table(BaseTable):
    """As BaseTable: a row for each user, with a list of items and scores, best first."""

    has_lists = True

    def __init__(self, model, options):
        super().__init__(model, options)
        loaded = open_retrieval(model)
        servable = read_metadata(model)["recommended_items"]
        self._search = make_search(loaded, options, servable)
        self._names = pa.array(loaded.item_names.numpy(), pa.binary()).cast(pa.string())

    @classmethod
    def plan(cls, subject, metadata, options, state):
        return user_parts("topk", subject, options, state)

    def schema(self, part):
        item = pa.dictionary(pa.int32(), pa.string())
        entry = pa.struct([("item", item), ("score", pa.float32())])
        return pa.schema([("user", pa.string()), ("known", pa.bool_()), ("items", pa.list_(entry))])

    def batches(self, part, state) -> Iterator[pa.RecordBatch]:
        keys, schema = read_keys(storage.join(state, part.source)), self.schema(part)
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            users = keys[start : start + _ROWS_AT_ONCE]
            yield pa.RecordBatch.from_arrays(self._columns(users, schema), schema=schema)

    def _columns(self, users: np.ndarray, schema: pa.Schema) -> list[pa.Array]:
        size = self._search.users_at_once
        answers = [self._search.find(users[at : at + size]) for at in range(0, len(users), size)]
        rows, scores, known = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        found = rows >= 0  # unfilled places are the last ones
        offsets = np.concatenate([[0], np.cumsum(found.sum(axis=1))]).astype(np.int32)
        items = pa.DictionaryArray.from_arrays(pa.array(rows[found]), self._names)
        entries = pa.StructArray.from_arrays(
            [items, pa.array(scores[found])], fields=list(schema.field("items").type.value_type)
        )
        return [
            pa.array(users, pa.binary()).cast(pa.string()),
            pa.array(known),
            pa.ListArray.from_arrays(pa.array(offsets), entries, type=schema.field("items").type),
        ]

"""The best items of each user, as `lazytower recommend` gives them, by exact search under every index."""

import functools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from configs.system import storage
from trainer.batch.tables.base import BaseTable, user_parts
from trainer.batch.user_keys import read_keys
from trainer.serving.client import load_model, start_for

# Each block passes over all items once. Of 32 to 4,096 users at once (100,000 items x 32, k = 100), blocks of
# 64 and 128 cost least: the more users, the more items the worst of them makes the search look at.
_USERS_AT_ONCE = 128
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
        self._tf = tf = start_for(model, deterministic=True)
        loaded = open_retrieval(model)
        self._recommend = loaded.recommend_rows
        self._names = pa.array(loaded.item_names.numpy(), pa.binary()).cast(pa.string())
        given = {"exclude": options.exclude, "include": options.include}
        given |= {f"where_{name}": values for name, values in options.where}
        self._given = {
            name: tf.constant([list(values)], tf.string, shape=[1, len(values)])
            for name, values in given.items()
            if values
        }

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
        blocks = range(0, len(users), _USERS_AT_ONCE)
        answers = [self._answers(users[start : start + _USERS_AT_ONCE]) for start in blocks]
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

    def _answers(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places of the items, scores, and whether the model knows the user."""
        tf, options = self._tf, self.options
        answer = self._recommend(
            user=tf.constant(users.tolist(), tf.string),
            k=tf.constant(options.k),
            exclude_seen=tf.constant(options.exclude_seen),
            **self._given,
        )
        return answer["rows"].numpy(), answer["scores"].numpy(), answer["known"].numpy()

"""The served model: raw keys in, items and scores out; a tf.Module that holds nothing but what it needs.

Signatures, all batched over users or items:
  serving_default  user [B] -> as `recommend` with its defaults; the one that TF Serving can batch.
  recommend        user [B] string; k int32 scalar; exclude_seen bool scalar; exclude [B, M] or [1, M]
                   string, item keys left out ("": none) -> items [B, k] string, scores [B, k] float32,
                   known [B] bool.
                   Only `user` is required by TF Serving (SignatureDef.defaults) and by the Python function
                   `recommend` of the loaded model; `signatures["recommend"]` in Python wants all four.
  user_embedding   user [B] -> embedding [B, D].
  item_embedding   item [B] -> embedding [B, D].
  score            user [B], item [B] -> score [B].

A score is the dot product of the two embeddings (under dot_bias: the logit of the trained probability);
where the model adds a bias, a constant column carries it. When fewer than k items are left, or found by an
approximate index, the rest is "" with the score NO_SCORE, the lowest float32. k outside 1 .. export.max_k is
INVALID_ARGUMENT.

Unknown keys: under exact ids they share the out-of-vocabulary row, under hashed ids they have the row that
their hash gives them, with whatever history other keys have left there. `known` says whether the user's row
was trained. Items outside the catalog are never recommended.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.indexes.base import NO_SCORE, BaseIndex
from trainer.serving.keys import KeyTable
from trainer.serving.user_rows import Lists

DEFAULT_K = 10


@dataclasses.dataclass(frozen=True)
class UserState:
    """What the user tower reads; see trainer.serving.user_rows.UserRows."""

    known: np.ndarray
    features: dict[str, np.ndarray]
    history: Lists | None
    history_length: int
    seen: Lists | None


class ServingModel(tf.Module):
    """See the module's docstring.

    Args:
      user_keys, item_keys: KeyTable.
      users: UserState.
      item_order: int64 [item rows], the rows of the item table in the order of the vectors and names: first
        those that may be recommended, rising.
      item_vectors: float32 variable [item rows, D].
      item_names: raw keys, object (bytes) [item rows].
      index: of item_vectors.
      user_tower: function from inputs (user: int64 [n], history: int64 [n, length] padded with -1, and the
        user features) to vectors float32 [n, D].
      weights: variables that `user_tower` reads.
      max_k: largest k of a request.
    """

    def __init__(
        self,
        user_keys: KeyTable,
        item_keys: KeyTable,
        users: UserState,
        item_order: np.ndarray,
        item_vectors: tf.Variable,
        item_names: np.ndarray,
        index: BaseIndex,
        user_tower: Callable,
        weights: list[tf.Variable],
        max_k: int,
    ):
        super().__init__(name="lazytower")
        self._user_keys, self._item_keys = user_keys, item_keys
        self._known = _constant(users.known, "known_users")
        self._features = {name: _constant(v, f"feature_{name}") for name, v in users.features.items()}
        self._history = _ListsOnDevice(users.history, "history") if users.history else None
        self._history_length = users.history_length
        self._seen = _ListsOnDevice(users.seen, "seen") if users.seen else None
        self._item_places = _places(item_order)
        self._item_vectors, self._index = item_vectors, index
        self._item_names = _constant(item_names, "item_names")
        self._user_tower, self._weights = user_tower, weights
        self._max_k = max_k
        self._make_functions()

    def _make_functions(self) -> None:
        user, item = (tf.TensorSpec([None], tf.string, name) for name in ("user", "item"))
        default_k = tf.constant(min(DEFAULT_K, self._max_k))
        seen_goes, no_items = tf.constant(self._seen is not None), tf.zeros([1, 0], tf.string)

        # tf.saved_model.save turns default values that are tensors into SignatureDef.defaults.
        def recommend(user, k=default_k, exclude_seen=seen_goes, exclude=no_items):
            return self._recommend(user, k, exclude_seen, exclude)

        def serving_default(user):
            return self._recommend(user, default_k, seen_goes, no_items)

        def user_embedding(user):
            return {"embedding": self.user_vectors(self._user_keys(user))}

        def item_embedding(item):
            return {"embedding": self._vectors_of_items(item)}

        def score(user, item):
            users, items = self.user_vectors(self._user_keys(user)), self._vectors_of_items(item)
            return {"score": tf.reduce_sum(users * items, axis=1)}

        options = [
            tf.TensorSpec([], tf.int32, "k"),
            tf.TensorSpec([], tf.bool, "exclude_seen"),
            tf.TensorSpec([None, None], tf.string, "exclude"),
        ]
        self.recommend = tf.function(recommend, input_signature=[user, *options])
        self.serving_default = tf.function(serving_default, input_signature=[user])
        self.user_embedding = tf.function(user_embedding, input_signature=[user])
        self.item_embedding = tf.function(item_embedding, input_signature=[item])
        self.score = tf.function(score, input_signature=[user, item])

    def signatures(self) -> dict:
        """What tf.saved_model.save takes as `signatures`."""
        names = ("serving_default", "recommend", "user_embedding", "item_embedding", "score")
        return {name: getattr(self, name) for name in names}

    def _vectors_of_items(self, keys):
        # After a gather from the variable itself TensorFlow copies it at every whole read, that of the index.
        return tf.gather(self._item_vectors.read_value(), self._places_of_items(keys))

    def _places_of_items(self, keys):
        return self._places_of_rows(self._item_keys(keys))

    def _places_of_rows(self, rows):
        """Rows of the vectors, int64 [n], of rows of the item table."""
        return rows if self._item_places is None else tf.gather(self._item_places, rows)

    def user_vectors(self, ids):
        """Vectors float32 [n, D] of rows int64 [n] of the user table."""
        inputs = {"user": ids}
        if self._history is not None:
            past = tf.cast(self._history.of(ids), tf.int64)
            inputs["history"] = past.to_tensor(default_value=-1, shape=[None, self._history_length])
        inputs |= {name: tf.gather(values, ids) for name, values in self._features.items()}
        return self._user_tower(inputs)

    def _recommend(self, user, k, exclude_seen, exclude):
        # Nothing is computed from a request before it has been checked.
        with tf.control_dependencies(self._checks(user, k, exclude_seen, exclude)):
            user, k, exclude = tf.identity(user), tf.identity(k), tf.identity(exclude)
        ids = self._user_keys(user)
        banned = self._banned(ids, exclude_seen, exclude)
        scores, rows = self._index.search(self.user_vectors(ids), banned, k)
        items = tf.where(scores > NO_SCORE, tf.gather(self._item_names, rows), "")
        return {"items": items, "scores": scores, "known": tf.gather(self._known, ids)}

    def _checks(self, user, k, exclude_seen, exclude) -> list:
        """Assertions that refuse a request that cannot be answered, as INVALID_ARGUMENT."""
        rows = tf.shape(exclude)[0]
        one_or_each = (rows == 1) | (rows == tf.shape(user)[0])
        k_fits = (k >= 1) & (k <= self._max_k)
        checks = [
            tf.Assert(k_fits, [f"k must be 1 to {self._max_k} (export.max_k), found", k]),
            tf.Assert(one_or_each, ["exclude needs one row for all users, or one per user, found", rows]),
        ]
        if self._seen is None:
            checks.append(tf.Assert(~exclude_seen, ["exported without seen items (export.exclude_seen)"]))
        return checks

    def _banned(self, ids, exclude_seen, exclude):
        """(position in the batch, row of the item's vector) of all pairs to leave out, int64 [n] each."""
        batch = tf.shape(ids)[0]
        exclude = tf.broadcast_to(exclude, tf.stack([batch, tf.shape(exclude)[1]]))
        place = tf.where(exclude != "")
        users, items = place[:, 0], self._places_of_items(tf.gather_nd(exclude, place))
        if self._seen is not None:
            seen = self._seen.of(ids, exclude_seen)
            users = tf.concat([users, seen.value_rowids()], axis=0)
            items = tf.concat([items, self._places_of_rows(tf.cast(seen.values, tf.int64))], axis=0)
        return users, items


class _ListsOnDevice(tf.Module):
    """Lists as variables."""

    def __init__(self, lists: Lists, name: str):
        super().__init__(name=name)
        self._splits = _constant(lists.splits, f"{name}_splits")
        self._values = _constant(lists.values, f"{name}_values")

    def of(self, ids, wanted=True) -> tf.RaggedTensor:
        """The lists of rows int64 [n]; all empty unless `wanted`, a bool scalar."""
        start, stop = tf.gather(self._splits, ids), tf.gather(self._splits, ids + 1)
        where = tf.ragged.range(start, tf.where(wanted, stop, start))
        return where.with_values(tf.gather(self._values, where.values))


def _places(order: np.ndarray) -> tf.Variable | None:
    """By row of the item table its place in `order`, int64; None when each row has its own."""
    rising = np.arange(len(order))
    if np.array_equal(order, rising):
        return None
    places = np.empty_like(order)
    places[order] = rising
    return _constant(places, "item_places")


def _constant(values: np.ndarray, name: str) -> tf.Variable:
    """A variable, because a constant would be copied into the graph, which is limited to 2 GB."""
    dtype = tf.string if values.dtype == object else None
    return tf.Variable(values, trainable=False, dtype=dtype, name=name)

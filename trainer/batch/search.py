"""The best items of blocks of users, by the compiled search where it is available.

The answers are those of `recommend`: of equal scores the lower row first, and scores that differ by the
rounding of a sum (about 1e-6 of the score), because the compiled search adds up products in the order of the
dimensions.
"""

from typing import NamedTuple

import numpy as np

from trainer.batch.request import BatchOptions
from trainer.kernels import ops
from trainer.kernels.build import kernels


class Found(NamedTuple):
    """The answers to n users."""

    rows: np.ndarray
    """Rows of item_names, int32 [n, k]; -1 in unfilled places, which are the last ones."""
    scores: np.ndarray
    """float32 [n, k]."""
    known: np.ndarray
    """Whether the model knows the user, bool [n]."""


class CompiledSearch:
    """Asks the model for the vectors of users only; the items that may be returned are packed once.

    Args:
      loaded: the SavedModel, with `search_inputs`.
      options: of the output.
      servable: only the first `servable` items may be returned.
    """

    users_at_once = 1024

    def __init__(self, loaded, options: BatchOptions, servable: int):
        import tensorflow as tf

        self._inputs, self._k = loaded.search_inputs, tf.constant(options.k)
        given = {"include": options.include} | {f"where_{name}": v for name, v in options.where}
        given = {name: _one_row(values) for name, values in given.items() if values}
        vectors = loaded.item_vectors.numpy()
        rows = np.arange(servable, dtype=np.int32)
        if given:
            rows = loaded.allowed_rows(**given)["rows"].numpy()
            vectors = vectors[rows]
        self._rows, self._panels = tf.constant(rows), tf.constant(ops.panels(vectors[: len(rows)]))
        self._more = {"exclude_seen": tf.constant(options.exclude_seen)}
        if options.exclude:
            self._more["exclude"] = _one_row(options.exclude)

    @staticmethod
    def available(loaded) -> bool:
        """Whether there are kernels, and the model, if it is of this version, says what they need."""
        return hasattr(loaded, "search_inputs") and kernels() is not None

    def find(self, users: np.ndarray) -> Found:
        """The answers to users with keys object (bytes) [n]."""
        import tensorflow as tf

        asked = self._inputs(user=tf.constant(users.tolist(), tf.string), **self._more)
        banned = asked["owners"], asked["banned"]
        scores, rows = ops.best_rows(asked["embedding"], self._panels, self._rows, banned, self._k)
        return Found(rows.numpy(), scores.numpy(), asked["known"].numpy())


class GraphSearch:
    """Asks the model for everything. Arguments as CompiledSearch."""

    # Each block passes over all items once. Of 32 to 4,096 users at once (100,000 items x 32, k = 100),
    # blocks of 64 and 128 cost least: the more users, the more items the worst of them has looked at.
    users_at_once = 128

    def __init__(self, loaded, options: BatchOptions, servable: int):
        import tensorflow as tf

        self._recommend, given = (
            loaded.recommend_rows,
            {"exclude": options.exclude, "include": options.include},
        )
        given |= {f"where_{name}": values for name, values in options.where}
        self._more = {name: _one_row(values) for name, values in given.items() if values}
        self._more |= {"k": tf.constant(options.k), "exclude_seen": tf.constant(options.exclude_seen)}

    def find(self, users: np.ndarray) -> Found:
        """As CompiledSearch.find."""
        import tensorflow as tf

        answer = self._recommend(user=tf.constant(users.tolist(), tf.string), **self._more)
        return Found(*(answer[name].numpy() for name in ("rows", "scores", "known")))


def make_search(loaded, options: BatchOptions, servable: int) -> CompiledSearch | GraphSearch:
    """The faster one that is available; arguments as CompiledSearch."""
    kind = CompiledSearch if CompiledSearch.available(loaded) else GraphSearch
    return kind(loaded, options, servable)


def _one_row(keys):
    import tensorflow as tf

    return tf.constant([list(keys)], tf.string, shape=[1, len(keys)])

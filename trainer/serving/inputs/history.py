"""The user's past items in the served model: those that a request names, or the known ones."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from trainer.serving.inputs.device_lists import DeviceLists
from trainer.serving.keys import KeyTable
from trainer.serving.user_rows import Lists

HISTORY = "history"
"""Name of the input."""


class HistoryInput(tf.Module):
    """Offers what trainer.serving.inputs.kinds.BaseInput does for features.

    Args:
      lists: known histories, by catalog id of the user.
      length: most items of a history.
      keys: of items, to catalog ids.
      admits: function from catalog ids int64 [n] to bool [n]: which items histories may hold.
      distinct_below: bound of the catalog ids if a history is a set, in which repeated items count once;
        None: they count repeatedly.
    """

    reads, owners = [HISTORY], ["user"]

    def __init__(
        self,
        lists: Lists,
        length: int,
        keys: KeyTable,
        admits: Callable,
        distinct_below: int | None = None,
    ):
        super().__init__(name=HISTORY)
        self._lists, self._length = DeviceLists(lists, HISTORY), length
        self._keys, self._admits, self._distinct_below = keys, admits, distinct_below

    def specs(self) -> list[tuple[tf.TensorSpec, tf.Tensor]]:
        """As BaseInput.specs: item keys, newest last."""
        return [(tf.TensorSpec([None, None], tf.string, HISTORY), tf.zeros([1, 0], tf.string))]

    def checks(self, given: Mapping[str, tf.Tensor]) -> list:
        """As BaseInput.checks: all keys are fine, because unknown ones are dropped."""
        return []

    def values(self, ids: Mapping[str, tf.Tensor], given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Catalog ids of items, oldest first, int64 [n, length], padded with -1; as BaseInput.values."""
        past = self._lists.of(ids["user"])
        if HISTORY in given:
            past = self._said_or(past, given[HISTORY])
        return {HISTORY: tf.cast(past, tf.int64).to_tensor(-1, shape=[None, self._length])}

    def _said_or(self, known: tf.RaggedTensor, keys) -> tf.RaggedTensor:
        """Of each user the items that the request names, or the known ones."""
        names = tf.broadcast_to(keys, tf.stack([known.nrows(), tf.shape(keys, tf.int64)[1]]))
        rows = self._keys(tf.reshape(names, [-1]))
        listed = (names != "") & tf.reshape(self._admits(rows), tf.shape(names))
        named = tf.ragged.boolean_mask(tf.reshape(rows, tf.shape(names)), listed)
        if self._distinct_below is not None:
            named = _distinct(named, self._distinct_below)
        named = tf.cast(named[:, -self._length :], known.dtype)
        given = tf.reduce_any(names != "", axis=1)
        return tf.concat(
            [_only(named, given), _only(known.with_row_splits_dtype(named.row_splits.dtype), ~given)], axis=1
        )


def _distinct(lists: tf.RaggedTensor, bound: int) -> tf.RaggedTensor:
    """Each list's distinct values, in the order of their first places; values are integers in [0, bound)."""
    codes, _ = tf.unique(lists.value_rowids() * bound + lists.values)
    return tf.RaggedTensor.from_value_rowids(codes % bound, codes // bound, nrows=lists.nrows())


def _only(lists: tf.RaggedTensor, wanted) -> tf.RaggedTensor:
    """The lists of rows where `wanted` (bool [n]) holds; the others are empty."""
    return tf.ragged.boolean_mask(lists, lists.with_values(tf.gather(wanted, lists.value_rowids())))

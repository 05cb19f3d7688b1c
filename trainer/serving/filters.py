"""Restrictions of a request: items that it names (`include`) and values of item features (`where`).

A restriction has rows of strings, one row for all users or one per user, padded with "". A row of padding
alone restricts nothing. Values of one feature are alternatives; several features, and `include`, must all
hold. For each value, a feature keeps the list of items that have it, so the time to find the allowed items
depends on their number, not on the size of the catalog. A value that no item has allows no item.
"""

import numpy as np
import tensorflow as tf

from trainer.data.features import Column, ListColumn
from trainer.serving.inputs.device_lists import DeviceLists
from trainer.serving.keys import KeyTable
from trainer.serving.user_rows import Lists


class FeatureFilter(tf.Module):
    """Items by the value of one categorical feature, or by the values of a list.

    Args:
      name: of the feature.
      keys: KeyTable of its values, with exact ids: hashed ids would admit other values.
      column: int64 ids or a ListColumn [servable], each item's value or values, by place of the item.
    """

    def __init__(self, name: str, keys: KeyTable, column: Column):
        super().__init__(name=f"filter_{name}")
        self._keys = keys
        ids, places = column, np.arange(len(column))
        if isinstance(column, ListColumn):
            ids, places = column.ids.values, column.ids.row_of_value
        order = np.argsort(ids, kind="stable")
        splits = np.zeros(keys.rows + 1, np.int64)
        np.cumsum(np.bincount(ids, minlength=keys.rows), out=splits[1:])
        lists = Lists(splits, places[order].astype(np.int32))
        self._places = DeviceLists(lists, f"places_by_{name}")

    def places(self, values):
        """RaggedTensor int32 [n, None]: places of the items that have each value, string [n], rising."""
        ids = self._keys(values)
        return self._places.of(ids, ids < self._keys.oov)  # rows from there on are shared by other keys


def allowed_places(include, wheres: list, servable: int):
    """The items that satisfy all restrictions of a request.

    Args:
      include: (string [1 or batch, m], function from keys string [n] to places int64 [n], of which those of
        `servable` and more are no items).
      wheres: (string [1 or batch, m], FeatureFilter) of each feature.
      servable: number of items.

    Returns:
      restricted: bool [1 or batch], batch when a restriction has a row for each user.
      allowed: RaggedTensor int64 [1 or batch, None], rising places of restricted rows.
    """
    texts = [include[0], *(text for text, _ in wheres)]
    rows = tf.reduce_max([tf.shape(text)[0] for text in texts])
    texts = [tf.broadcast_to(text, tf.stack([rows, tf.shape(text)[1]])) for text in texts]
    codes = [_named(texts[0], include[1], servable)]
    codes += [_having(text, feature, servable) for text, (_, feature) in zip(texts[1:], wheres, strict=True)]
    restricted = [tf.reduce_any(text != "", axis=1) for text in texts]
    together, some = codes[0], restricted[0]
    for other, also in zip(codes[1:], restricted[1:], strict=True):
        both = tf.boolean_mask(together, _among(together, other))
        # Where only one of the two restricts a row, the row keeps what that one allows.
        mine = tf.boolean_mask(together, ~tf.gather(also, together // servable))
        its = tf.boolean_mask(other, ~tf.gather(some, other // servable))
        together = _rising(tf.concat([both, mine, its], axis=0), tf.cast(rows, tf.int64) * servable)
        some |= also
    counts = tf.math.bincount(tf.cast(together // servable, tf.int32), minlength=rows, maxlength=rows)
    return some, tf.RaggedTensor.from_row_lengths(together % servable, counts, validate=False)


def _named(text, places_of, servable: int):
    """row * servable + place of the items that `text` names, rising and distinct."""
    where = tf.where(text != "")
    places = places_of(tf.gather_nd(text, where))
    codes = tf.boolean_mask(where[:, 0] * servable + places, places < servable)
    return _rising(codes, tf.shape(text, tf.int64)[0] * servable)


def _having(text, feature: FeatureFilter, servable: int):
    """As _named, of the items that have one of the row's values."""
    where = tf.where(text != "")
    found = feature.places(tf.gather_nd(text, where))
    rows = tf.gather(where[:, 0], found.value_rowids())
    codes = rows * servable + tf.cast(found.values, tf.int64)
    return _rising(codes, tf.shape(text, tf.int64)[0] * servable)


def _rising(codes, bound):
    """int64 codes below `bound`, rising and distinct. Many of them are marked in a mask, few are sorted."""

    def marked():
        mask = tf.zeros(tf.reshape(bound, [1]), tf.bool)
        return tf.where(
            tf.tensor_scatter_nd_update(mask, codes[:, tf.newaxis], tf.ones_like(codes, tf.bool))
        )[:, 0]

    def ordered():
        found = tf.sort(codes)
        new = tf.concat([[True], found[1:] != found[:-1]], axis=0)[: tf.size(found)]
        return tf.boolean_mask(found, new)

    return tf.cond(tf.size(codes, tf.int64) > bound // 16, marked, ordered)


def _among(codes, others):
    """bool [n]: which of `codes` are in `others`, which rise."""
    padded = tf.concat([others, [-1]], axis=0)
    return tf.gather(padded, tf.searchsorted(others, codes)) == codes

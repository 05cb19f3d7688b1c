"""Restrictions of a request: items that it names (`include`) and values of item features (`where`).

A restriction has rows of strings, one row for all users or one per user, padded with "". A row of padding
alone restricts nothing. Values of one feature are alternatives; several features, and `include`, must all
hold. For each value, a feature keeps the list of items that have it, so that a few items are found without a
look at the others; more are marked in a mask of all items. A value that no item has allows no item.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.data.features import Column, ListColumn
from trainer.indexes.among import Allowed
from trainer.serving.inputs.device_lists import DeviceLists
from trainer.serving.keys import KeyTable
from trainer.serving.user_rows import Lists

# Values of more than this fraction of the items have a mask beside their list: marking places one by one
# takes longer than scoring all items. It needs a byte per item where the list has more than one.
_MASKED_SHARE = 0.25
# Places of at most this fraction of the items are sorted, more are marked.
_SORTED_SHARE = 1 / 64


class FeatureFilter(tf.Module):
    """Items by the value of one categorical feature, or by the values of a list.

    Args:
      name: of the feature.
      keys: KeyTable of its values, with exact ids: hashed ids would admit other values.
      column: int64 ids or a ListColumn [servable], each item's value or values, by place of the item.
    """

    def __init__(self, name: str, keys: KeyTable, column: Column):
        super().__init__(name=f"filter_{name}")
        self._keys, self._servable = keys, len(column)
        ids, places = column, np.arange(len(column))
        if isinstance(column, ListColumn):
            ids, places = column.ids.values, column.ids.row_of_value
        order = np.argsort(ids, kind="stable")
        ids, places = ids[order], places[order].astype(np.int32)
        if len(ids):  # a list may hold a key twice
            new = np.r_[True, (ids[1:] != ids[:-1]) | (places[1:] != places[:-1])]
            ids, places = ids[new], places[new]
        splits = np.zeros(keys.rows + 1, np.int64)
        np.cumsum(np.bincount(ids, minlength=keys.rows), out=splits[1:])
        self._places = DeviceLists(Lists(splits, places), f"places_by_{name}")
        large = np.flatnonzero(np.diff(splits)[: keys.oov] > _MASKED_SHARE * len(column))
        self._large = large.astype(np.int64)
        if len(large):
            masks = np.zeros([len(large), len(column)], bool)
            for mask, number in zip(masks, large, strict=True):
                mask[places[splits[number] : splits[number + 1]]] = True
            self._masks = tf.Variable(masks, trainable=False, name=f"masks_by_{name}")

    def count(self, values):
        """Number of items of all values string [n], int64 scalar; items of several of them count for each."""
        ids = self._keys(values)
        return tf.reduce_sum(tf.where(ids < self._keys.oov, self._places.lengths(ids), 0))

    def places(self, values):
        """Places of the items that have one of the values, int32 [n], in any order."""
        ids = self._keys(values)
        return self._places.of(
            ids, ids < self._keys.oov
        ).values  # rows from there on are shared by other keys

    def mask(self, values):
        """The same, bool [servable]."""
        ids = self._keys(values)
        same = ids[:, tf.newaxis] == self._large
        wanted = (ids < self._keys.oov) & ~tf.reduce_any(same, axis=1)
        marked = _marked(self._places.of(ids, wanted).values, self._servable)
        if not len(self._large):
            return marked
        masks = tf.boolean_mask(self._masks.read_value(), tf.reduce_any(same, axis=0))
        return marked | tf.reduce_any(masks, axis=0)


class _Named:
    """`include`, with the methods of FeatureFilter.

    Args:
      places_of: function from keys string [n] to places int64 [n], of which those of `servable` and more are
        no items.
    """

    def __init__(self, places_of: Callable, servable: int):
        self._places_of, self._servable = places_of, servable

    def count(self, values):
        return tf.size(values, tf.int64)

    def places(self, values):
        places = self._places_of(values)
        return tf.cast(tf.boolean_mask(places, places < self._servable), tf.int32)

    def mask(self, values):
        return _marked(self.places(values), self._servable)


class AllowedItems(Allowed):
    """The items that satisfy all restrictions of a request.

    Args:
      include: (string [1 or batch, m], function from keys string [n] to places int64 [n], of which those of
        `servable` and more are no items).
      wheres: (string [1 or batch, m], FeatureFilter) of each feature.
      servable: number of items.
    """

    def __init__(self, include: tuple, wheres: list, servable: int):
        self._servable = servable
        parts = [(include[0], _Named(include[1], servable)), *wheres]
        rows = tf.reduce_max([tf.shape(text)[0] for text, _ in parts])
        self._parts = [
            (tf.broadcast_to(text, tf.stack([rows, tf.shape(text)[1]])), found) for text, found in parts
        ]
        named = [tf.reduce_any(text != "", axis=1) for text, _ in self._parts]
        self.restricted = tf.reduce_any(named, axis=0)

    def _said(self, position) -> list[tuple]:
        """(values string [n] of the row, what finds their items) of each restriction."""
        rows = [(text[position], found) for text, found in self._parts]
        return [(tf.boolean_mask(row, row != ""), found) for row, found in rows]

    def are_few(self, position):
        """As Allowed.are_few."""
        total = tf.add_n([found.count(values) for values, found in self._said(position)])
        return total <= int(_SORTED_SHARE * self._servable) + 64

    def rows(self, position):
        """As Allowed.rows: those that all restrictions name."""
        said = self._said(position)
        number = tf.add_n([tf.cast(tf.size(values) > 0, tf.int32) for values, _ in said])
        places = tf.sort(tf.concat([_rising(found.places(values)) for values, found in said], axis=0))
        last = tf.maximum(tf.size(places) - number + 1, 0)
        every = places[:last] == places[number - 1 : number - 1 + last]
        return tf.cast(tf.boolean_mask(places[:last], every), tf.int64)

    def mask(self, position):
        """As Allowed.mask."""
        everything = tf.ones([self._servable], tf.bool)
        whole = everything
        for values, found in self._said(position):
            whole &= tf.cond(tf.size(values) > 0, lambda v=values, f=found: f.mask(v), lambda: everything)
        return whole


def _marked(places, servable: int):
    """bool [servable], True at `places` int32 [n]."""
    ones = tf.ones_like(places, tf.bool)
    return tf.tensor_scatter_nd_update(tf.zeros([servable], tf.bool), places[:, tf.newaxis], ones)


def _rising(places):
    """int32 [n], rising and distinct."""
    found = tf.sort(places)
    new = tf.concat([[True], found[1:] != found[:-1]], axis=0)[: tf.size(found)]
    return tf.boolean_mask(found, new)

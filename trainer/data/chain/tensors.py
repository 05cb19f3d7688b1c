"""Ids of the datasets of a chain as those of the first one, inside TensorFlow's graphs."""

from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from configs.chain import LEFT
from trainer.data.chain.layers import Layer

_LAYER = 2**48
"""Ids are below it; an id plus that many times its layer is one key."""


class ChainIds:
    """The maps of some tables from every dataset of a chain. Tensors are made here, not inside functions, so
    that no graph holds a copy of them.

    Args:
      layers: of the chain.
      tables: names.
    """

    def __init__(self, layers: Sequence[Layer], tables: Iterable[str]):
        with tf.device("CPU:0"):  # on the host, also beside accelerators
            self._tables = {name: _TableIds(layers, name) for name in set(tables)}

    def translated(self, table: str, ids: tf.Tensor, layer: tf.Tensor) -> tf.Tensor:
        """Ids in the first dataset, int64 [n]; LEFT where the key has left.

        Args:
          table: name.
          ids: int64 [n], each of its own dataset.
          layer: int32 [n], place of this dataset in the chain.
        """
        return self._tables[table].translated(ids, layer)

    def known(self, table: str, ids: tf.Tensor, layer: tf.Tensor) -> tf.Tensor:
        """As `translated`, but keys that have left are on the out-of-vocabulary row."""
        found, oov = self.translated(table, ids, layer), self._tables[table].oov
        return found if oov is None else tf.where(found == LEFT, tf.constant(oov, tf.int64), found)


class _TableIds:
    def __init__(self, layers: Sequence[Layer], name: str):
        maps = [layer.maps[name] for layer in layers]
        self.oov = maps[0].oov
        self._below_oov = tf.constant([-1 if m.below_oov is None else m.below_oov for m in maps], tf.int64)
        self._shift = tf.constant([m.shift for m in maps], tf.int64)
        self._shifts = any(not m.is_same for m in maps) and self.oov is not None
        self._old = tf.constant(np.concatenate([m.old + i * _LAYER for i, m in enumerate(maps)]), tf.int64)
        self._new = tf.constant(np.concatenate([m.new for m in maps]), tf.int64)

    def translated(self, ids: tf.Tensor, layer: tf.Tensor) -> tf.Tensor:
        found = ids
        if self._shifts:
            below_oov = tf.gather(self._below_oov, layer)
            found = tf.where(ids > below_oov, ids + tf.gather(self._shift, layer), ids)
            found = tf.where(ids == below_oov, tf.constant(self.oov, tf.int64), found)
        if not self._old.shape[0]:
            return found
        wanted = ids + tf.cast(layer, tf.int64) * _LAYER
        place = tf.searchsorted(self._old, wanted, out_type=tf.int64)
        place = tf.minimum(place, self._old.shape[0] - 1)
        return tf.where(tf.gather(self._old, place) == wanted, tf.gather(self._new, place), found)

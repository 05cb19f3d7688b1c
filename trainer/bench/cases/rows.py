"""Embedding steps of `bench peers`: look up ids, some of them repeated, take a gradient, update the rows.

A case is an object with

    inputs(ids, gradient)   int64 [k, n] and float32 [n, dim] of NumPy as the library takes them; not timed
    steps(inputs)           k steps one after the other, all of one gradient, done when it returns
    close()                 frees what the garbage collector does not

TensorFlow's steps run in one graph, as training does. ROW_CASES maps names to factories; `memory` gives their
needs.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trainer.bench.timing import GIB, need_memory


class Peer(NamedTuple):
    """An entry of ROW_CASES."""

    make: Callable
    """(rows, dim, threads) -> case; raises NotMeasured."""
    tables: float
    """Memory in sizes of the weights: slots, averages, and temporaries of a dense pass."""
    dense: bool = False
    """Whether a step passes over the whole table."""


class _Rows:
    """A TensorFlow case; subclasses define _step(ids, gradient, step) -> a value that the step makes."""

    def __init__(self):
        import tensorflow as tf

        self._tf, self._steps = tf, 0
        self._compiled = tf.function(self._loop, reduce_retracing=True)

    def inputs(self, ids: np.ndarray, gradient: np.ndarray):
        """See the module."""
        return self._tf.constant(ids), self._tf.constant(gradient)

    def steps(self, inputs) -> None:
        """See the module."""
        self._compiled(*inputs, self._tf.constant(float(self._steps))).numpy()
        self._steps += len(inputs[0])

    def _loop(self, ids, gradient, before):
        tf = self._tf

        def body(i, seen):
            return i + 1, seen + self._step(ids[i], gradient, before + tf.cast(i + 1, tf.float32))

        several = tf.shape(ids)[0]
        return tf.while_loop(lambda i, _: i < several, body, (0, 0.0), parallel_iterations=1)[1]

    def close(self) -> None:
        """Does nothing: the garbage collector frees the table."""


class OurRows(_Rows):
    """A table of lazytower as training uses it, engine auto.

    Args:
      optimizer: key of ROW_OPTIMIZERS.
      decay: of the exact averages; None: there are none.
      rows, dim, threads: of the table; TensorFlow has its threads already.
    """

    def __init__(self, optimizer: str, decay: float | None, rows: int, dim: int, threads: int):
        from configs.sections.tables import TableConfig
        from trainer.averages import Exponential
        from trainer.embeddings.table import plain_table
        from trainer.optimizers import ROW_OPTIMIZERS

        rule = ROW_OPTIMIZERS[optimizer](1e-3)
        average = None if decay is None else Exponential(decay)
        width = dim + sum(rule.slot_widths(dim)) + (dim if average else 0) + 1
        need_memory(4 * rows * width / GIB + 1)
        self.table = plain_table("bench", rows, TableConfig(dim=dim), rule, average, 0)
        self.table.initialize(0.0, 0)
        super().__init__()

    @property
    def address(self) -> int | None:
        """Where its records lie in memory, float32 [rows, width]; None without kernels."""
        from trainer.kernels import ops

        return ops.address(self.table.records) if self.table.takes_repeats else None

    def _step(self, ids, gradient, step):
        from trainer.embeddings.pooling import of_distinct, pooled

        tf = self._tf
        if self.table.takes_repeats:
            lookup = self.table.lookup_each(ids)
            self.table.update(lookup, gradient, step, 1.0)
            return lookup.weight[0, 0]
        lookup, where = of_distinct(ids, self.table.lookup)
        with tf.GradientTape() as tape:
            tape.watch(lookup.weight)
            looked_up = pooled(lookup.weight, where, ids, None)
        above = tape.gradient(looked_up, lookup.weight, output_gradients=gradient)
        self.table.update(lookup, tf.convert_to_tensor(above), step, 1.0)
        return looked_up[0, 0]


class PlainRows(_Rows):
    """A variable under an optimizer of Keras or TF-Addons.

    Args:
      make: makes the optimizer.
      tables: as Peer.
      rows, dim: of the variable, zeros.
    """

    def __init__(self, make: Callable, tables: float, rows: int, dim: int):
        import tensorflow as tf

        from trainer.bench.cases.tables import make_slots

        need_memory(4 * rows * dim * tables / GIB + 1)
        self.weight = tf.Variable(tf.zeros([rows, dim]))
        self.optimizer = make()
        make_slots(self.optimizer, self.weight)
        super().__init__()

    def _step(self, ids, gradient, step):
        tf = self._tf
        with tf.GradientTape() as tape:
            looked_up = tf.gather(self.weight, ids)
        slices = tape.gradient(looked_up, self.weight, output_gradients=gradient)
        self.optimizer.apply_gradients([(slices, self.weight)])
        return looked_up[0, 0]


def _floor(rows: int, dim: int, threads: int):
    from trainer.bench.cases.floor import Floor

    return Floor(rows, dim, threads)


def _addons(rows: int, dim: int, threads: int):
    from trainer.bench.cases.tables import addons_optimizers

    return PlainRows(lambda: addons_optimizers().LazyAdam(1e-3), 3.2, rows, dim)


def _keras(rows: int, dim: int, threads: int):
    import tf_keras

    return PlainRows(lambda: tf_keras.optimizers.Adam(1e-3), 6.0, rows, dim)


def _torch(rows: int, dim: int, threads: int):
    from trainer.bench.cases.torch import TorchRows

    return TorchRows(rows, dim, threads)


def _fbgemm(optimizer: str, rows: int, dim: int, threads: int):
    from trainer.bench.cases.torch import FbgemmRows

    return FbgemmRows(optimizer, rows, dim, threads)


FLOOR, OUR_ROWS = "floor", "lazytower"
ROW_CASES = {
    FLOOR: Peer(_floor, 4.04),
    OUR_ROWS: Peer(functools.partial(OurRows, "lazy_adam", 0.999), 4.04),
    "lazytower_no_average": Peer(functools.partial(OurRows, "lazy_adam", None), 3.04),
    "lazytower_rowwise_adagrad": Peer(functools.partial(OurRows, "rowwise_adagrad", None), 1.1),
    "tfa_lazy_adam": Peer(_addons, 3.2),
    "keras_adam": Peer(_keras, 6.0, dense=True),
    "torch_sparse_adam": Peer(_torch, 3.2),
    "fbgemm_rowwise_adagrad": Peer(functools.partial(_fbgemm, "EXACT_ROWWISE_ADAGRAD"), 1.2),
    "fbgemm_sgd": Peer(functools.partial(_fbgemm, "EXACT_SGD"), 1.2),
}


def memory(name: str, rows: int, dim: int) -> float:
    """GiB that a case of ROW_CASES needs at most, tensors of a step included."""
    return 4 * rows * dim * ROW_CASES[name].tables / GIB + 0.5

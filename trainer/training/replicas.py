"""Data-parallel replicas on logical CPU devices: each computes towers, loss and gradients of its share.

Tables, towers and optimizers exist once, on the host; a replica receives the pooled embeddings of its rows
and returns their gradients. Negatives are global: every replica scores its rows against the items of all. So
N replicas compute what one does, up to rounding because sums are taken in another order.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf


def logical_replicas(count: int) -> tf.distribute.Strategy:
    """Replicas on the logical devices CPU:0 .. CPU:count - 1, which trainer.runtime creates."""
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(count)], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


@dataclasses.dataclass(frozen=True)
class Share:
    """The rows of the batch that one replica works on; all shares have the same size."""

    index: tf.Tensor
    """int32 scalar, from 0."""
    count: int
    """Number of shares."""
    gather: Callable
    """From this share's rows [n, ...] to those of all shares in order, [count * n, ...]; differentiable."""

    def first_row(self, own) -> tf.Tensor:
        """Place of the first of this share's rows, `own` [n, ...], in the whole batch, int32 scalar."""
        return self.index * tf.shape(own)[0]

    def rows_of(self, whole):
        """This share's rows of [count * n, ...]."""
        size = (whole.shape[0] or tf.shape(whole)[0]) // self.count
        rest = whole.shape.rank - 1
        # Not whole[a:b]: XLA, which compiles for TPUs, needs a static number of rows.
        return tf.slice(whole, [self.index * size] + [0] * rest, [size] + [-1] * rest)

    @classmethod
    def here(cls) -> "Share":
        """The share of the replica in whose context this is called."""
        context = tf.distribute.get_replica_context()
        index = tf.cast(context.replica_id_in_sync_group, tf.int32)
        return cls(index, context.num_replicas_in_sync, lambda value: context.all_gather(value, axis=0))


class Replicas:
    """Runs shares on the logical devices CPU:0 .. CPU:count - 1, which trainer.runtime creates."""

    def __init__(self, count: int):
        self._strategy = logical_replicas(count)

    def differentiate(self, loss_of: Callable, activations: dict, columns: dict, variables: list) -> tuple:
        """Loss and gradients of a batch.

        Args:
          loss_of: function (activations, columns, Share) of a share -> its part of the loss, float32 scalar;
            the parts add up to the loss.
          activations: by input, float32 [batch, ...].
          columns: by name, [batch, ...].
          variables: dense variables.

        Returns:
          (loss, float32 scalar; gradients of the activations, by input; gradients of the variables).
        """

        def replica():
            share = Share.here()
            own = tf.nest.map_structure(share.rows_of, activations)
            with tf.GradientTape() as tape:
                tape.watch(own)
                loss = loss_of(own, tf.nest.map_structure(share.rows_of, columns), share)
            zero = tf.UnconnectedGradients.ZERO
            return loss, *tape.gradient(loss, (own, variables), unconnected_gradients=zero)

        loss, rows, dense = self._strategy.run(replica)
        return self._sum(loss), tf.nest.map_structure(self._join, rows), [self._sum(g) for g in dense]

    def _sum(self, value):
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)

    def _join(self, value):
        return tf.concat(self._strategy.experimental_local_results(value), axis=0)

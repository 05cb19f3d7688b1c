"""Row-wise Adagrad: one accumulator per row, 4 bytes of optimizer state.

As EXACT_ROWWISE_ADAGRAD of FBGEMM, which TorchRec uses for large tables:

    a = a + mean(g^2) over the row,    w = w - rate g / (sqrt(a) + epsilon)
"""

import tensorflow as tf

from configs.errors import ConfigError
from configs.sections.optimizers import RowwiseAdagradConfig
from trainer.optimizers.base import RowOptimizer


class RowwiseAdagrad(RowOptimizer):
    """Slot accumulator of width 1, the sum of mean squared gradients."""

    section = RowwiseAdagradConfig
    slot_names = ("accumulator",)

    def slot_widths(self, dim: int) -> list[int]:
        """See RowOptimizer.slot_widths."""
        return [1]

    def initial_slots(self, weight):
        """See RowOptimizer.initial_slots."""
        return [tf.fill([tf.shape(weight)[0], 1], self.config.initial_accumulator_value)]

    @property
    def native(self):
        """As RowOptimizer.native."""
        return [self.config.epsilon]

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """See RowOptimizer.row_update."""
        accumulator = slots[0] + tf.reduce_mean(tf.square(gradient), axis=1, keepdims=True)
        return weight - learning_rate * gradient / (tf.sqrt(accumulator) + self.config.epsilon), [accumulator]

    def dense(self):
        """See RowOptimizer.dense."""
        raise ConfigError("optimizer rowwise_adagrad is for rows of tables; use adagrad for dense weights")

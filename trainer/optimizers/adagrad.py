"""Adagrad: divides the rate of each weight by the root of the sum of its squared gradients.

Duchi, Hazan & Singer 2011, figure 1 (diagonal), with epsilon inside the root as in tf_keras:

    a = a + g^2,    w = w - rate g / sqrt(a + epsilon)

A zero gradient changes nothing, so the lazy and the dense form are equal.
"""

import tensorflow as tf
import tf_keras

from configs.sections.optimizers import AdagradConfig
from trainer.optimizers.base import RowOptimizer


class Adagrad(RowOptimizer):
    """Slot accumulator, the sum of squared gradients."""

    section = AdagradConfig
    slot_names = ("accumulator",)

    def initial_slots(self, weight):
        """See RowOptimizer.initial_slots."""
        return [tf.fill(tf.shape(weight), self.config.initial_accumulator_value)]

    @property
    def native(self):
        """As RowOptimizer.native."""
        return [self.config.epsilon]

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """See RowOptimizer.row_update."""
        accumulator = slots[0] + tf.square(gradient)
        return weight - learning_rate * gradient / tf.sqrt(accumulator + self.config.epsilon), [accumulator]

    def _tpu(self, step, multiplier):
        # The engine has no epsilon, so the initial accumulator includes it.
        return tf.tpu.experimental.embedding.Adagrad(
            learning_rate=self._tpu_rate(step, multiplier),
            initial_accumulator_value=self.config.initial_accumulator_value + self.config.epsilon,
            use_gradient_accumulation=True,
        )

    def dense(self):
        """See RowOptimizer.dense."""
        config = self.config
        return tf_keras.optimizers.Adagrad(
            learning_rate=config.learning_rate,
            initial_accumulator_value=config.initial_accumulator_value,
            epsilon=config.epsilon,
            weight_decay=config.weight_decay or None,
            clipvalue=config.clip_value,
        )

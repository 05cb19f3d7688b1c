"""FTRL-Proximal: computes the weight from a sum of gradients, so that L1 gives exact zeros.

McMahan et al. 2013, algorithm 1, in the form of tf_keras and of the TPU engine (p = -learning_rate_power):

    n' = n + g^2,    z = z + g + 2 l2_shrinkage w - (n'^p - n^p) / rate w
    w = (clip(z, -l1, l1) - z) / ((n'^p + beta) / rate + 2 l2)

The weight is a function of z and n, so the first update of a row discards most of its random initial weight.
"""

import tensorflow as tf
import tf_keras

from configs.sections.optimizers import FTRLConfig
from trainer.optimizers.base import RowOptimizer


class FTRL(RowOptimizer):
    """Slots accumulator (n) and linear (z)."""

    section = FTRLConfig
    slot_names = ("accumulator", "linear")
    computes_weights = True

    def initial_slots(self, weight):
        """See RowOptimizer.initial_slots."""
        return [tf.fill(tf.shape(weight), self.config.initial_accumulator_value), tf.zeros_like(weight)]

    @property
    def native(self):
        """As RowOptimizer.native."""
        config = self.config
        return [config.learning_rate_power, config.l1, config.l2, config.beta, config.l2_shrinkage]

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """See RowOptimizer.row_update."""
        config = self.config
        before, linear = slots
        accumulator = before + tf.square(gradient)
        power = tf.pow(accumulator, -config.learning_rate_power)
        if config.l2_shrinkage:
            gradient += 2.0 * config.l2_shrinkage * weight
        linear += gradient - (power - tf.pow(before, -config.learning_rate_power)) / learning_rate * weight
        denominator = (power + config.beta) / learning_rate + 2.0 * config.l2
        weight = (tf.clip_by_value(linear, -config.l1, config.l1) - linear) / denominator
        return weight, [accumulator, linear]

    def _tpu(self, step, multiplier):
        config = self.config
        return tf.tpu.experimental.embedding.FTRL(
            learning_rate=self._tpu_rate(step, multiplier),
            learning_rate_power=config.learning_rate_power,
            l1_regularization_strength=config.l1,
            l2_regularization_strength=config.l2,
            beta=config.beta,
            initial_accumulator_value=config.initial_accumulator_value,
            multiply_linear_by_learning_rate=False,
            use_gradient_accumulation=True,
        )

    def dense(self):
        """See RowOptimizer.dense."""
        config = self.config
        return tf_keras.optimizers.Ftrl(
            learning_rate=config.learning_rate,
            learning_rate_power=config.learning_rate_power,
            initial_accumulator_value=config.initial_accumulator_value,
            l1_regularization_strength=config.l1,
            l2_regularization_strength=config.l2,
            l2_shrinkage_regularization_strength=config.l2_shrinkage,
            beta=config.beta,
            clipvalue=config.clip_value,
        )

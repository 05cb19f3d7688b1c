"""Gradient descent, w = w - rate g: no optimizer state; the lazy and the dense form are equal."""

import tensorflow as tf
import tf_keras

from configs.sections.optimizers import SGDConfig
from trainer.optimizers.base import RowOptimizer


class SGD(RowOptimizer):
    """No slots."""

    section = SGDConfig
    native = []

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """See RowOptimizer.row_update."""
        return weight - learning_rate * gradient, []

    def _tpu(self, step, multiplier):
        return tf.tpu.experimental.embedding.SGD(
            learning_rate=self._tpu_rate(step, multiplier), use_gradient_accumulation=True
        )

    def dense(self):
        """See RowOptimizer.dense."""
        config = self.config
        return tf_keras.optimizers.SGD(
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay or None,
            clipvalue=config.clip_value,
        )

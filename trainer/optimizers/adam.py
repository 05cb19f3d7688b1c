"""Dense Adam: every step updates all rows, with or without a gradient.

Kingma & Ba 2015, algorithm 1 in its efficient order, as tf_keras.optimizers.Adam. It exists for comparison
with lazy_adam; on a table of 25 million rows, updating all of them each step is too slow.
"""

import tensorflow as tf
import tf_keras

from configs.sections.optimizers import AdamConfig
from trainer.optimizers.base import RowOptimizer
from trainer.optimizers.schedules import bias_correction_factor


class Adam(RowOptimizer):
    """Slots m and v, the first and second moment; with amsgrad also v_max, as in lazy_adam."""

    section = AdamConfig
    lazy = False

    @property
    def slot_names(self):
        """As RowOptimizer.slot_names."""
        return ("m", "v", "v_max") if self.config.amsgrad else ("m", "v")

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """See RowOptimizer.row_update; the gradient of the other rows is 0."""
        m, v, *largest = slots
        beta_1, beta_2 = self.config.beta_1, self.config.beta_2
        m = beta_1 * m + (1.0 - beta_1) * gradient
        v = beta_2 * v + (1.0 - beta_2) * tf.square(gradient)
        largest = [tf.maximum(largest[0], v)] if largest else []
        rate = learning_rate * bias_correction_factor(beta_1, beta_2)(step)
        root = tf.sqrt([v, *largest][-1])
        return weight - rate * m / (root + self.config.epsilon), [m, v, *largest]

    def dense(self):
        """See RowOptimizer.dense."""
        config = self.config
        return tf_keras.optimizers.Adam(
            learning_rate=config.learning_rate,
            beta_1=config.beta_1,
            beta_2=config.beta_2,
            epsilon=config.epsilon,
            amsgrad=config.amsgrad,
            weight_decay=config.weight_decay or None,
            clipvalue=config.clip_value,
        )

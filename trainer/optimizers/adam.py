"""Adam, dense: every row moves at every step, also those without a gradient.

Kingma & Ba 2015, algorithm 1 in its efficient order, as tf_keras.optimizers.Adam. On a table each step passes
over all rows: it is there to be compared with lazy_adam, not to train 25 million rows.
"""

import tensorflow as tf
import tf_keras

from configs.sections.optimizers import AdamConfig
from trainer.optimizers.base import RowOptimizer
from trainer.optimizers.schedules import bias_correction_factor


class Adam(RowOptimizer):
    """Slots m and v, first and second moment; with amsgrad v_max, as in lazy_adam. Not lazy."""

    section = AdamConfig
    lazy = False

    @property
    def slot_names(self):
        """As RowOptimizer.slot_names."""
        return ("m", "v", "v_max") if self.config.amsgrad else ("m", "v")

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """See RowOptimizer.row_update; rows without a gradient come with 0."""
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

"""Lazy Adam: Adam whose moments and weights move only on rows that have a gradient.

Kingma & Ba 2015, algorithm 1 in its efficient order (section 2, last paragraph: the bias correction is in
the rate, epsilon outside the root), applied to touched rows only, as tfa.optimizers.LazyAdam does: the
correction uses the run's step, not the number of the row's own updates.
"""

import tensorflow as tf

from trainer.optimizers.rows import RowOptimizer


class LazyAdam(RowOptimizer):
    """Slots m and v, first and second moment."""

    slot_names = ("m", "v")

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """See RowOptimizer.row_update."""
        m, v = slots
        beta_1, beta_2 = self.config.beta_1, self.config.beta_2
        m = beta_1 * m + (1.0 - beta_1) * gradient
        v = beta_2 * v + (1.0 - beta_2) * tf.square(gradient)
        rate = learning_rate * tf.sqrt(1.0 - tf.pow(beta_2, step)) / (1.0 - tf.pow(beta_1, step))
        return weight - rate * m / (tf.sqrt(v) + self.config.epsilon), [m, v]

    def addons(self):
        """The same optimizer from TF-Addons, for `engine: tfa`."""
        from trainer.addons import import_addons

        return import_addons().optimizers.LazyAdam(
            learning_rate=self.config.learning_rate,
            beta_1=self.config.beta_1,
            beta_2=self.config.beta_2,
            epsilon=self.config.epsilon,
        )

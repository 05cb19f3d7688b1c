"""Lazy Adam: Adam whose moments and weights move only on rows that have a gradient.

Kingma & Ba 2015, algorithm 1 in its efficient order (section 2, last paragraph: the bias correction is in
the rate, epsilon outside the root), applied to touched rows only, as tfa.optimizers.LazyAdam does:

    m = beta_1 m + (1 - beta_1) g,    v = beta_2 v + (1 - beta_2) g^2
    w = w - rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

t is the run's step (`bias_correction: global`, what TF-Addons does), the number of the row's own updates
(`per_row`), or the correction is left out (`none`).
"""

import tensorflow as tf

from configs.errors import ConfigError
from configs.optimizers import LazyAdam as LazyAdamConfig
from trainer.optimizers.rows import RowOptimizer
from trainer.optimizers.schedules import bias_correction_factor


class LazyAdam(RowOptimizer):
    """Slots m and v, first and second moment; under per_row also `updates`, counted in float32 up to 2^24."""

    section = LazyAdamConfig

    @property
    def slot_names(self):
        """As RowOptimizer.slot_names."""
        return ("m", "v", "updates") if self.config.bias_correction == "per_row" else ("m", "v")

    def slot_widths(self, dim: int) -> list[int]:
        """See RowOptimizer.slot_widths."""
        return [dim, dim, 1][: len(self.slot_names)]

    @property
    def native(self):
        """As RowOptimizer.native."""
        config = self.config
        correction = ("none", "global", "per_row").index(config.bias_correction)
        return [config.beta_1, config.beta_2, config.epsilon, correction]

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """See RowOptimizer.row_update."""
        m, v, *updates = slots
        beta_1, beta_2 = self.config.beta_1, self.config.beta_2
        m = beta_1 * m + (1.0 - beta_1) * gradient
        v = beta_2 * v + (1.0 - beta_2) * tf.square(gradient)
        if updates:
            # At 2^24 the counter stands still; the correction has long been 1 by then.
            step = updates[0] + 1.0
            updates = [step]
        rate = learning_rate
        if self.config.bias_correction != "none":
            rate = rate * bias_correction_factor(beta_1, beta_2)(step)
        return weight - rate * m / (tf.sqrt(v) + self.config.epsilon), [m, v, *updates]

    def _tpu(self, step, multiplier):
        # The rate carries the bias correction, which the engine does not have.
        config = self.config
        factor = None
        if config.bias_correction == "global":
            factor = bias_correction_factor(config.beta_1, config.beta_2)
        return tf.tpu.experimental.embedding.Adam(
            learning_rate=self._tpu_rate(step, multiplier, factor),
            beta_1=config.beta_1,
            beta_2=config.beta_2,
            epsilon=config.epsilon,
            lazy_adam=True,
            sum_inside_sqrt=False,
            use_gradient_accumulation=True,
        )

    def dense(self):
        """See RowOptimizer.dense."""
        raise ConfigError("optimizer lazy_adam on dense weights, which all move, is adam: use adam")

    def addons(self):
        """The same optimizer from TF-Addons, for `engine: tfa`. Raises ConfigError for what that lacks."""
        from trainer.addons import import_addons

        if self.config.addons_lacks:
            raise ConfigError(f"engine: tfa has no {self.config.addons_lacks}; use engine: rows")
        return import_addons().optimizers.LazyAdam(
            learning_rate=self.config.learning_rate,
            beta_1=self.config.beta_1,
            beta_2=self.config.beta_2,
            epsilon=self.config.epsilon,
        )

"""Lazy Adam: Adam whose moments and weights move only on rows that have a gradient.

Kingma & Ba 2015, algorithm 1 in its efficient order (section 2, last paragraph: the bias correction is in
the rate, epsilon outside the root), applied to touched rows only, as tfa.optimizers.LazyAdam does:

    m = beta_1 m + (1 - beta_1) g,    v = beta_2 v + (1 - beta_2) g^2
    w = w - rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

With `amsgrad` (Reddi, Kale & Kumar 2018, algorithm 2, corrected as in tf_keras) the root is of the largest v
so far, v_max = max(v_max, v).

t is the run's step (`bias_correction: global`, what TF-Addons does), the number of the row's own updates
(`per_row`), or the correction is left out (`none`).
"""

import tensorflow as tf

from configs.errors import ConfigError
from configs.sections.optimizers import LazyAdamConfig
from trainer.optimizers.base import RowOptimizer
from trainer.optimizers.schedules import bias_correction_factor


class LazyAdam(RowOptimizer):
    """Slots m and v, first and second moment; with amsgrad v_max; under per_row `updates`, exact to 2^24."""

    section = LazyAdamConfig

    @property
    def slot_names(self):
        """As RowOptimizer.slot_names."""
        largest = ("v_max",) if self.config.amsgrad else ()
        counter = ("updates",) if self.config.bias_correction == "per_row" else ()
        return ("m", "v", *largest, *counter)

    def slot_widths(self, dim: int) -> list[int]:
        """See RowOptimizer.slot_widths."""
        return [1 if name == "updates" else dim for name in self.slot_names]

    @property
    def native(self):
        """As RowOptimizer.native."""
        config = self.config
        correction = ("none", "global", "per_row").index(config.bias_correction)
        return [config.beta_1, config.beta_2, config.epsilon, correction, config.amsgrad]

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """See RowOptimizer.row_update."""
        own = dict(zip(self.slot_names, slots, strict=True))
        beta_1, beta_2 = self.config.beta_1, self.config.beta_2
        own["m"] = beta_1 * own["m"] + (1.0 - beta_1) * gradient
        own["v"] = beta_2 * own["v"] + (1.0 - beta_2) * tf.square(gradient)
        if "v_max" in own:
            own["v_max"] = tf.maximum(own["v_max"], own["v"])
        if "updates" in own:
            # At 2^24 the counter stands still; the correction has long been 1 by then.
            step = own["updates"] = own["updates"] + 1.0
        rate = learning_rate
        if self.config.bias_correction != "none":
            rate = rate * bias_correction_factor(beta_1, beta_2)(step)
        root = tf.sqrt(own.get("v_max", own["v"]))
        return weight - rate * own["m"] / (root + self.config.epsilon), list(own.values())

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

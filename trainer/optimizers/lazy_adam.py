"""Lazy Adam: updates the moments and weights of rows that have a gradient, and no others.

Kingma & Ba 2015, algorithm 1 in its efficient order (section 2, last paragraph: the bias correction is part
of the rate, epsilon is outside the root), as in tfa.optimizers.LazyAdam:

    m = beta_1 m + (1 - beta_1) g,    v = beta_2 v + (1 - beta_2) g^2
    w = w - rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

With `amsgrad` (Reddi, Kale & Kumar 2018, algorithm 2, with bias correction as in tf_keras) the root is that
of the largest v so far, v_max = max(v_max, v).

With `bias_correction: global`, as in TF-Addons, t is the step of the run; with `per_row`, the number of
updates of the row; with `none` the correction is omitted.
"""

import tensorflow as tf

from configs.errors import ConfigError
from configs.sections.optimizers import LazyAdamConfig
from trainer.optimizers.base import RowOptimizer
from trainer.optimizers.schedules import bias_correction_factor


class LazyAdam(RowOptimizer):
    """Slots m and v, the moments; with amsgrad also v_max; with per_row also `updates`, exact up to 2^24."""

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
            # The float32 counter stops at 2^24, long after the correction has become 1.
            step = own["updates"] = own["updates"] + 1.0
        rate = learning_rate
        if self.config.bias_correction != "none":
            rate = rate * bias_correction_factor(beta_1, beta_2)(step)
        root = tf.sqrt(own.get("v_max", own["v"]))
        return weight - rate * own["m"] / (root + self.config.epsilon), list(own.values())

    def _tpu(self, step, multiplier):
        # The engine has no bias correction, so the rate includes it.
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
        raise ConfigError("optimizer lazy_adam is for rows of tables; use adam for dense weights")

    def addons(self):
        """The same optimizer from TF-Addons, for `engine: tfa`. Raises ConfigError if it lacks a setting."""
        from trainer.addons import import_addons

        if self.config.addons_lacks:
            raise ConfigError(f"engine: tfa does not support {self.config.addons_lacks}; use engine: rows")
        return import_addons().optimizers.LazyAdam(
            learning_rate=self.config.learning_rate,
            beta_1=self.config.beta_1,
            beta_2=self.config.beta_2,
            epsilon=self.config.epsilon,
        )

"""Gradient descent with lazy momentum: velocity moves a row only at steps where it has a gradient.

Polyak 1964 and, with nesterov, Sutskever et al. 2013, equations 3 and 4, in the form of tf_keras (the rate
is part of the velocity, so a new rate does not rescale the accumulated velocity):

    u = momentum u - rate g,    w = w + u    (nesterov: w = w + momentum u - rate g)
"""

import tf_keras

from configs.sections.optimizers import MomentumConfig
from trainer.optimizers.base import RowOptimizer


class Momentum(RowOptimizer):
    """Slot velocity."""

    section = MomentumConfig
    slot_names = ("velocity",)

    @property
    def native(self):
        """As RowOptimizer.native."""
        return [self.config.momentum, self.config.nesterov]

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """See RowOptimizer.row_update."""
        push = learning_rate * gradient
        velocity = self.config.momentum * slots[0] - push
        move = self.config.momentum * velocity - push if self.config.nesterov else velocity
        return weight + move, [velocity]

    def dense(self):
        """See RowOptimizer.dense."""
        config = self.config
        return tf_keras.optimizers.SGD(
            learning_rate=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay or None,
            clipvalue=config.clip_value,
        )

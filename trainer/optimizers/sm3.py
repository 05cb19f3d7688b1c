"""SM3-II for rows of tables; sm3_maths.py has the formula, its source and its limits."""

import tensorflow as tf

import configs.sections.optimizers
from configs.errors import ConfigError
from trainer.optimizers.base import RowOptimizer
from trainer.optimizers.sm3_maths import decayed, sm3_sparse_update
from trainer.optimizers.standalone.sm3 import SM3Variables


class SM3(RowOptimizer):
    """SM3 for rows of a table and, by `apply_gradients`, for variables of any rank.

    A row has `accumulator`, one float; with `beta` also `accumulator_step`, one float, the last step that
    updated it; with `momentum` also `momentum`, which takes as much memory as the weights. The table has
    `column_accumulator`, one float per column.
    """

    section = configs.sections.optimizers.SM3Config
    step_slots = ("accumulator_step",)
    shared_names = ("column_accumulator",)

    @property
    def slot_names(self):
        """accumulator, then the slots of beta and momentum."""
        names = {"accumulator": True, "accumulator_step": self.config.beta, "momentum": self.config.momentum}
        return tuple(name for name, present in names.items() if present)

    @property
    def native(self):
        """As RowOptimizer.native."""
        return [self.config.momentum, self.config.beta or 0.0]

    def variable_slots(self):
        """See RowOptimizer.variable_slots; a variable of any rank has one accumulator for each axis."""
        return SM3Variables(self.config.momentum, self.config.beta)

    def keras(self, name=None, **options):
        """Raises ConfigError: Keras keeps slots per variable, and none for state shared by rows."""
        raise ConfigError("optimizer sm3 has no Keras form; call apply_gradients in a training loop")

    def slot_widths(self, dim):
        """See RowOptimizer.slot_widths."""
        return [dim if name == "momentum" else 1 for name in self.slot_names]

    def initial_shared(self, dim):
        """See RowOptimizer.initial_shared."""
        return [tf.zeros([dim])]

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """Not available: the column accumulator belongs to the whole table."""
        raise NotImplementedError("SM3 has state shared by all rows; call row_update_shared")

    def row_update_shared(self, weight, slots, shared, gradient, step, learning_rate):
        """See RowOptimizer.row_update_shared."""
        named = dict(zip(self.slot_names, slots, strict=True))
        row, beta = named["accumulator"][:, 0], self.config.beta
        if beta:
            row = decayed(row, named["accumulator_step"][:, 0], step, beta)
            named["accumulator_step"] = tf.fill(tf.shape(named["accumulator_step"]), step)
        weight, (row, column), trace = sm3_sparse_update(
            weight,
            [row, shared[0]],
            named.get("momentum"),
            gradient,
            learning_rate,
            self.config.momentum,
            beta,
        )
        named["accumulator"] = row[:, tf.newaxis]
        if trace is not None:
            named["momentum"] = trace
        return weight, [named[name] for name in self.slot_names], [column]

"""SM3-II on the rows of tables; sm3_maths.py has the formula, its source and its limits."""

import tensorflow as tf

import configs.sections.optimizers
from configs.errors import ConfigError
from trainer.optimizers.base import RowOptimizer
from trainer.optimizers.sm3_maths import decayed, sm3_sparse_update
from trainer.optimizers.standalone.sm3 import SM3Variables


class SM3(RowOptimizer):
    """SM3 on the rows of a table, and by `apply_gradients` on variables of any rank.

    A row keeps `accumulator`, one float; with `beta` also `accumulator_step`, one float, the last step that
    touched it; with `momentum` also `momentum`, as wide as the row, which is as much memory as the weights.
    The table keeps `column_accumulator`, one float a column.
    """

    section = configs.sections.optimizers.SM3Config
    shared_names = ("column_accumulator",)

    @property
    def slot_names(self):
        """accumulator, then what beta and momentum need."""
        names = {"accumulator": True, "accumulator_step": self.config.beta, "momentum": self.config.momentum}
        return tuple(name for name, present in names.items() if present)

    @property
    def native(self):
        """As RowOptimizer.native."""
        return [self.config.momentum, self.config.beta or 0.0]

    def variable_slots(self):
        """See RowOptimizer.variable_slots; the cover is that of a variable's rank, dense or sparse."""
        return SM3Variables(self.config.momentum, self.config.beta)

    def keras(self, name=None, **options):
        """Raises ConfigError: Keras keeps slots by variable, and has no place for state that rows share."""
        raise ConfigError("optimizer sm3 has no Keras form yet; call apply_gradients in a training loop")

    def slot_widths(self, dim):
        """See RowOptimizer.slot_widths."""
        return [dim if name == "momentum" else 1 for name in self.slot_names]

    def initial_shared(self, dim):
        """See RowOptimizer.initial_shared."""
        return [tf.zeros([dim])]

    def row_update(self, weight, slots, gradient, step, learning_rate):
        """Not possible: the columns' accumulator belongs to the whole table."""
        raise NotImplementedError("SM3 has state that rows share; call row_update_shared")

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

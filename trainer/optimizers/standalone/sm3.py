"""SM3 on plain tf.Variables of any rank; trainer/optimizers/sm3_maths.py has the mathematics."""

import types

import tensorflow as tf

from trainer.optimizers.sm3_maths import decayed, sm3_accumulators, sm3_sparse_update, sm3_update
from trainer.optimizers.standalone.slots import Slots
from trainer.optimizers.standalone.variables import distinct


class SM3Variables(Slots):
    """State of variables of any rank, with dense gradients or tf.IndexedSlices; may be checkpointed.

    Slots of a variable: `accumulator_<k>` for each axis k; with momentum `momentum`, as the variable; with
    beta `step`, how often the variable was updated, and `last_step` of each row. A step may leave variables
    out.

    Args:
      momentum, beta: as sm3_update.
    """

    def __init__(self, momentum=0.0, beta=None):
        super().__init__(name="sm3")
        self.momentum, self.beta = momentum, beta

    def make(self, variable):
        """See Slots.make."""
        # Half precision cannot hold sums of squares.
        dtype = tf.float64 if variable.dtype == tf.float64 else tf.float32
        values = {f"accumulator_{k}": z for k, z in enumerate(sm3_accumulators(variable.shape, dtype))}
        if self.momentum:
            values["momentum"] = tf.zeros(variable.shape, dtype)
        if self.beta is not None and len(variable.shape) > 0:
            values |= {"step": tf.constant(0), "last_step": tf.zeros(variable.shape[0], tf.int32)}
        owner = variable.name.partition(":")[0]
        return {k: tf.Variable(value, trainable=False, name=f"{owner}/{k}") for k, value in values.items()}

    def slots(self, variable) -> types.SimpleNamespace:
        """The state of a variable, made when there is none: accumulators, trace, step, last."""
        own = self.of(variable)
        return types.SimpleNamespace(
            accumulators=[slot for name, slot in own.items() if name.startswith("accumulator")],
            trace=own.get("momentum"),
            step=own.get("step"),
            last=own.get("last_step"),
        )

    def apply(self, optimizer, pairs, step, rate) -> None:
        """As VariableUpdates.apply."""
        for gradient, variable in pairs:
            self._apply(gradient, variable, self.slots(variable), rate)

    def _apply(self, gradient, variable, slots, rate) -> None:
        """Gathers the touched rows (all of them for a dense gradient), steps, writes them back."""
        ids = None
        if isinstance(gradient, tf.IndexedSlices):
            gradient = distinct(gradient)
            ids, gradient = gradient.indices, gradient.values
        dtype = slots.accumulators[0].dtype
        whole = [a.read_value() for a in slots.accumulators[1:]]
        first = _read(slots.accumulators[0], ids)
        if slots.last is not None:
            step = slots.step.assign_add(1)
            first = decayed(first, _read(slots.last, ids), step, self.beta)
            _write(slots.last, ids, tf.fill(tf.shape(first), step))
        trace = _read(slots.trace, ids) if self.momentum else None
        update = sm3_update if ids is None else sm3_sparse_update
        weight, after, trace = update(
            tf.cast(_read(variable, ids), dtype),
            [first, *whole],
            trace,
            tf.cast(gradient, dtype),
            tf.cast(rate, dtype),
            self.momentum,
            self.beta,
        )
        _write(variable, ids, tf.cast(weight, variable.dtype))
        _write(slots.accumulators[0], ids, after[0])
        for accumulator, value in zip(slots.accumulators[1:], after[1:], strict=True):
            accumulator.assign(value)
        if self.momentum:
            _write(slots.trace, ids, trace)


def _read(variable, ids):
    return variable.read_value() if ids is None else tf.gather(variable, ids)


def _write(variable, ids, value) -> None:
    if ids is None:
        variable.assign(value)
    else:
        variable.scatter_update(tf.IndexedSlices(value, ids))

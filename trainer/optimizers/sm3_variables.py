"""SM3 on plain tf.Variables of any rank; trainer/optimizers/sm3_maths.py has the mathematics."""

import tensorflow as tf

from trainer.optimizers.sm3_maths import decayed, sm3_accumulators, sm3_sparse_update, sm3_update


class _Slots(tf.Module):
    """State of one variable."""

    def __init__(self, variable, momentum, beta):
        super().__init__(name="sm3_slots")
        # Half precision cannot hold sums of squares.
        dtype = tf.float64 if variable.dtype == tf.float64 else tf.float32
        zeros = sm3_accumulators(variable.shape, dtype)
        self.accumulators = [
            tf.Variable(z, trainable=False, name=f"accumulator_{k}") for k, z in enumerate(zeros)
        ]
        self.trace = self.step = self.last = None
        if momentum:
            self.trace = tf.Variable(tf.zeros(variable.shape, dtype), trainable=False, name="momentum")
        if beta is not None and len(variable.shape) > 0:
            self.step = tf.Variable(0, trainable=False, name="step")
            self.last = tf.Variable(tf.zeros(variable.shape[0], tf.int32), trainable=False, name="last_step")


class SM3Variables(tf.Module):
    """State of variables of any rank, with dense gradients or tf.IndexedSlices; may be checkpointed.

    A row's step counts the variable's own updates, so a variable may be left out of some of them.

    Args:
      momentum, beta: as sm3_update.
    """

    def __init__(self, momentum=0.0, beta=None):
        super().__init__(name="sm3")
        self.momentum, self.beta = momentum, beta
        self.iterations = tf.Variable(0, dtype=tf.int64, trainable=False, name="iterations")
        self._slots = []
        self._owners = ()

    def build(self, variables) -> None:
        """Makes the slots of variables that have none, in this order, which checkpoints go by."""
        for variable in variables:
            if variable.ref() not in self._owners:
                # Outside any graph that is being traced: slots outlive it.
                with tf.init_scope():
                    self._slots.append(_Slots(variable, self.momentum, self.beta))
                self._owners = (*self._owners, variable.ref())

    def slots(self, variable) -> _Slots:
        """The state of a variable, made when there is none: accumulators, trace, step, last."""
        self.build([variable])
        return self._slots[self._owners.index(variable.ref())]

    def apply(self, grads_and_vars, learning_rate) -> None:
        """See RowOptimizer.apply_gradients; the rate is a number, a variable or a function of the step."""
        pairs = [(gradient, variable) for gradient, variable in grads_and_vars if gradient is not None]
        if not pairs:
            raise ValueError("no gradient to apply: the list is empty or every gradient is None")
        self.build([variable for _, variable in pairs])
        rate, step = learning_rate, tf.cast(self.iterations.assign_add(1), tf.float32)
        if callable(rate) and not isinstance(rate, tf.Variable):
            rate = rate(step)
        for gradient, variable in pairs:
            self._apply(gradient, variable, self.slots(variable), rate)

    def _apply(self, gradient, variable, slots, rate) -> None:
        """Gathers the touched rows (all of them for a dense gradient), steps, writes them back."""
        ids, gradient = _distinct(gradient)
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


def _distinct(gradient):
    """(ids, rows) of tf.IndexedSlices, repeated ids summed; (None, gradient) of a dense gradient."""
    if not isinstance(gradient, tf.IndexedSlices):
        return None, tf.convert_to_tensor(gradient)
    ids, where = tf.unique(gradient.indices)
    return ids, tf.math.unsorted_segment_sum(gradient.values, where, tf.size(ids))


def _read(variable, ids):
    return variable.read_value() if ids is None else tf.gather(variable, ids)


def _write(variable, ids, value) -> None:
    if ids is None:
        variable.assign(value)
    else:
        variable.scatter_update(tf.IndexedSlices(value, ids))

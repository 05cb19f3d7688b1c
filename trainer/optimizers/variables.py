"""Row optimizers on plain tf.Variables: no tables, no config, no trainer."""

import types

import tensorflow as tf


class VariableUpdates(tf.Module):
    """Step counter and slots of one optimizer's variables.

    Attributes:
      iterations: int64, steps done.
      slots: by "000", "001" ... in the order of first use, the slots of a variable, float32 [rows, width].
    """

    def __init__(self):
        super().__init__(name="variable_updates")
        self.iterations = tf.Variable(0, dtype=tf.int64, trainable=False, name="iterations")
        self.slots = {}
        self._names = types.SimpleNamespace(of={})  # by variable.ref(); a bare dict would be checkpointed

    def apply(self, optimizer, grads_and_vars) -> None:
        """See RowOptimizer.apply_gradients."""
        pairs = [(gradient, variable) for gradient, variable in grads_and_vars if gradient is not None]
        if not pairs:
            raise ValueError("no gradient to apply: the list is empty or every gradient is None")
        with tf.init_scope():
            slots = [self._slots_of(optimizer, variable) for _, variable in pairs]
        step = tf.cast(self.iterations.assign_add(1), tf.float32)
        rate = optimizer.learning_rate
        if callable(rate) and not isinstance(rate, tf.Variable):
            rate = rate(step)
        rate = tf.cast(rate, tf.float32)
        for (gradient, variable), mine in zip(pairs, slots, strict=True):
            update_variable(optimizer, gradient, variable, mine, step, rate)

    def _slots_of(self, optimizer, variable) -> list[tf.Variable]:
        name = self._names.of.get(variable.ref())
        if name is None:
            name = self._names.of[variable.ref()] = f"{len(self._names.of):03d}"
            self.slots[name] = [
                tf.Variable(value, trainable=False, name=f"{slot}_{name}")
                for slot, value in zip(optimizer.slot_names, initial_slots(optimizer, variable), strict=True)
            ]
        return self.slots[name]


def initial_slots(optimizer, variable) -> list[tf.Tensor]:
    """Slots of a variable that has not been updated yet, float32 [rows, width] each."""
    return optimizer.initial_slots(_as_rows(variable.read_value(), variable.shape))


def update_variable(optimizer, gradient, variable, slots, step, rate) -> None:
    """One step on one variable.

    Args:
      optimizer: RowOptimizer.
      gradient: dense, as the variable, or tf.IndexedSlices of its first axis.
      variable: tf.Variable of any rank and floating type; the mathematics are float32.
      slots: tf.Variables float32 [rows, width].
      step, rate: float32 scalars.
    """
    step, rate = tf.convert_to_tensor(step), tf.convert_to_tensor(rate)  # casts may have kept a variable
    if not isinstance(gradient, tf.IndexedSlices):
        return _update_all(optimizer, gradient, variable, slots, step, rate)
    ids, where = tf.unique(gradient.indices)
    count = variable.shape[0] if not optimizer.lazy else tf.size(ids)
    where = gradient.indices if not optimizer.lazy else where
    summed = tf.math.unsorted_segment_sum(gradient.values, where, count)
    if not optimizer.lazy:
        return _update_all(optimizer, summed, variable, slots, step, rate)
    weight = _as_rows(tf.gather(variable, ids), variable.shape)
    before = [tf.gather(slot, ids) for slot in slots]
    weight, after, _ = optimizer.step_rows(weight, before, _as_rows(summed, variable.shape), step, rate)
    weight = tf.cast(tf.reshape(weight, [-1, *variable.shape[1:]]), variable.dtype)
    variable.scatter_update(tf.IndexedSlices(weight, ids))
    for slot, value in zip(slots, after, strict=True):
        slot.scatter_update(tf.IndexedSlices(value, ids))
    return None


def _update_all(optimizer, gradient, variable, slots, step, rate) -> None:
    weight, gradient = (_as_rows(x, variable.shape) for x in (variable.read_value(), gradient))
    before = [slot.read_value() for slot in slots]
    weight, after, _ = optimizer.step_rows(weight, before, gradient, step, rate)
    variable.assign(tf.cast(tf.reshape(weight, variable.shape), variable.dtype))
    for slot, value in zip(slots, after, strict=True):
        slot.assign(value)


def _as_rows(value, shape: tf.TensorShape):
    """float32 [rows, values per row] of some or all rows of a variable of this shape."""
    dim = tf.TensorShape(shape[1:]).num_elements() if shape.rank else 1
    return tf.reshape(tf.cast(value, tf.float32), [-1, dim])

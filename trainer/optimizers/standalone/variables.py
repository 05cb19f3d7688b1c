"""Row optimizers on plain tf.Variables: no tables, no config, no trainer."""

import tensorflow as tf

from trainer.optimizers.arguments import rate_of
from trainer.optimizers.checks import check_one_copy, checked, range_checks, stored_dtype
from trainer.optimizers.standalone.slots import Slots


class VariableUpdates(Slots):
    """Step counter and slots of one optimizer's variables, float32 [rows, width] each.

    Args:
      initial: RowOptimizer.initial_slots.
      names: RowOptimizer.slot_names.
    """

    def __init__(self, initial, names):
        super().__init__(name="variable_updates")
        self._initial, self._names = initial, tuple(names)

    def initial(self, variable) -> dict[str, tf.Tensor]:
        """Values of the slots of a variable before its first step, by name."""
        values = self._initial(tf.zeros(_row_shape(variable.shape)))
        return dict(zip(self._names, values, strict=True))

    def make(self, variable):
        """See Slots.make."""
        owner = variable.name.partition(":")[0]
        return {
            name: tf.Variable(value, trainable=False, name=f"{owner}/{name}")
            for name, value in self.initial(variable).items()
        }

    def apply(self, optimizer, pairs, step, rate) -> None:
        """One step on variables; `pairs`, `step` and `rate` as `apply_to_variables` gives them."""
        for gradient, variable in pairs:
            update_variable(optimizer, gradient, variable, list(self.of(variable).values()), step, rate)


def apply_to_variables(optimizer, updates: Slots, grads_and_vars) -> None:
    """One step of an optimizer on plain variables: RowOptimizer.apply_gradients.

    Args:
      optimizer: RowOptimizer.
      updates: its state, with `apply(optimizer, pairs, step, rate)`.
      grads_and_vars: pairs (gradient, tf.Variable).
    """
    pairs = checked(grads_and_vars)
    for _, variable in pairs:
        check_one_copy(variable)
    updates.build([variable for _, variable in pairs])
    with tf.control_dependencies(range_checks(pairs)):
        step = tf.cast(updates.iterations.assign_add(1), tf.float32)
        updates.apply(optimizer, pairs, step, rate_of(optimizer.learning_rate, step))
        for _, variable in pairs:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))


def update_variable(optimizer, gradient, variable, slots, step, rate, decay=True, is_distinct=False) -> None:
    """One step on one variable.

    Args:
      optimizer: RowOptimizer.
      gradient: dense, as the variable, or tf.IndexedSlices of its first axis.
      variable: tf.Variable of any rank and floating type; the mathematics are float32.
      slots: tf.Variables float32 [rows, width].
      step, rate: float32 scalars.
      decay: whether the optimizer's weight_decay applies.
      is_distinct: whether slices are known to have each index once.
    """
    step, rate = tf.convert_to_tensor(step), tf.convert_to_tensor(rate)  # casts may have kept a variable
    if isinstance(gradient, tf.IndexedSlices) and not optimizer.lazy:
        gradient = tf.math.unsorted_segment_sum(
            tf.cast(gradient.values, tf.float32), gradient.indices, variable.shape[0]
        )
    if not isinstance(gradient, tf.IndexedSlices):
        weight, gradient = (_as_rows(x, variable.shape) for x in (variable.read_value(), gradient))
        before = [slot.read_value() for slot in slots]
        weight, after, _ = optimizer.step_rows(weight, before, gradient, step, rate, decay=decay)
        variable.assign(tf.cast(tf.reshape(weight, variable.shape), stored_dtype(variable)))
        for slot, value in zip(slots, after, strict=True):
            slot.assign(value)
        return
    gradient = gradient if is_distinct else distinct(gradient)
    ids, weight = gradient.indices, tf.gather(variable, gradient.indices)
    weight, summed = (_as_rows(x, variable.shape) for x in (weight, gradient.values))
    before = [tf.gather(slot, ids) for slot in slots]
    weight, after, _ = optimizer.step_rows(weight, before, summed, step, rate, decay=decay)
    weight = tf.cast(tf.reshape(weight, [-1, *variable.shape[1:]]), stored_dtype(variable))
    variable.scatter_update(tf.IndexedSlices(weight, ids))
    for slot, value in zip(slots, after, strict=True):
        slot.scatter_update(tf.IndexedSlices(value, ids))


def distinct(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """Slices with each index once and the sum of its values; sums of half precision are float32."""
    values = slices.values
    values = tf.cast(values, tf.float32) if values.dtype.size < 4 else values
    ids, where = tf.unique(slices.indices)
    summed = tf.math.unsorted_segment_sum(values, where, tf.size(ids))
    return tf.IndexedSlices(summed, ids, slices.dense_shape)


def _row_shape(shape: tf.TensorShape) -> list[int]:
    """[rows, values per row] of a variable of this shape."""
    return [shape[0], tf.TensorShape(shape[1:]).num_elements()] if shape.rank else [1, 1]


def _as_rows(value, shape: tf.TensorShape):
    """float32 [rows, values per row] of some or all rows of a variable of this shape."""
    return tf.reshape(tf.cast(value, tf.float32), [-1, _row_shape(shape)[1]])

"""Variables as arguments of a function."""

import numpy as np
import tensorflow as tf

from tests.tpu_aot.arguments import Arguments


def step(variable, slot):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(variable * variable) + 3.0 * tf.reduce_sum(variable.read_value())
    (gradient,) = tape.gradient(loss, [variable])
    slot.assign(0.5 * slot + gradient)
    variable.assign_sub(0.1 * slot)
    slot.assign_add(tf.ones_like(slot))
    return loss


def test_a_function_of_arguments_computes_what_it_does_on_variables():
    variable, slot = tf.Variable([1.0, -2.0]), tf.Variable([4.0, 8.0])
    arguments = Arguments([variable, slot])

    @tf.function(jit_compile=True)
    def pure(*values):
        with arguments.given(values):
            return step(variable, slot), arguments.results

    assert not pure.get_concrete_function(*arguments.specs).captured_inputs
    loss, results = pure(tf.constant([3.0, 5.0]), tf.constant([1.0, 7.0]))
    np.testing.assert_array_equal(variable, [1.0, -2.0])
    variable.assign([3.0, 5.0])
    slot.assign([1.0, 7.0])
    assert loss == step(variable, slot) == 58.0
    np.testing.assert_array_equal(results[0], variable)
    np.testing.assert_array_equal(results[1], slot)

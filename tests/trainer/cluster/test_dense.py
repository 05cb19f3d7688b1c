"""Layers that read values which were sent instead of their variables."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.cluster.dense import reading


def layers() -> tf.keras.Sequential:
    made = tf.keras.Sequential([tf.keras.layers.Dense(3, "relu"), tf.keras.layers.LayerNormalization()])
    made.build([None, 4])
    for seed, variable in enumerate(made.trainable_variables):
        variable.assign(np.random.default_rng(seed).normal(size=variable.shape))
    return made


def test_layers_read_the_values_and_gradients_are_theirs():
    made, inputs = layers(), tf.constant(np.random.default_rng(9).normal(size=[5, 4]), tf.float32)
    variables = made.trainable_variables

    @tf.function
    def other():
        values = [2.0 * variable for variable in variables]
        with tf.GradientTape() as tape, reading(variables, values):
            tape.watch(values)
            loss = tf.reduce_sum(made(inputs) ** 3)
        return loss, *tape.gradient(loss, (values, variables))

    loss, gradients, none = other()
    assert none == [None] * len(variables)
    for variable in variables:
        variable.assign(2.0 * variable)
    with tf.GradientTape() as tape:
        expected = tf.reduce_sum(made(inputs) ** 3)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for found, wanted in zip(gradients, tape.gradient(expected, variables), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_variables_are_read_again_after_the_block_even_after_an_error():
    variable = tf.Variable([1.0, 2.0])
    with pytest.raises(ValueError, match="an error"), reading([variable], [tf.constant([3.0, 4.0])]):
        np.testing.assert_array_equal(variable + 0.0, [3.0, 4.0])
        raise ValueError("an error")
    np.testing.assert_array_equal(variable + 0.0, [1.0, 2.0])


def test_an_operation_on_the_handle_reads_the_variable():
    """So a step asks for its gradient, too."""
    variable = tf.Variable([[1.0], [2.0]])
    value = 3.0 * variable
    with tf.GradientTape() as tape, reading([variable], [value]):
        tape.watch(value)
        found = tf.gather(variable, [1])
    sent, read = tape.gradient(found, (value, variable))
    np.testing.assert_array_equal(found, [[2.0]])
    assert sent is None
    np.testing.assert_array_equal(tf.convert_to_tensor(read), [[0.0], [1.0]])

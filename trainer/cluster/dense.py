"""Dense weights on the hosts of a cluster: their variables are on host 0, and their values come with a batch.

Left to TensorFlow, each host would read each variable for itself: a message for every matrix and bias.
"""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf


@contextlib.contextmanager
def reading(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> Iterator[None]:
    """Makes layers that are traced in the block read these values instead of their variables.

    Keras' layers have no other way in. An operation that takes a variable's handle (tf.gather of one) still
    reads the variable, so gradients are to be asked for both.
    """
    for variable, value in zip(variables, values, strict=True):
        variable._cached_value = value  # what `value()` returns: TensorFlow's own copies use it
    try:
        yield
    finally:
        for variable in variables:
            variable._cached_value = None

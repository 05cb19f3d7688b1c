"""Dense weights on the hosts of a cluster: their variables are on host 0, and a message a step brings them.

Left to TensorFlow, each host would read each variable for itself: a message for every matrix and bias.
"""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from trainer.cluster.packing import Packing


def send_dense(variables: Sequence[tf.Variable], devices: Sequence[str]) -> list[list[tf.Tensor]]:
    """Sends all hosts the values of variables of host 0.

    Args:
      variables: on the first device; float32.
      devices: of the hosts.

    Returns:
      For each host, the values in the order of the variables, on the host.
    """
    values = {str(i): variable.read_value() for i, variable in enumerate(variables)}
    packing = Packing(values)
    with tf.device(devices[0]):
        flat = packing.packed(values)
    found = []
    for device in devices:
        with tf.device(device):
            there = packing.unpacked(tf.identity(flat))
            found.append([there[name] for name in values])
    return found


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

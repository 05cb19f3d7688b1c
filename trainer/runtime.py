"""Starts TensorFlow once, the same way for every sub-command."""

import os

from configs.training import CpuDevice


def start_tensorflow(device: CpuDevice, deterministic: bool = True):
    """Imports TensorFlow with Keras 2, quiet, and set up for `device`; returns the module.

    Args:
      device: the config's device section.
      deterministic: equal inputs give equal bits, run after run, with the same number of threads; ops that
        cannot promise it fail instead.
    """
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # TFRS and TF-Addons need Keras 2
    # The GPU wheel logs at error level that it finds no GPU; Python exceptions tell all real errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    if device.threads and device.threads != tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(device.threads)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return tf

"""Starts TensorFlow once, the same way for every sub-command."""

import os

from configs.errors import UserError
from configs.sections.devices import CpuDeviceConfig, TpuDeviceConfig
from configs.system.chips import spare_metadata_server


def start_tensorflow(device: CpuDeviceConfig | TpuDeviceConfig, deterministic: bool = True):
    """Imports TensorFlow with Keras 2, quiet, and set up for `device`; returns the module.

    Args:
      device: the config's device section.
      deterministic: equal inputs give equal bits, run after run, with the same number of threads; ops that
        cannot promise it fail instead.

    Raises:
      UserError: TensorFlow has started already, with fewer replicas.
    """
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # TFRS and TF-Addons need Keras 2
    # The GPU wheel logs at error level that it finds no GPU; real errors are raised as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    spare_metadata_server()
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    if device.threads and device.threads != tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(device.threads)
    if device.kind == "cpu" and device.replicas > 1:
        _split_processor(tf, device.replicas)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return tf


def _split_processor(tf, replicas: int) -> None:
    """Makes a logical device for each replica."""
    processor = tf.config.list_physical_devices("CPU")[0]
    wanted = [tf.config.LogicalDeviceConfiguration()] * replicas
    try:
        tf.config.set_logical_device_configuration(processor, wanted)
    except RuntimeError:
        if len(tf.config.list_logical_devices("CPU")) < replicas:
            raise UserError(
                f"device.replicas: TensorFlow has started with fewer than {replicas} in this process; "
                "start a new process"
            ) from None

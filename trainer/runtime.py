"""Starts TensorFlow in the same way for every sub-command."""

import os
import sys

from absl import logging

from configs.errors import UserError
from configs.sections.devices import ClusterDeviceConfig, CpuDeviceConfig, TpuDeviceConfig
from configs.system.chips import spare_metadata_server


def start_tensorflow(
    device: CpuDeviceConfig | TpuDeviceConfig | ClusterDeviceConfig, deterministic: bool = True
):
    """Imports TensorFlow with Keras 2 and few log messages, configures it for `device`, and returns it.

    Args:
      device: the config's device section.
      deterministic: whether equal inputs must give bitwise equal results in every run with the same number
        of threads; ops that cannot guarantee it fail.

    Raises:
      UserError: TensorFlow has already started with fewer replicas.
    """
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # TFRS and TF-Addons require Keras 2
    # The GPU wheel logs at error level that it finds no GPU; real errors are raised as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    spare_metadata_server()
    if device.kind == "cluster":
        _keep_connections_alive(device.keepalive_seconds)
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    if device.threads and device.threads != tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(device.threads)
    if device.kind == "cluster":
        _answer_other_hosts()
    if device.kind == "cpu" and device.replicas > 1:
        _split_processor(tf, device.replicas)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return tf


def options_of_host(threads: int = 0):
    """A tf.compat.v1.ConfigProto for a host of a cluster.

    TensorFlow runs as many operations at a time as there are cores, and the same threads answer other hosts:
    these would wait on a host of one core until its longest operation is done, and then compute while it
    waits. So there are two threads at least; on one core none of them waits busily, in the other one's time.

    Args:
      threads: of one operation; 0: one per core.
    """
    import tensorflow as tf

    cores = len(os.sched_getaffinity(0))
    options = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=max(cores, 2)
    )
    options.experimental.disable_thread_spinning = cores == 1
    return options


def _answer_other_hosts() -> None:
    """Gives the driver's TensorFlow, if it has not started yet, the threads of a host."""
    import tensorflow as tf
    from tensorflow.python.eager import context

    started = context.context()._initialized
    if not started and tf.config.threading.get_inter_op_parallelism_threads() < 1:
        options = options_of_host()
        tf.config.threading.set_inter_op_parallelism_threads(options.inter_op_parallelism_threads)
        context.context()._config = options  # only there can it be said that threads do not spin


def untuned(data):
    """A tf.data.Dataset without autotuning, which pipelines of fixed parallelism do not need.

    Its thread sleeps for up to a minute at a time, and TensorFlow waits for it when the iterator ends. The
    thread is woken before the flag that it looks at is set (CancellationManager::StartCancel, 2.20), so on a
    busy machine it may fall asleep again.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def _keep_connections_alive(seconds: int) -> None:
    """Has TensorFlow's connections to other hosts checked this often: it would wait forever for a host that
    hangs or is cut off. It reads the variable when it opens the first one."""
    options = {
        "grpc.keepalive_time_ms": 1000 * seconds,
        "grpc.keepalive_timeout_ms": 1000 * seconds,
        "grpc.http2.max_pings_without_data": 0,
    }
    text = ",".join(f"{name}={value}" for name, value in options.items())
    os.environ.setdefault("TF_GRPC_DEFAULT_OPTIONS", text)


def _split_processor(tf, replicas: int) -> None:
    """Creates a logical device for each replica."""
    processor = tf.config.list_physical_devices("CPU")[0]
    wanted = [tf.config.LogicalDeviceConfiguration()] * replicas
    try:
        tf.config.set_logical_device_configuration(processor, wanted)
    except RuntimeError:
        if len(tf.config.list_logical_devices("CPU")) < replicas:
            raise UserError(
                f"device.replicas: TensorFlow has already started in this process with fewer than {replicas} "
                "replicas; start a new process"
            ) from None


def end_process(code: int) -> None:
    """Ends this process at once: TensorFlow's threads that wait for other hosts would keep it alive."""
    logging.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

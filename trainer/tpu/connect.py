"""Connects to the TPU that a config names, and compares it with device.slice."""

import threading

import tensorflow as tf

from configs.errors import UserError
from configs.sections.devices import TpuDeviceConfig
from configs.system.chips import device_files
from trainer.tpu.address import LOCAL, tpu_address, wait_for_hosts

# What a failing connection says, and what it means: the first that is found in the error's text.
_HINTS = [
    (
        ("already in use", "in use by process", "lockfile", "ABORTED: The TPU"),
        "another process holds the chips: end it (`sudo lsof /dev/accel* /dev/vfio/*` names it), or remove "
        "/tmp/libtpu_lockfile when none runs",
    ),
    (
        ("libtpu", "PJRT"),
        "libtpu and TensorFlow do not fit: install the versions of docker/constraints-tpu.txt",
    ),
    (
        ("No OpKernel", "not registered", "NUM_TPUS", "no TPU", "0 TPU", "No TPU"),
        "no chip is visible: run on a TPU VM whose runtime fits the generation, with tensorflow-tpu (not "
        "tensorflow) installed; `lazytower doctor` tells more",
    ),
]


def connect_tpu(device: TpuDeviceConfig) -> tf.distribute.Strategy:
    """Connects to the TPU, initialises it, which empties its memory, and compares it with device.slice.

    Raises:
      UserError: there is none, it is held by another process, does not answer, or is another slice; says
        what to check.
    """
    hosts = device.slice_type.hosts
    if hosts > 1 and device.name is None:
        raise UserError(
            f"device.name: {device.slice} has {hosts} hosts; name the TPU, so that the others are found"
        )
    address = tpu_address(device, device.connect_seconds)
    wait_for_hosts(address, device.connect_seconds)
    found: dict = {}

    def connect():
        try:
            found["strategy"] = _connect(address)
        except Exception as error:  # told below, in the caller's thread
            found["error"] = error

    # A daemon: calls into the runtime cannot be cancelled, and must not keep a failed process alive.
    thread = threading.Thread(target=connect, daemon=True, name="connect-tpu")
    thread.start()
    thread.join(device.connect_seconds)
    where = "this machine" if address == LOCAL else device.name
    if thread.is_alive():
        raise UserError(
            f"device: the TPU of {where} did not answer for {device.connect_seconds:g} s "
            f"(device.connect_seconds); another process may hold it, or its runtime may not fit the "
            "generation: `lazytower doctor` tells more"
        )
    if "error" in found:
        raise UserError(f"device: no TPU at {where}: {_explained(found['error'], address)}") from found[
            "error"
        ]
    strategy = found["strategy"]
    check_slice(strategy, device)
    return strategy


def resolver_of(address: str) -> tf.distribute.cluster_resolver.TPUClusterResolver:
    """TensorFlow's resolver of an address as trainer.tpu.address gives it; asks nobody."""
    return tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)


def _connect(address: str) -> tf.distribute.Strategy:
    """The part that can take forever, or fail with the runtime's own message."""
    resolver = resolver_of(address)
    if address != LOCAL:
        tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def _explained(error: Exception, address: str) -> str:
    """A line of what went wrong, and what to check."""
    text = str(error) or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [text]
    # Of a failed graph the first lines tell where, the last what.
    line = lines[-1] if lines[0].startswith("Graph execution error") else lines[0]
    for words, hint in _HINTS:
        if any(word in text for word in words):
            return f"{hint} ({line})"
    if address != LOCAL:
        nothing = "TensorFlow's worker service runs there, and drives no TPU; "
    else:
        nothing = "" if device_files() else "no chip is visible here; "
    return f"{nothing}`lazytower doctor` tells more ({line})"


def check_slice(strategy, device: TpuDeviceConfig) -> None:
    """Compares what is connected with device.slice. Raises UserError: another slice or generation."""
    wanted = device.slice_type
    replicas, hosts = strategy.num_replicas_in_sync, strategy.extended.num_hosts
    if (replicas, hosts) != (wanted.replicas, wanted.hosts):
        raise UserError(
            f"device.slice: {device.slice} has {wanted.replicas} replicas on {wanted.hosts} hosts, the "
            f"connected TPU {replicas} on {hosts}; name the slice that it is"
        )
    feature = strategy.extended.tpu_hardware_feature
    engine = {"V1": "tpu_embedding", "V2": "sparse_core"}.get(feature.embedding_feature.name)
    cores = feature.num_embedding_devices_per_chip
    if engine != wanted.engine or (wanted.sparse_cores and cores != wanted.sparse_cores):
        raise UserError(
            f"device.slice: {device.slice} keeps tables in {wanted.engine}, the connected TPU in "
            f"{engine or feature.embedding_feature.name} with {cores} SparseCores on each chip; name the "
            "slice that it is"
        )

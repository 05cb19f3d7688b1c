"""Connects to the configured TPU and checks that it is the slice of device.slice."""

import threading

import tensorflow as tf

from configs.errors import UserError
from configs.sections.devices import TpuDeviceConfig
from configs.system.chips import device_files
from trainer.tpu.address import LOCAL, tpu_address, wait_for_hosts

# Words in the error of a failed connection, and the hint for the user; the first match counts.
_HINTS = [
    (
        ("already in use", "in use by process", "lockfile", "ABORTED: The TPU"),
        "another process holds the chips: end it (`sudo lsof /dev/accel* /dev/vfio/*` names it), or remove "
        "/tmp/libtpu_lockfile if none is running",
    ),
    (
        ("libtpu", "PJRT"),
        "libtpu and TensorFlow are incompatible: install the versions of docker/constraints-tpu.txt",
    ),
    (
        ("No OpKernel", "not registered", "NUM_TPUS", "no TPU", "0 TPU", "No TPU"),
        "no chip is visible: run on a TPU VM whose runtime version supports the generation, with "
        "tensorflow-tpu (not tensorflow) installed; `lazytower doctor` shows details",
    ),
]


def connect_tpu(device: TpuDeviceConfig) -> tf.distribute.Strategy:
    """Connects to the TPU, initializes it, which clears its memory, and compares it with device.slice.

    Raises:
      UserError: there is no TPU, another process holds it, it does not answer, or it is another slice; says
        what to check.
    """
    hosts = device.slice_type.hosts
    if hosts > 1 and device.name is None:
        raise UserError(
            f"device.name: missing; {device.slice} has {hosts} hosts, so set it to the name of the TPU"
        )
    address = tpu_address(device, device.connect_seconds)
    wait_for_hosts(address, device.connect_seconds)
    found: dict = {}

    def connect():
        try:
            found["strategy"] = _connect(address)
        except Exception as error:  # raised below, in the caller's thread
            found["error"] = error

    # A daemon, because calls into the runtime cannot be cancelled and must not keep a failed process alive.
    thread = threading.Thread(target=connect, daemon=True, name="connect-tpu")
    thread.start()
    thread.join(device.connect_seconds)
    where = "this machine" if address == LOCAL else device.name
    if thread.is_alive():
        raise UserError(
            f"device: the TPU of {where} did not answer within {device.connect_seconds:g} s "
            "(device.connect_seconds); another process may hold it, or its runtime version may not support "
            "the generation: run `lazytower doctor`"
        )
    if "error" in found:
        raise UserError(f"device: no TPU at {where}: {_explained(found['error'], address)}") from found[
            "error"
        ]
    strategy = found["strategy"]
    check_slice(strategy, device)
    return strategy


def resolver_of(address: str) -> tf.distribute.cluster_resolver.TPUClusterResolver:
    """TensorFlow's resolver for an address from trainer.tpu.address; does not access the network."""
    return tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)


def _connect(address: str) -> tf.distribute.Strategy:
    """The part that can hang, or fail with an error of the runtime."""
    resolver = resolver_of(address)
    if address != LOCAL:
        tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def _explained(error: Exception, address: str) -> str:
    """One line: the hint for an error, and its text."""
    text = str(error) or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [text]
    # The error of a failed graph begins with the location and ends with the cause.
    line = lines[-1] if lines[0].startswith("Graph execution error") else lines[0]
    for words, hint in _HINTS:
        if any(word in text for word in words):
            return f"{hint} ({line})"
    if address != LOCAL:
        nothing = "TensorFlow's worker service runs there but has no TPU; "
    else:
        nothing = "" if device_files() else "no chip is visible here; "
    return f"{nothing}run `lazytower doctor` ({line})"


def check_slice(strategy, device: TpuDeviceConfig) -> None:
    """Raises UserError if the connected TPU is another slice or generation than device.slice."""
    wanted = device.slice_type
    replicas, hosts = strategy.num_replicas_in_sync, strategy.extended.num_hosts
    if (replicas, hosts) != (wanted.replicas, wanted.hosts):
        raise UserError(
            f"device.slice: {device.slice} has {wanted.replicas} replicas on {wanted.hosts} hosts, but the "
            f"connected TPU has {replicas} on {hosts}; set device.slice to its type"
        )
    feature = strategy.extended.tpu_hardware_feature
    engine = {"V1": "tpu_embedding", "V2": "sparse_core"}.get(feature.embedding_feature.name)
    cores = feature.num_embedding_devices_per_chip
    if engine != wanted.engine or (wanted.sparse_cores and cores != wanted.sparse_cores):
        raise UserError(
            f"device.slice: {device.slice} keeps tables in {wanted.engine}, but the connected TPU in "
            f"{engine or feature.embedding_feature.name} with {cores} SparseCores per chip; set device.slice "
            "to its type"
        )

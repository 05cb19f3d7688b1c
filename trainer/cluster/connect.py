"""Connects the driver of a run to the hosts of its cluster, after it has made sure that all of them are fit
for it."""

import json
import os
import threading
import time
from dataclasses import dataclass

import tensorflow as tf
from absl import logging

from configs.errors import ConfigError
from configs.sections.devices import ClusterDeviceConfig
from configs.system import storage
from configs.system.tf_config import task_of_environment
from trainer.cluster.greeting import Greeting, end_meeting, greeting_request, shared_problem
from trainer.cluster.pieces import register_pieces
from trainer.cluster.services import answered
from trainer.cluster.sockets import ClusterError, check_free, wait_for_workers
from trainer.cluster.watch import watch_workers
from trainer.kernels.build import kernels
from trainer.version import VERSION

JOB = "worker"
_connected: list[list[str]] = []  # addresses of the hosts that this process is connected to, if any
_GREETING_SECONDS = 60.0
"""Longest time between a worker's accepting a connection and its answer."""
_RECONNECT_SECONDS = 2.0
"""Time from opening a port until all hosts are connected to it. Those that found it closed try again each
second (GetChannelArguments in TensorFlow's grpc_channel.cc; gRPC adds up to a fifth), and until then fail
what needs the connection."""


@dataclass(frozen=True, eq=False)
class Cluster:
    """The hosts of a run; host 0 is this process."""

    addresses: list[str]
    strategy: tf.distribute.Strategy
    """Runs a function once per host, on its device; variables stay on host 0."""

    @property
    def count(self) -> int:
        """Number of hosts."""
        return len(self.addresses)

    @property
    def devices(self) -> list[str]:
        """TensorFlow's name of each host's processor."""
        return [device_name(index) for index in range(self.count)]


def device_name(index: int) -> str:
    """TensorFlow's name of a host's processor."""
    return f"/job:{JOB}/replica:0/task:{index}/device:CPU:0"


def addresses_of_driver(device: ClusterDeviceConfig) -> list[str]:
    """The addresses of all hosts, for the process that runs on host 0.

    Raises:
      ConfigError: TF_CONFIG lacks them, or says that this is another host.
    """
    if device.hosts is None and (index := task_of_environment().index) != 0:
        raise ConfigError(
            f"TF_CONFIG: this is host {index}, and `lazytower train` runs on host 0; run `lazytower worker` "
            "here"
        )
    return device.addresses()


def wait_for_hosts_of(device: ClusterDeviceConfig) -> None:
    """Waits until all workers accept connections, before a run does anything that takes time.

    Raises:
      ConfigError, ClusterError: as `addresses_of_driver` and `wait_for_workers`; or host 0's port is in use.
    """
    addresses = addresses_of_driver(device)
    if not _connected:  # otherwise this process listens there
        check_free(addresses[0], 0)

    def waiting(missing: dict[str, str]) -> None:
        names = ", ".join(f"{address} ({why})" for address, why in missing.items())
        logging.info("waiting up to %g s for %s", device.connect_seconds, names)

    wait_for_workers(addresses, device.connect_seconds, waiting)


def connect_cluster(device: ClusterDeviceConfig, run: str) -> Cluster:
    """Connects to all workers and checks that they are fit for the run. Before any other TensorFlow
    operation.

    Args:
      device: of the config.
      run: directory of the run, which all hosts must share.

    Raises:
      ConfigError: TF_CONFIG is not that of host 0.
      ClusterError: a host does not answer, has other versions or no kernels, cannot reach another one, or
        does not share the run's directory; names it.
    """
    addresses = addresses_of_driver(device)
    if kernels() is None:
        raise ClusterError("device: host 0 has no compiled kernels, which a cluster needs; install g++")
    Greeting(0).service.register()
    register_pieces()
    reconnected = 0.0
    if not _connected:
        spec = tf.train.ClusterSpec({JOB: addresses})
        tf.config.experimental_connect_to_cluster(spec, job_name=JOB, task_index=0)
        _connected.append(addresses)
        reconnected = time.monotonic() + _RECONNECT_SECONDS
    elif _connected != [addresses]:
        raise ClusterError("device: this process is connected to other hosts already; start a new process")
    run = run if storage.is_remote(run) else os.path.abspath(run)
    started = time.monotonic()
    _greet_all(addresses, run)
    watch_workers(addresses)
    time.sleep(max(reconnected - time.monotonic(), 0.0))
    logging.info("connected to %d hosts in %.1f s", len(addresses), time.monotonic() - started)
    devices = [device_name(index) for index in range(len(addresses))]
    strategy = tf.distribute.experimental.CentralStorageStrategy(
        compute_devices=devices, parameter_device=devices[0]
    )
    return Cluster(addresses, strategy)


def _greet_all(addresses: list[str], run: str) -> None:
    """Raises ClusterError unless all hosts are fit for the run."""
    request = greeting_request(addresses, run)
    found: dict[int, dict | Exception] = {}

    def greet(index: int) -> None:
        try:
            with tf.device(device_name(index)):
                answer, *_ = Greeting(0).service.called(tf.constant(json.dumps(request)))
            found[index] = answered(answer, addresses[index])
        except Exception as error:  # raised below, in the caller's thread
            found[index] = error

    try:
        # Daemons, because calls into the runtime cannot be cancelled, and a host that hangs must not keep
        # this process alive.
        threads = [threading.Thread(target=greet, args=[i], daemon=True) for i in range(len(addresses))]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + _GREETING_SECONDS
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        _check_answered(addresses, found)
        for index, address in enumerate(addresses):
            if problem := _problem(request, index, found[index]):
                raise ClusterError(f"device: host {index} at {address}: {problem}")
    finally:
        end_meeting(request)


def _check_answered(addresses: list[str], found: dict) -> None:
    """Raises ClusterError if hosts are silent; those that hang keep host 0, and perhaps others, from
    answering."""
    silent = [index for index in range(len(addresses)) if index not in found]
    named = [index for index in silent if index > 0] or silent
    if named:
        hosts = ", ".join(f"host {index} at {addresses[index]}" for index in named)
        raise ClusterError(
            f"device: {hosts}: no answer within {_GREETING_SECONDS:g} s, though connections are accepted; "
            "restart the worker there"
        )


def _problem(request: dict, index: int, answer: dict | Exception) -> str | None:
    """Why a host is not fit for the run; None: it is."""
    if isinstance(answer, Exception):
        if "callback" in str(answer) or "PyFunc" in str(answer):
            return "is not a worker of lazytower; run `lazytower worker` there"
        text = " ".join(str(answer).split())
        return f"cannot be used ({type(answer).__name__}: {text}); restart its worker"
    own = {"lazytower": VERSION, "TensorFlow": tf.__version__}
    for name, version in own.items():
        if answer[name] != version:
            return (
                f"has {name} {answer[name]}, and host 0 has {version}; install the same versions on all hosts"
            )
    if not answer["kernels"]:
        return "has no compiled kernels; install g++ there, or set LAZYTOWER_KERNELS"
    if answer["index"] != index:
        return f"was started as host {answer['index']}; start its worker with the same list of hosts"
    if answer["cannot_reach"]:
        address, why = next(iter(answer["cannot_reach"].items()))
        return f"cannot reach the host at {address} ({why}); open that port to all hosts of the cluster"
    if why := shared_problem(request, index, answer):
        return (
            f"does not share the run's directory: {request['run']} {why}; set output.path to a directory of "
            "a disk that all hosts mount, or to gs://"
        )
    return None

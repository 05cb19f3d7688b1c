"""A host of a cluster beside the driver: TensorFlow's server with the kernels, which serves one driver
after another.

The server does what a driver's graphs say: it holds rows, computes and writes files. It outlives drivers;
the next one clears what the last one left behind. TensorFlow's server cannot be shut down, so the process
ends with it.
"""

import signal
import threading

import tensorflow as tf
from absl import logging

from configs.system.tf_config import ClusterTask
from configs.text import size_text
from trainer.cluster.connect import JOB
from trainer.cluster.greeting import Greeting
from trainer.cluster.pieces import register_pieces
from trainer.cluster.sockets import ClusterError, check_free, refusal
from trainer.kernels.build import kernels, release_tracked
from trainer.runtime import options_of_host
from trainer.version import VERSION

_LOOK_SECONDS = 5.0


def serve(task: ClusterTask, threads: int) -> str:
    """Serves drivers until SIGTERM or SIGINT; returns the signal's name. TensorFlow must be started.

    Args:
      task: this host's place.
      threads: of TensorFlow's kernels; 0: one per core.

    Raises:
      ClusterError: there are no kernels, or the port is in use.
    """
    address = task.addresses[task.index]
    if kernels() is None:
        raise ClusterError("device: this host has no compiled kernels, which a cluster needs; install g++")
    check_free(address, task.index)
    ended = threading.Event()
    signals: list[str] = []

    def handle(number, frame) -> None:
        signals.append(signal.Signals(number).name)
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    drivers = _Drivers(task.addresses[0])
    Greeting(task.index, drivers.connected).service.register()
    register_pieces()
    spec, options = tf.train.ClusterSpec({JOB: list(task.addresses)}), options_of_host(threads)
    server = tf.distribute.Server(spec, job_name=JOB, task_index=task.index, config=options)
    logging.info(
        "lazytower %s: host %d of %d at %s, waiting for a driver",
        VERSION,
        task.index,
        len(task.addresses),
        address,
    )
    while not ended.wait(_LOOK_SECONDS):
        drivers.look()
    logging.info("ended by %s", signals[0])
    logging.flush()
    assert server is not None  # alive until here
    return signals[0]


class _Drivers:
    """Logs which driver this host serves, and when it is gone."""

    def __init__(self, address: str):
        self._address = address
        self._serving: dict | None = None
        self._latest: str | None = None
        self._lock = threading.Lock()

    def connected(self, request: dict) -> None:
        """A driver has greeted this host; a new one frees what the last one left."""
        with self._lock:
            is_new = self._latest != request["driver"]
            self._latest, self._serving = request["driver"], request
        if is_new and (left := release_tracked()):
            logging.info("freed %s of tables that the last driver left", size_text(left))
        where = f"process {request['pid']} on {request['host']}"
        logging.info(
            "serving the driver of run %s (%s, lazytower %s)", request["run"], where, request["version"]
        )

    def look(self) -> None:
        """Notices that the driver has ended: its port is closed."""
        with self._lock:
            serving = self._serving
        if serving is None or not (why := refusal(self._address)):
            return
        with self._lock:
            if self._serving is serving:
                self._serving = None
        logging.info("the driver of run %s has gone (%s); waiting for the next one", serving["run"], why)

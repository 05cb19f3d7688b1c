"""A table whose rows are shared by the hosts of a cluster: row i is row i // n of host i % n.

Each host has an ordinary table of its rows (trainer/embeddings/engines/), so optimizers, averages and
records are theirs. Whatever concerns many rows is done by their owners: initial weights, checkpoints,
statistics, and which rows a step has touched.
"""

import threading
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from configs.schema import RunConfig
from configs.sections.tables import TableConfig
from trainer.cluster.connect import Cluster
from trainer.cluster.pieces import HostPieces
from trainer.embeddings.base import CHUNK_ROWS, Skip, Table
from trainer.embeddings.engines import TABLE_ENGINES
from trainer.embeddings.engines.native import available
from trainer.kernels import ops

_IDS = tf.TensorSpec([None], tf.int64)
_NUMBER = tf.TensorSpec([], tf.int64)
_STEP = tf.TensorSpec([], tf.float32)


def cluster_tables(config: RunConfig, cluster: Cluster) -> Callable[..., Table]:
    """What makes the tables of a run on a cluster; for Recommender."""

    def table(name: str, rows: int, dim: int, optimizer, average) -> Table:
        options = config.table(name)
        assert isinstance(options, TableConfig)  # robe_z is refused when the config is read
        engine = options.engine
        if engine == "auto":
            engine = "native" if available(optimizer) else "rows"
        return ClusterTable(name, rows, dim, optimizer, average, cluster, TABLE_ENGINES[engine])  # type: ignore[type-abstract]

    return table


class ClusterTable(Table):
    """A table on all hosts of a cluster.

    Args:
      name, rows, dim, optimizer, average: as Table.
      cluster: its hosts.
      engine: class of the tables on the hosts.

    Attributes:
      shards: the table of each host's rows.
    """

    engine = "cluster"

    def __init__(self, name, rows, dim, optimizer, average, cluster: Cluster, engine: type[Table]):
        super().__init__(name, rows, dim, optimizer, average)
        self._cluster, n = cluster, cluster.count
        self.shards: list[Table] = []
        for k, device in enumerate(cluster.devices):
            with tf.device(device):
                shard = engine(f"{name}_{k}", (rows - k + n - 1) // n, dim, optimizer, average)
                ops.track(shard.records)
            self.shards.append(shard)
        self.takes_repeats = self.shards[0].takes_repeats
        self.elsewhere = HostPieces(self, cluster)
        self._functions: dict = {}
        self._lock = threading.Lock()  # threads that write a checkpoint call `compiled`

    # --- graphs over all hosts ---

    def compiled(self, key, function: Callable, *specs: tf.TensorSpec) -> Callable:
        """tf.function(function), traced once for a key."""
        with self._lock:
            if key not in self._functions:
                made = tf.function(function, input_signature=specs, autograph=False)  # as in the step
                self._functions[key] = made.get_concrete_function()
            return self._functions[key]

    def split(self, ids):
        """By owner, (places in `ids`, int32; rows there, int64) of ids int64 [n], on the current device."""
        n = self._cluster.count
        owner = tf.cast(ids % n, tf.int32)
        places = tf.dynamic_partition(tf.range(tf.size(ids)), owner, n)
        return list(zip(places, tf.dynamic_partition(ids // n, owner, n), strict=True))

    def gathered(self, ids, device: str, read: Callable):
        """read(shard, its rows int64 [m]) -> [m, ...] of the owners of ids int64 [n], as [n, ...] on a
        device."""
        with tf.device(device):
            split = self.split(tf.identity(ids))
        found = []
        for (_, local), shard, owner in zip(split, self.shards, self._cluster.devices, strict=True):
            with tf.device(owner):
                found.append(read(shard, tf.identity(local)))
        with tf.device(device):
            return tf.dynamic_stitch([places for places, _ in split], [tf.identity(part) for part in found])

    def scattered(self, ids, records, device: str) -> None:
        """Sends records float32 [n, width] on a device to the owners of ids int64 [n], who write them."""
        with tf.device(device):
            split = self.split(tf.identity(ids))
            parts = [tf.gather(records, places) for places, _ in split]
        for (_, local), part, shard, owner in zip(
            split, parts, self.shards, self._cluster.devices, strict=True
        ):
            with tf.device(owner):
                shard.write_rows(tf.identity(local), tf.identity(part))

    # --- the interface of Table ---

    def initialize(
        self, stddev: float, seed: int, zero_row: int | None = None, skip: Skip = lambda start, stop: False
    ) -> None:
        """As Table.initialize: each host computes the values of all rows and keeps its own."""

        def fill(start, stop):
            for k, (shard, device) in enumerate(zip(self.shards, self._cluster.devices, strict=True)):
                with tf.device(device):
                    n = self._cluster.count
                    records = self.initial_records(start, stop, stddev, seed, zero_row)
                    first = (k - start) % n
                    shard.write_rows(tf.range(start + first, stop, n) // n, records[first::n])
            return tf.constant(True)

        compiled = tf.function(fill, input_signature=[_NUMBER, _NUMBER], autograph=False)
        for start, stop in self.chunks():
            if not skip(start, stop):
                compiled(tf.constant(start, tf.int64), tf.constant(stop, tf.int64))

    def lookup(self, ids):
        raise NotImplementedError("hosts look up their shares: see trainer.training.steps.cluster_step")

    def update(self, lookup, gradient, step, multiplier):
        raise NotImplementedError("hosts update their rows: see trainer.training.steps.cluster_step")

    def read_records(self, ids):
        return self._read("records", lambda shard, local, step: shard.read_records(local), ids, 0.0)

    def read_weights(self, ids, averaged: bool, step):
        averaged = bool(averaged and self.average is not None)
        return self._read(
            averaged, lambda shard, local, at: shard.read_weights(local, averaged, at), ids, step
        )

    def last_steps(self, ids):
        return self._read("last", lambda shard, local, step: shard.last_steps(local), ids, 0.0)

    def row_norms(self, ids, step):
        return self._read("norms", lambda shard, local, at: shard.row_norms(local, at), ids, step)

    def _read(self, key, read: Callable, ids, step):
        """read(shard, rows, step) of the owners of ids, in their order, on this host."""

        def gathered(ids, step):
            def of_shard(shard, local):
                return read(shard, local, tf.identity(step))

            return self.gathered(ids, self._cluster.devices[0], of_shard)

        compiled = self.compiled(("read", key), gathered, _IDS, _STEP)
        return compiled(tf.convert_to_tensor(ids, tf.int64), tf.convert_to_tensor(step, tf.float32))

    def write_records(self, start: int, records) -> None:
        self.write_rows(np.arange(start, start + len(records), dtype=np.int64), records)

    def write_rows(self, ids, records) -> None:
        def write(ids, records):
            self.scattered(ids, records, self._cluster.devices[0])
            return tf.constant(True)

        compiled = self.compiled("write", write, _IDS, tf.TensorSpec([None, self.width], tf.float32))
        compiled(tf.convert_to_tensor(ids, tf.int64), tf.convert_to_tensor(records, tf.float32))

    def touched_since(self, step: int) -> np.ndarray:
        def touched(start, step):
            found = []
            for k, (shard, device) in enumerate(zip(self.shards, self._cluster.devices, strict=True)):
                with tf.device(device):
                    stop = tf.minimum(start + CHUNK_ROWS, shard.rows)
                    last = shard.last_steps(tf.range(start, tf.maximum(stop, start)))
                    local = start + tf.where(last > tf.identity(step))[:, 0]
                    found.append(local * self._cluster.count + k)
            return tf.concat([tf.identity(ids) for ids in found], axis=0)

        compiled = self.compiled("touched", touched, _NUMBER, _STEP)
        found = [np.zeros(0, np.int64)]
        for start in range(0, self.shards[0].rows, CHUNK_ROWS):  # the first host has the most rows
            found.append(compiled(tf.constant(start, tf.int64), tf.constant(step, tf.float32)).numpy())
        return np.sort(np.concatenate(found))

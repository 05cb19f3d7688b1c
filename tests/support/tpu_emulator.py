"""TPU embedding engines emulated on the CPU, for whole runs without a TPU.

Tables are laid out by TensorFlow's own TPUEmbedding and TPUEmbeddingV2, built for a slice that does not
exist; variables on the CPU play the chips' memory. Rows are updated by formulas written here, from
TensorFlow's description of the engines, not by the project's optimizers.

    python -m tests.support.tpu_emulator 4 train --config run.yaml    # the command, on 4 replicas
"""

import contextlib
import sys
from unittest import mock

import numpy as np
import tensorflow as tf
from tensorflow.python.tpu import tpu
from tensorflow.python.tpu.ops import tpu_ops

from configs.rules import tpu as tpu_rules
from configs.system.tpu import tpu_slice
from tests.support.tpu_topology import fake_strategy
from trainer import cli
from trainer.tpu.engines import TPU_ENGINES
from trainer.tpu.engines.sparse_core import SparseCoreEngine
from trainer.tpu.engines.tpu_embedding import TpuEmbeddingEngine
from trainer.training.replicas import logical_replicas

API = tf.tpu.experimental.embedding


class _Emulated:
    """Lookups and updates of the rows of all replicas at once; subclasses say where they are kept."""

    slice_name: str

    def feed(self, ids):
        return ids

    def lookup(self, fed):
        return {name: self._rows(name, "parameters", ids)[0] for name, ids in fed.items()}, fed

    def apply(self, gradients, looked_up):
        context = tf.distribute.get_replica_context()
        rates = {name: table.optimizer.learning_rate for name, table in self.tables.items()}
        rates = {name: tf.convert_to_tensor(r() if callable(r) else r) for name, r in rates.items()}
        context.merge_call(self._update, args=(gradients, looked_up, rates))

    def _update(self, strategy, gradients, looked_up, rates):
        for name, table in self.tables.items():
            ids = tf.concat(strategy.experimental_local_results(looked_up[name]), 0)
            gradient = tf.concat(strategy.experimental_local_results(gradients[name]), 0)
            rate = strategy.experimental_local_results(rates[name])[0]
            unique, where = tf.unique(ids)
            summed = tf.math.unsorted_segment_sum(gradient, where, tf.size(unique))
            found = [self._rows(name, part, unique) for part in self.parts(name)]
            after = engine_update(table.optimizer, [rows for rows, _ in found], summed, rate)
            for (_, put), values in zip(found, after, strict=True):
                put(values)


def engine_update(optimizer, before, gradient, rate):
    """Rows [weight, *slots] after a step of the engine, each float32 [n, dim]."""
    weight, *slots = before
    if isinstance(optimizer, API.SGD):
        return [weight - rate * gradient]
    if isinstance(optimizer, API.Adagrad):
        total = slots[0] + gradient**2
        return [weight - rate * gradient / tf.sqrt(total), total]
    if isinstance(optimizer, API.FTRL):
        power, before = -optimizer.learning_rate_power, slots[0]
        total = before + gradient**2
        linear = slots[1] + gradient - (total**power - before**power) / rate * weight
        l1, l2 = optimizer.l1_regularization_strength, optimizer.l2_regularization_strength
        shrunk = tf.clip_by_value(linear, -l1, l1) - linear
        return [shrunk / ((total**power + optimizer.beta) / rate + 2 * l2), total, linear]
    assert isinstance(optimizer, API.Adam) and not optimizer.sum_inside_sqrt and optimizer.lazy_adam
    m = optimizer.beta_1 * slots[0] + (1 - optimizer.beta_1) * gradient
    v = optimizer.beta_2 * slots[1] + (1 - optimizer.beta_2) * gradient**2
    return [weight - rate * m / (tf.sqrt(v) + optimizer.epsilon), m, v]


class EmulatedTpuEmbedding(_Emulated, TpuEmbeddingEngine):
    """v2, v3, v4: the hosts' copy of the tables plays the chips' memory."""

    def build(self):
        running, self.strategy = self.strategy, fake_strategy(self.slice_name)
        # Set-up of a chip.
        with (
            mock.patch.object(tpu_ops, "is_tpu_embedding_initialized", lambda *_: False),
            mock.patch.object(tpu, "initialize_system_for_tpu_embedding", lambda *_: None),
        ):
            super().build()
        self.strategy = running

    def _make(self):
        embedding = super()._make()
        embedding._hosts = ["/device:CPU:0"] * self.strategy.extended.num_hosts
        # Copies between a chip and the host.
        embedding._load_variables = embedding._retrieve_variables = lambda: None
        return embedding

    def _rows(self, name, part, ids):
        shards = self._shards(name, part)
        table = tf.concat([tf.convert_to_tensor(shard) for shard in shards], axis=0)

        def put(values):
            parts = tf.split(
                tf.tensor_scatter_nd_update(table, ids[:, None], values), [s.shape[0] for s in shards]
            )
            for shard, rows in zip(shards, parts, strict=True):
                shard.assign(rows)

        return tf.gather(table, ids), put


class EmulatedSparseCores(_Emulated, SparseCoreEngine):
    """v5p, v6e: a variable on the CPU, the chips' rows in the real layout, plays their memory."""

    def build(self):
        running, self.strategy = self.strategy, fake_strategy(self.slice_name)
        super().build()
        self.strategy = running

    def _allocate(self):
        self._memory = {
            (name, part): tf.Variable(
                tf.zeros([layout.chips * layout.chip_shape[0], layout.width]), trainable=False
            )
            for name, layout in self._layouts.items()
            for part in self.parts(name)
        }

    def _get_chips(self, name, part):
        return np.split(self._memory[name, part].numpy(), self._layouts[name].chips)

    def _set_chips(self, name, part, chips):
        self._memory[name, part].assign(np.concatenate(chips))

    def _rows(self, name, part, ids):
        memory, layout = self._memory[name, part], self._layouts[name]
        chip, row = layout.places(np.arange(self.tables[name].rows))
        places = tf.gather(tf.constant(chip * layout.chip_shape[0] + row), ids)

        def put(values):
            padded = tf.pad(values, [[0, 0], [0, layout.width - layout.dim]])
            memory.scatter_nd_update(places[:, None], padded)

        return tf.gather(memory, places)[:, : layout.dim], put


def emulated(name: str) -> type:
    """The engine of a slice."""
    base = EmulatedSparseCores if tpu_slice(name).sparse_cores else EmulatedTpuEmbedding
    return type(f"{base.__name__}_{name}", (base,), {"slice_name": name})


def replicas_here(count: int):
    """The strategy that runs an emulated TPU's replicas on logical CPU devices, which must be there."""
    return logical_replicas(count) if count > 1 else tf.distribute.get_strategy()


@contextlib.contextmanager
def emulated_tpu(replicas: int = 1, small_rows: int = 0):
    """Inside, runs with `device.kind: tpu` train on emulated tables, laid out as on their slice.

    Args:
      replicas: their number.
      small_rows: as TENSORCORE_ROWS of configs.rules.tpu; with 0, the tiny tables of tests are in the engine.
    """

    def connect(device):
        engine = emulated(device.slice)
        for kind in TPU_ENGINES:
            TPU_ENGINES[kind] = engine
        return replicas_here(replicas)

    with (
        mock.patch.dict(TPU_ENGINES),
        mock.patch("trainer.training.build.connect_tpu", connect),
        mock.patch.object(tpu_rules, "TENSORCORE_ROWS", small_rows),
    ):
        yield


def main() -> None:
    """The command of the same name, with an emulated TPU; the first argument is its number of replicas."""
    replicas = int(sys.argv.pop(1))
    processor = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(processor, devices)
    with emulated_tpu(replicas, tpu_rules.TENSORCORE_ROWS):
        cli.main()


if __name__ == "__main__":
    main()

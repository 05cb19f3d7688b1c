"""The part of the training step that runs on one TPU replica, as a function that can be compiled anywhere."""

import contextlib
from unittest import mock

import tensorflow as tf
from tensorflow.python.distribute import tpu_strategy, tpu_util
from tensorflow.python.tpu import tpu_function, tpu_replication

from tests.tpu_topology import fake_strategy


class SliceStandIn:
    """What TpuStep asks of a strategy. Variables are made on this machine, collectives are TPUStrategy's own.

    Args:
      name: of the slice, such as v4-8.
    """

    def __init__(self, name: str):
        self.real = fake_strategy(name)
        self.num_replicas_in_sync = self.real.num_replicas_in_sync

    def scope(self):
        """Devices of the slice do not exist: nothing may be made on them."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def replica(self, index):
        """Inside a traced function: everything runs as on replica `index`, an int32 scalar."""
        inside = object()  # only compared with None
        with (
            mock.patch.object(tpu_util, "enclosing_tpu_context", lambda: inside),
            # What runs on the host is given to the function as arguments.
            mock.patch.object(tpu_replication, "outside_compilation", _given),
            tpu_function.tpu_shard_context(self.num_replicas_in_sync),
            tpu_strategy._TPUReplicaContext(self.real, index),
        ):
            yield


def _given(computation, partitioned_tensors):
    return partitioned_tensors


class HandedOver:
    """An engine whose rows are arguments and whose gradients are results: the step without its tables.

    Args:
      tables, strategy: as trainer.engines.base.Engine.

    Attributes:
      gradients: of the latest `apply`, by table.
    """

    def __init__(self, tables, strategy):
        self.tables, self.gradients = tables, None

    def build(self):
        """Nothing to make."""

    def lookup(self, fed):
        """`fed` are the rows."""
        return fed, None

    def apply(self, gradients, looked_up):
        """Keeps them."""
        self.gradients = gradients

    def arguments(self) -> dict:
        """tf.TensorSpec of what `lookup` takes."""
        return {name: tf.TensorSpec([table.ids, table.dim]) for name, table in self.tables.items()}

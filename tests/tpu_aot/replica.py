"""A TPU replica that does not exist, inside a traced function: the collectives are TPUStrategy's own."""

import contextlib
from unittest import mock

from tensorflow.python.distribute import tpu_strategy, tpu_util
from tensorflow.python.tpu import tpu_function, tpu_replication

from tests.support.tpu_topology import fake_strategy


class SliceStandIn:
    """What TpuStep asks of a strategy when it is made; variables stay on this machine.

    Args:
      name: of the slice, such as v4-8.

    Attributes:
      real: the slice's TPUStrategy.
    """

    def __init__(self, name: str):
        self.real = fake_strategy(name)
        self.num_replicas_in_sync = self.real.num_replicas_in_sync

    def scope(self):
        """Devices of the slice do not exist: nothing may be made on them."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def replica(self, index):
        """In a function that is being traced: inside, all is as on replica `index`, an int32 scalar."""
        here = object()  # TensorFlow only asks whether there is any
        with (
            mock.patch.object(tpu_util, "enclosing_tpu_context", lambda: here),
            # What the host would send over is an argument of the function.
            mock.patch.object(
                tpu_replication, "outside_compilation", lambda _, partitioned_tensors: partitioned_tensors
            ),
            tpu_function.tpu_shard_context(self.num_replicas_in_sync),
            tpu_strategy._TPUReplicaContext(self.real, index),
        ):
            yield

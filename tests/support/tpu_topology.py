"""A real TPUStrategy over TPU cores that do not exist: enough to build tables and trace programs."""

import tensorflow as tf
from tensorflow.core.protobuf.tpu import topology_pb2
from tensorflow.python.tpu import tpu_system_metadata

from configs.system.tpu import Slice, tpu_slice


class FakeResolver(tf.distribute.cluster_resolver.ClusterResolver):
    """Answers as the TPU system of a slice would.

    Args:
      slice_: the slice; its hosts are the tasks of one job.
    """

    def __init__(self, slice_: Slice):
        self._slice = slice_
        feature = topology_pb2.TPUHardwareFeature
        version = feature.EmbeddingFeature.V2 if slice_.sparse_cores else feature.EmbeddingFeature.V1
        self.tpu_hardware_feature = feature(
            embedding_feature=version, num_embedding_devices_per_chip=slice_.sparse_cores
        )

    def get_tpu_system_metadata(self):
        slice_, each = self._slice, self._slice.replicas // self._slice.hosts
        job = "localhost" if slice_.hosts == 1 else "worker"
        devices = [
            tf.config.LogicalDevice(f"/job:{job}/replica:0/task:{task}/device:{kind}:{i}", kind)
            for task in range(slice_.hosts)
            for kind, number in (("CPU", 1), ("TPU", each))
            for i in range(number)
        ]
        return tpu_system_metadata.TPUSystemMetadata(slice_.replicas, slice_.hosts, each, None, devices)

    def master(self, task_type=None, task_id=None, rpc_layer=None):
        return ""

    def cluster_spec(self):
        return None

    def num_accelerators(self, task_type=None, task_id=None, config_proto=None):
        return {"TPU": self._slice.replicas // self._slice.hosts}

    def get_job_name(self):
        return "localhost"


def fake_strategy(name: str) -> tf.distribute.TPUStrategy:
    """The strategy of a slice, such as v4-32."""
    return tf.distribute.TPUStrategy(FakeResolver(tpu_slice(name)))

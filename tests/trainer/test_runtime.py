"""Pipelines of tf.data whose iterators end at once, and threads of hosts that answer while they compute."""

import os

import pytest
import tensorflow as tf

from configs.sections.devices import ClusterDeviceConfig
from tests.support.tiny_dataset import write_dataset
from tests.trainer.data.test_catalog import random_rows
from trainer.data.batches import TrainData
from trainer.runtime import options_of_host, start_tensorflow, untuned

pytestmark = pytest.mark.any_python


def test_no_thread_tunes_a_pipeline():
    data = untuned(tf.data.Dataset.range(5).map(lambda x: 2 * x, num_parallel_calls=2).prefetch(2))
    assert data.options().autotune.enabled is False
    assert list(data.as_numpy_iterator()) == [0, 2, 4, 6, 8]


def test_none_tunes_the_input_of_training(tmp_path):
    rows = random_rows(5, users=40, items=35, number=500)
    data = TrainData(write_dataset(str(tmp_path), rows, block_rows=16), 32, seed=1)
    assert data.batches(3).enumerate().options().autotune.enabled is False


@pytest.mark.parametrize(("cores", "at_a_time", "spinning"), [(1, 2, False), (2, 2, True), (16, 16, True)])
def test_a_host_answers_while_it_computes(monkeypatch, cores, at_a_time, spinning):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    options = options_of_host(3)
    assert options.intra_op_parallelism_threads == 3
    assert options.inter_op_parallelism_threads == at_a_time
    assert options.experimental.disable_thread_spinning is not spinning


def test_a_driver_may_begin_where_tensorflow_has_started(monkeypatch):
    """Its threads stay as they are: TensorFlow refuses to change them."""
    monkeypatch.setenv("TF_GRPC_DEFAULT_OPTIONS", "")  # which is set for the process
    assert tf.constant(1).numpy() == 1
    before = tf.config.threading.get_inter_op_parallelism_threads()
    device = ClusterDeviceConfig(kind="cluster", hosts=["127.0.0.1:1", "127.0.0.1:2"])
    start_tensorflow(device, deterministic=False)
    assert tf.config.threading.get_inter_op_parallelism_threads() == before

"""The host's copies of engine tables, on several topologies; the engines' settings."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.tpu_emulator import emulated
from trainer.tpu.engines.base import EngineTableSpec

pytestmark = pytest.mark.any_python

API = tf.tpu.experimental.embedding
SLICES = ["v2-8", "v4-32", "v5p-8", "v6e-4"]


def made(name: str, rows: int = 37, dim: int = 6, ids: int = 8):
    adam = API.Adam(0.1, sum_inside_sqrt=False, lazy_adam=True)
    tables = {"t": EngineTableSpec(rows, dim, adam, ids), "small": EngineTableSpec(2, dim, API.SGD(1.0), ids)}
    engine = emulated(name)(tables, tf.distribute.get_strategy())
    engine.build()
    return engine


@pytest.mark.parametrize("name", SLICES)
def test_rows_written_before_the_load_are_read_after_a_retrieve(name):
    engine, rng = made(name), np.random.default_rng(0)
    ids = rng.permutation(37)
    assert engine.parts("t") == ["parameters", "momenta", "velocities"] and engine.parts("small") == [
        "parameters"
    ]
    written = {part: rng.normal(size=(37, 6)).astype(np.float32) for part in engine.parts("t")}
    for part, values in written.items():
        engine.write("t", part, ids[:20], values[:20])
        engine.write("t", part, ids[20:], values[20:])
    engine.write("small", "parameters", np.array([1]), np.full((1, 6), 2, np.float32))
    engine.load()
    engine.retrieve()
    for part, values in written.items():
        np.testing.assert_array_equal(engine.read("t", part, ids), values)
    np.testing.assert_array_equal(
        engine.read("small", "parameters", np.array([1, 0, 1])), [[2] * 6, [0] * 6, [2] * 6]
    )
    engine.release()


def test_sparse_cores_have_no_copy_on_the_host_while_they_train():
    engine = made("v6e-4")
    engine.load()
    for act in (
        lambda: engine.read("t", "parameters", np.array([0])),
        lambda: engine.write("t", "parameters", np.array([0]), np.zeros((1, 6), np.float32)),
    ):
        with pytest.raises(RuntimeError, match="table t: the host has no copy of it; call retrieve first"):
            act()


def test_hosts_hold_ranges_of_rows_even_when_there_are_more_hosts_than_rows():
    engine = made("v4-32")
    assert [s.shape[0] for s in engine._shards("t", "momenta")] == [10, 9, 9, 9]
    assert [s.shape[0] for s in engine._shards("small", "parameters")] == [1, 1]


@pytest.mark.parametrize(("name", "cores"), [("v5p-8", 4), ("v6e-4", 2)])
def test_buffers_of_sparse_cores_are_for_the_worst_case(name, cores):
    embedding = made(name)._embedding
    for most in (
        embedding._table_to_max_ids_per_sparse_core,
        embedding._table_to_max_unique_ids_per_sparse_core,
    ):
        assert most == {"t": 8 // cores, "small": 8 // cores}
    assert embedding._num_sc_per_chip == cores
    assert not embedding._pipelining and not embedding._sparse_core_embedding_config.allow_id_dropping


def test_rows_of_the_first_engine_are_not_one_step_old():
    config = made("v4-8")._embedding._config_proto
    assert not config.pipeline_execution_with_tensor_core
    assert [t.vocabulary_size for t in config.table_descriptor] == [2, 37]

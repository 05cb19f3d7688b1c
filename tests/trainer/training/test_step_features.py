"""Training steps with features of every kind and dropped ids: TPU as CPU, replicas as one, kernels as
TensorFlow's ops, and exact averages."""

import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.feature_dataset import write_features
from tests.support.feature_worlds import every_kind, raw_world
from tests.support.tpu_emulator import emulated
from trainer.data.catalog import Items
from trainer.embeddings.engines.tpu import TpuTable
from trainer.models.recommender import Recommender
from trainer.training.build import drawn_items, train_data
from trainer.training.step import TrainStep
from trainer.training.steps.tpu_step import TpuStep

pytestmark = pytest.mark.any_python

STEPS = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("steps"))
    write_features(config_of(directory), raw_world())
    return directory


def config_of(root: str, engine: str = "auto", **sections):
    document = every_kind(root) | sections
    document["polyak"] = {"decay": 0.9, "start_fraction": 0.1}
    # A softmax does not see what is added to all items: rounding alone would move a bias.
    document["model"] |= {"item_bias": False}
    document["model"]["user_tower"] |= {"id_dropout": 0.3}
    document["model"]["item_tower"] |= {"activation": "tanh", "layers": [12, 8], "id_dropout": 0.3}
    config = parse_config(document, "test")
    names = sorted(config.tables)
    document["tables"] = {name: document["tables"].get(name, {}) | {"engine": engine} for name in names}
    return parse_config(document, "test")


class Run:
    """Losses and final rows of a run of some steps, and the rows of table `watch` after each of them."""

    def __init__(self, config, tpu: str | None = None, watch: str = ""):
        dataset = load_dataset(config.dataset.path)
        items = Items.load(dataset)
        table_type = TpuTable if tpu else None
        drawn = drawn_items(config, items)
        self.recommender = Recommender(config, dataset, items.table_counts, STEPS, table_type, drawn)
        self.step = TrainStep(config, self.recommender, STEPS)
        if tpu:
            strategy = tf.distribute.get_strategy()
            self.step = TpuStep(config, self.recommender, STEPS, strategy, emulated(tpu))
        self.recommender.initialize()
        self.step.send_rows()
        batches = self.step.batches(train_data(config, dataset, items), 0)
        step = tf.function(self.step)
        self.losses, self.weights = [], []
        for batch in itertools.islice(batches, STEPS):
            self.losses.append(float(step(batch)[0]))
            if watch:
                self.weights.append(self.rows(watch, averaged=False))
        with self.step.readable_rows():
            tables = self.recommender.tables
            self.tables = {name: self.rows(name, averaged=True) for name in tables}
        self.dense = [variable.numpy() for variable in self.recommender.dense_variables]

    def rows(self, name: str, averaged: bool) -> np.ndarray:
        table = self.recommender.tables[name]
        return np.array(table.read_weights(np.arange(table.rows), averaged, float(STEPS)))


@pytest.fixture(scope="module")
def native(root):
    return Run(config_of(root), watch="tags")


def assert_equal(one: Run, other: Run):
    np.testing.assert_allclose(one.losses, other.losses, rtol=2e-5)
    for name, rows in one.tables.items():
        np.testing.assert_allclose(rows, other.tables[name], atol=2e-5, err_msg=name)
    for own, others in zip(one.dense, other.dense, strict=True):
        np.testing.assert_allclose(own, others, atol=2e-5)


@pytest.mark.parametrize("engine", [pytest.param("v4-8", marks=pytest.mark.slow), "v6e-4"])
def test_a_tpu_pools_and_trains_as_the_cpu(root, native, engine):
    assert_equal(Run(config_of(root), engine), native)


# A process of its own, because logical devices must be there before TensorFlow starts.
REPLICAS = """
import pickle, sys
from configs.sections.devices import CpuDeviceConfig
from tests.trainer.training.test_step_features import Run, config_of
from trainer.runtime import start_tensorflow
start_tensorflow(CpuDeviceConfig(replicas=2), deterministic=False)
run = Run(config_of(sys.argv[1], device={"replicas": 2}))
assert run.step._replicas is not None
with open(sys.argv[2], "wb") as file:
    pickle.dump((run.losses, run.tables, run.dense), file)
"""


@pytest.mark.slow
def test_replicas_train_as_one(root, native, tmp_path):
    command = [sys.executable, "-c", REPLICAS, root, str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = Run.__new__(Run)
    with open(tmp_path / "found", "rb") as file:
        found.losses, found.tables, found.dense = pickle.load(file)
    assert_equal(found, native)


def test_rows_engine_trains_as_the_kernels(root, native):
    assert_equal(Run(config_of(root, "rows")), native)


def test_averages_of_shared_bags_are_those_of_every_step(native):
    average = native.recommender.average
    expected, start = None, average.start_step
    for number, weights in enumerate(native.weights, 1):
        if expected is None or number <= start:
            expected = weights
        else:
            expected = average.decay * expected + (1 - average.decay) * weights
    assert np.abs(native.weights[-1] - native.weights[0]).max() > 1e-4
    np.testing.assert_allclose(native.tables["tags"], expected, atol=1e-6)

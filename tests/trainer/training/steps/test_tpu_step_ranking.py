"""Ranking models on a TPU, its engines emulated, and small tables on its TensorCores: all as on the CPU."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.feature_dataset import write_features
from tests.support.feature_worlds import every_kind, raw_world
from tests.support.ranking_dataset import click_rows, ranking_document, write_clicks
from tests.support.tpu_emulator import emulated, replicas_here
from trainer.data.catalog import Items
from trainer.embeddings.engines.tensorcore import TensorCoreTable
from trainer.embeddings.engines.tpu import TpuTable
from trainer.models.recommender import Recommender
from trainer.training.build import train_data
from trainer.training.step import TrainStep
from trainer.training.steps.tpu_step import TpuStep

pytestmark = pytest.mark.any_python

STEPS, CUT = 12, 5
CLICK, BUY = {"name": "click"}, {"name": "buy", "label": "buy", "where": "label"}
DOT = {"interaction": {"kind": "dot"}, "top": [12, 8]}
CROSS = {"interaction": {"kind": "cross", "layers": 2, "rank": 4}, "top": [12, 8]}
MODELS = {
    "dot": DOT | {"tasks": [CLICK]},
    "cross, dropout": CROSS | {"tasks": [CLICK, BUY], "dropout": 0.2},
    "parallel": {"interaction": {"kind": "cross", "structure": "parallel"}, "tasks": [CLICK], "top": [8]},
    "mmoe": {"interaction": {"kind": "none"}, "sharing": {"kind": "mmoe", "experts": 2}, "top": [8]}
    | {"tasks": [CLICK, BUY | {"loss": "mse", "weight": 0.5}]},
    "esmm": DOT | {"sharing": {"kind": "esmm"}, "tasks": [CLICK, {"name": "buy", "label": "buy"}]},
}
OPTIMIZERS = {
    "lazy_adam": {},
    "per_row": {"bias_correction": "per_row", "amsgrad": True, "weight_decay": 0.01, "clip_value": 0.01},
    "adam": {"kind": "adam"},
    "adagrad": {"kind": "adagrad", "learning_rate": 0.05},
    "rowwise_adagrad": {"kind": "rowwise_adagrad", "learning_rate": 0.05},
    "sgd": {"kind": "sgd", "learning_rate": 0.5},
    "momentum": {"kind": "momentum", "nesterov": True},
    "ftrl": {"kind": "ftrl", "l1": 0.001, "l2_shrinkage": 0.01},
    "sm3": {"kind": "sm3", "momentum": 0.5, "beta": 0.9},
}
ENGINE = dict.fromkeys(("c0", "c1", "c2", "tags"), TpuTable)
SMALL = dict.fromkeys(ENGINE, TensorCoreTable)
MIXED = ENGINE | {"c1": TensorCoreTable, "tags": TensorCoreTable}


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> str:
    root = str(tmp_path_factory.mktemp("clicks"))
    write_clicks(parse_config(ranking_document(root), "test"), click_rows(700))
    return root


@functools.cache
def config_of(root: str, model: str, optimizer: str = "lazy_adam"):
    table = {"dim": 6, "init_stddev": 0.3, "optimizer": OPTIMIZERS[optimizer]}
    polyak = {"decay": 0.9, "start_fraction": 0.1}
    document = ranking_document(root, MODELS[model], tables=dict.fromkeys(ENGINE, table), polyak=polyak)
    return parse_config(document, "test")


class Run:
    """A run of some steps, on the CPU's step or on an emulated slice's.

    Args:
      config: of the run.
      kinds: class of each table; empty: the CPU's.
      engine: slice whose engine is emulated.
      start: state to go on from, as `state` gives it.
      steps: where to stop.
      replicas: logical devices.
    """

    def __init__(self, config, kinds=None, engine="v4-32", start=None, steps=STEPS, replicas=1):
        dataset = load_dataset(config.dataset.path)
        items = Items.load(dataset)
        table_type = (lambda name, *args: kinds[name](name, *args)) if kinds else None
        strategy = replicas_here(replicas)
        with strategy.scope():
            self.recommender = Recommender(config, dataset, items.table_counts, STEPS, table_type)
        if kinds:
            self.step = TpuStep(config, self.recommender, STEPS, strategy, emulated(engine))
        else:
            self.step = TrainStep(config, self.recommender, STEPS)
        self._begin(start)
        first = int(self.step.step)
        batches = self.step.batches(train_data(config, dataset, items), first)
        step = tf.function(self.step)
        self.losses = [float(step(batch)[0]) for batch in itertools.islice(batches, steps - first)]
        self.state = {name: variable.numpy() for name, variable in self.step.dense_state.items()}
        with self.step.readable_rows():
            for name, table in self.recommender.tables.items():
                self.state[f"table {name}"] = np.array(table.read_records(np.arange(table.rows)))
                self.state[f"average {name}"] = np.array(
                    table.read_weights(np.arange(table.rows), True, float(steps))
                )

    def _begin(self, start) -> None:
        self.recommender.initialize()
        for name, variable in (self.step.dense_state if start else {}).items():
            variable.assign(start[name])
        for name, table in (self.recommender.tables if start else {}).items():
            table.write_records(0, start[f"table {name}"])
        self.step.send_rows()


@functools.cache
def on_cpu(root: str, model: str, optimizer: str = "lazy_adam") -> Run:
    return Run(config_of(root, model, optimizer))


def assert_close(got: Run, expected: Run) -> None:
    np.testing.assert_allclose(got.losses, expected.losses[-len(got.losses) :], rtol=2e-5)
    assert got.state.keys() == expected.state.keys()
    for name, value in expected.state.items():
        np.testing.assert_allclose(got.state[name], value, rtol=5e-5, atol=5e-6, err_msg=name)


def some(names, fast) -> list:
    """All names, those that are not `fast` marked as slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("model", MODELS)
def test_half_of_the_tables_in_the_engine(clicks, model):
    assert_close(Run(config_of(clicks, model), MIXED, "v6e-4"), on_cpu(clicks, model))


@pytest.mark.parametrize("model", some(MODELS, ["cross, dropout"]))
def test_all_tables_in_the_engine(clicks, model):
    assert_close(Run(config_of(clicks, model), ENGINE, "v4-32"), on_cpu(clicks, model))


@pytest.mark.parametrize("optimizer", some(OPTIMIZERS, ["per_row", "adam", "sm3"]))
def test_every_optimizer_trains_a_small_table_as_the_cpu(clicks, optimizer):
    run = Run(config_of(clicks, "dot", optimizer), SMALL)
    assert run.step._engine.tables == {}
    assert_close(run, on_cpu(clicks, "dot", optimizer))


def test_a_lazy_optimizer_leaves_other_rows_alone(clicks):
    config = config_of(clicks, "dot")
    run = Run(config, SMALL, steps=1)
    expected = Run(config, steps=1)
    for name in ENGINE:
        last = run.state[f"table {name}"][:, -1]
        np.testing.assert_array_equal(last, expected.state[f"table {name}"][:, -1])
    rows = run.state["table c0"]
    assert (rows[:, -1] == 0).any() and not rows[rows[:, -1] == 0, 6:18].any(), "moments are 0"
    assert np.abs(rows[rows[:, -1] == 1, 6:18]).min() > 0


PLACES = {"engine": ENGINE, "small": SMALL, "mixed": MIXED, "cpu": None}
MOVES = ["engine small", "small mixed", "small cpu", "cpu small"]


@pytest.mark.parametrize("move", some(MOVES, ["engine small", "small cpu"]))
def test_a_table_may_move(clicks, move):
    """What is read there is bit for bit what was written here, and the end is that of an undisturbed run."""
    before, after = (PLACES[place] for place in move.split())
    config = config_of(clicks, "cross, dropout")
    saved = Run(config, before, steps=CUT).state
    moved = Run(config, after, start=saved, steps=CUT)
    assert not moved.losses
    for name, value in saved.items():
        np.testing.assert_array_equal(moved.state[name], value, err_msg=name)
    assert_close(Run(config, after, start=saved), on_cpu(clicks, "cross, dropout"))


def test_rows_of_small_tables_are_on_the_chips_while_it_trains(clicks):
    table = Run(config_of(clicks, "dot"), SMALL, steps=1).recommender.tables["c0"]
    with pytest.raises(RuntimeError, match="table c0 has no copy on the host; call retrieve first"):
        table.read_records(np.arange(2))


@pytest.mark.parametrize("engine", some(["v4-8", "v6e-4"], ["v6e-4"]))
def test_features_of_every_kind(tmp_path, engine):
    """Vectors, weighted lists that share a table, buckets, crosses, and the user's history."""
    document = every_kind(str(tmp_path))
    inputs = document["model"]["user_tower"]["inputs"] + document["model"]["item_tower"]["inputs"]
    document["source"]["roles"] = {"user": "user", "item": "item", "label": "label"}
    document["dataset"]["positive"] = "all"
    document["model"] = {"kind": "ranking", "inputs": inputs, "tasks": [CLICK], "top": [12, 8]}
    document["polyak"] = {"decay": 0.9, "start_fraction": 0.1}
    world = raw_world()
    for place, row in enumerate(world.rows):
        row["label"] = float(place % 3 > 0)
    config = parse_config(document, "test")
    write_features(config, world)
    names = sorted(set(config.table_of_input.values()))
    kinds = {name: (TensorCoreTable, TpuTable)[place % 2] for place, name in enumerate(names)}
    assert kinds["tags"] is TensorCoreTable or kinds["item"] is TensorCoreTable, "lists are there too"
    assert_close(Run(config, kinds, engine), Run(config))

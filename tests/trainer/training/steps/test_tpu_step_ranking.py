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
KEPT = (1, CUT, STEPS)
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
PLACES = {"engine": ENGINE, "small": SMALL, "mixed": MIXED, "cpu": None}


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
      replicas: logical devices.

    Attributes:
      losses: of each step.
      states: state at the start and after the steps of KEPT, by step.
      state: at the end.
    """

    def __init__(self, config, kinds=None, engine="v4-32", start=None, replicas=1):
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
        self.losses, self.states = [], {first: self._state(first)}
        for number, batch in enumerate(itertools.islice(batches, STEPS - first), first + 1):
            self.losses.append(float(step(batch)[0]))
            if number in KEPT:
                self.states[number] = self._state(number)
        self.state = self.states[STEPS]

    def _state(self, step: int) -> dict:
        found = {name: variable.numpy() for name, variable in self.step.dense_state.items()}
        with self.step.readable_rows():
            for name, table in self.recommender.tables.items():
                rows = np.arange(table.rows)
                found[f"table {name}"] = np.array(table.read_records(rows))
                found[f"average {name}"] = np.array(table.read_weights(rows, True, float(step)))
        return found

    def _begin(self, start) -> None:
        self.recommender.initialize()
        for name, variable in (self.step.dense_state if start else {}).items():
            variable.assign(start[name])
        for name, table in (self.recommender.tables if start else {}).items():
            table.write_records(0, start[f"table {name}"])
        self.step.send_rows()


@functools.cache
def run_of(root: str, model: str, optimizer: str = "lazy_adam", place: str = "cpu", engine="v4-32") -> Run:
    """An undisturbed run; `place` is a key of PLACES."""
    return Run(config_of(root, model, optimizer), PLACES[place], engine)


def assert_close(got: Run, expected: Run) -> None:
    np.testing.assert_allclose(got.losses, expected.losses[-len(got.losses) :], rtol=2e-5)
    assert got.state.keys() == expected.state.keys()
    for name, value in expected.state.items():
        np.testing.assert_allclose(got.state[name], value, rtol=5e-5, atol=5e-6, err_msg=name)


def some(names, fast) -> list:
    """All names, those that are not `fast` marked as slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("model", some(MODELS, ["dot"]))
def test_half_of_the_tables_in_the_engine(clicks, model):
    assert_close(run_of(clicks, model, place="mixed", engine="v6e-4"), run_of(clicks, model))


@pytest.mark.parametrize("model", some(MODELS, ["cross, dropout"]))
def test_all_tables_in_the_engine(clicks, model):
    assert_close(run_of(clicks, model, place="engine"), run_of(clicks, model))


@pytest.mark.parametrize("optimizer", some(OPTIMIZERS, ["lazy_adam"]))
def test_every_optimizer_trains_a_small_table_as_the_cpu(clicks, optimizer):
    run = run_of(clicks, "dot", optimizer, "small")
    assert run.step._engine.tables == {}
    assert_close(run, run_of(clicks, "dot", optimizer))


def test_a_lazy_optimizer_leaves_other_rows_alone(clicks):
    found, expected = (run_of(clicks, "dot", place=place).states[1] for place in ("small", "cpu"))
    for name in ENGINE:
        last = found[f"table {name}"][:, -1]
        np.testing.assert_array_equal(last, expected[f"table {name}"][:, -1])
    rows = found["table c0"]
    assert (rows[:, -1] == 0).any() and not rows[rows[:, -1] == 0, 6:18].any(), "moments are 0"
    assert np.abs(rows[rows[:, -1] == 1, 6:18]).min() > 0


# The model and optimizer are those that another test trains in the place before.
MOVES = [
    ("cross, dropout", "lazy_adam", "engine", "small"),
    ("dot", "per_row", "small", "cpu"),
    ("cross, dropout", "lazy_adam", "small", "mixed"),
    ("cross, dropout", "lazy_adam", "cpu", "small"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "optimizer", "before", "after"), MOVES)
def test_a_table_may_move(clicks, model, optimizer, before, after):
    """What is read there is bit for bit what was written here, and the end is that of an undisturbed run."""
    saved = run_of(clicks, model, optimizer, before).states[CUT]
    moved = Run(config_of(clicks, model, optimizer), PLACES[after], start=saved)
    for name, value in saved.items():
        np.testing.assert_array_equal(moved.states[CUT][name], value, err_msg=name)
    assert_close(moved, run_of(clicks, model, optimizer))


def test_rows_of_small_tables_are_on_the_chips_while_it_trains(clicks):
    table = run_of(clicks, "dot", place="small").recommender.tables["c0"]
    with pytest.raises(RuntimeError, match="table c0 has no copy on the host; call retrieve first"):
        table.read_records(np.arange(2))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["v4-8", "v6e-4"])
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

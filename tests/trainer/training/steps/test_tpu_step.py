"""The TPU's step, its engines emulated, against the CPU's: the same losses, rows, averages and towers."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import ConfigError
from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.tiny_run import planted_document, write_planted
from tests.support.tpu_emulator import emulated
from trainer.data.bare_dataset import bare_dataset
from trainer.data.batches import TrainData
from trainer.data.catalog import Items
from trainer.embeddings.engines.tpu import TpuTable
from trainer.models.recommender import Recommender
from trainer.training.loop import Every, Loop
from trainer.training.step import TrainStep
from trainer.training.steps.tpu_step import TpuStep

pytestmark = pytest.mark.any_python

STEPS, BATCH, CUT = 40, 64, 15
"""CUT: steps after which the states of all runs are kept."""
TWO_TOWER = {
    "kind": "two_tower",
    "user_tower": {"inputs": ["user", "history"], "layers": [12, 8], "dropout": 0.2},
    "item_tower": {"inputs": ["item"], "layers": [12, 8]},
    # A softmax does not see what is added to all items: without normalize rounding alone moves a bias.
    "normalize": True,
    "loss": {"temperature": 0.2},
}
ROWS_ONLY = {
    "kind": "two_tower",
    "user_tower": {"inputs": ["user", "history"], "combine": "sum"},
    "item_tower": {"inputs": ["item"]},
    "history": {"pooling": "mean"},
    "normalize": False,
    "item_bias": True,
}
EXTRA = TWO_TOWER | {
    # Of a normalized item that a single unit of relu is alive for, all is rounding, too.
    "item_tower": {"inputs": ["item"], "layers": [12, 8], "activation": "tanh", "dropout": 0.2},
    "loss": {"temperature": 0.2, "extra_negatives": 32},
}
SEQUENCE = {
    "kind": "two_tower",
    "user_tower": {"inputs": ["history"], "sequence": {"heads": 2, "dropout": 0.2}},
    "normalize": True,
    "loss": {"temperature": 0.2, "extra_negatives": 32},
}
CASES = {
    "two_tower": {"model": TWO_TOWER},
    "extra negatives": {"model": EXTRA},
    "dot_bias": {"model": {"kind": "dot_bias", "negatives": 3}},
    "uniform": {"model": ROWS_ONLY | {"history": {"pooling": "sqrtn"}}, "item_dim": 9, "polyak": "uniform"},
    "no averages": {"model": TWO_TOWER | {"history": {"pooling": "sum"}}, "polyak": "none"},
    # With padding of the history, whose row is looked up like any other.
    "adagrad, history": {"model": ROWS_ONLY, "item_dim": 9, "optimizer": {"kind": "adagrad"}},
    "ftrl": {"model": ROWS_ONLY, "item_dim": 9, "optimizer": {"kind": "ftrl", "l2": 0.01}},
    "sgd": {"model": TWO_TOWER, "optimizer": {"kind": "sgd", "learning_rate": 0.5}},
    # Adam magnifies the rounding of gradients that are sums over many positions.
    "sequence": {"model": SEQUENCE | {"item_bias": True}, "item_dim": 9, "atol": 2e-5},
    "sequence, gbce": {"model": SEQUENCE | {"item_bias": False, "loss": {"kind": "gbce", "negatives": 4}}},
}
# An engine decides where rows lie and how each optimizer updates them, those of averages among them; the rest
# is the step's, whichever engine there is.
ENGINES = {
    "v4-32": ["two_tower", "uniform", "no averages", "adagrad, history", "ftrl", "sgd", "sequence"],
    "v5p-8": ["two_tower"],
    "v6e-4": ["extra negatives", "dot_bias", "uniform", "adagrad, history", "ftrl", "sgd", "sequence, gbce"],
}
FAST = ["two_tower", "dot_bias"]
assert {case for cases in ENGINES.values() for case in cases} == {*CASES}


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> str:
    root = str(tmp_path_factory.mktemp("step"))
    write_planted(root)
    return root


def config_of(root: str, case: dict):
    document = planted_document(root)
    document["model"] = case["model"]
    document["polyak"] = {
        "exponential": {"kind": "exponential", "decay": 0.9, "start_fraction": 0.1},
        "uniform": {"kind": "uniform", "start_fraction": 0.3},
        "none": {"kind": "none"},
    }[case.get("polyak", "exponential")]
    for table in document["tables"].values():
        table["optimizer"] |= case.get("optimizer", {})
    document["tables"]["item"]["dim"] = case.get("item_dim", 8)
    if case["model"].get("user_tower", {}).get("sequence"):
        del document["tables"]["user"]
    return parse_config(document, "test")


class Trained:
    """A run of the loop over some steps, on the CPU's step or an emulated slice's.

    Attributes:
      losses: of its loops.
      skipped: steps of batches that were not finite.
      kept: states after CUT steps and their multiples, by step.
    """

    def __init__(self, config, engine: str | None = None):
        self.config, dataset = config, load_dataset(config.dataset.path)
        counts = Items.load(dataset).counts
        if engine is None:
            self.recommender = Recommender(config, dataset, counts, STEPS)
            self.step = TrainStep(config, self.recommender, STEPS)
        else:
            self.recommender = Recommender(config, dataset, counts, STEPS, TpuTable)
            strategy = tf.distribute.get_strategy()
            self.step = TpuStep(config, self.recommender, STEPS, strategy, emulated(engine))
        self._data = TrainData(dataset, BATCH, config.train.seed)
        self.losses, self.skipped, self.kept = [], [], {}

    def fresh(self):
        self.recommender.initialize()
        self.step.send_rows()
        return self

    def take(self, state: dict):
        for name, variable in self.step.dense_state.items():
            variable.assign(state[name])
        for name, table in self.recommender.tables.items():
            table.write_records(0, state[f"table {name}"])
        self.step.send_rows()
        return self

    def train(self, until: int):
        batches = self.step.batches(self._data, int(self.step.step))
        loop = Loop(self.step, batches, until, 5)
        keep = Every(CUT, lambda step: self.kept.setdefault(step, self.state()))
        loop.run(lambda step, steps, loss: self.losses.append(loss), [keep], self.skipped.append)
        return self

    def state(self) -> dict:
        found = {name: variable.numpy() for name, variable in self.step.dense_state.items()}
        with self.step.readable_rows():
            for name, table in self.recommender.tables.items():
                found[f"table {name}"] = np.asarray(table.read_records(np.arange(table.rows)))
        return found


@functools.cache
def undisturbed(root: str, case: str, engine: str | None = None) -> Trained:
    """A run to the end, on the CPU unless an engine is given."""
    return Trained(config_of(root, CASES[case]), engine).fresh().train(STEPS)


def assert_close(got: dict, expected: dict, atol=2e-6) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("case", "engine"),
    [
        pytest.param(case, engine, marks=[] if case in FAST else [pytest.mark.slow])
        for engine, cases in ENGINES.items()
        for case in cases
    ],
)
def test_the_tpus_step_is_the_cpus(planted, case, engine):
    cpu, tpu = undisturbed(planted, case), undisturbed(planted, case, engine)
    assert not tpu.skipped
    np.testing.assert_allclose(tpu.losses, cpu.losses, rtol=1e-5)
    assert_close(tpu.state(), cpu.state(), CASES[case].get("atol", 2e-6))


@pytest.mark.parametrize(
    ("case", "before", "after"),
    [
        ("two_tower", "v4-32", "v4-16"),
        pytest.param("uniform", "v4-32", "v6e-4", marks=pytest.mark.slow),
        ("two_tower", "v5p-8", "v2-8"),
        ("two_tower", "v4-32", None),
        ("uniform", None, "v6e-4"),
    ],
)
def test_a_run_goes_on_elsewhere(planted, case, before, after):
    """What is read there is bit for bit what was written here, and the end is that of an undisturbed run."""
    saved = undisturbed(planted, case, before).kept[CUT]
    moved = Trained(config_of(planted, CASES[case]), after).take(saved)
    for name, value in moved.state().items():
        np.testing.assert_array_equal(value, saved[name], err_msg=name)
    assert_close(moved.train(STEPS).state(), undisturbed(planted, case).state())


def test_a_batch_that_is_not_finite_is_named_by_its_step(planted):
    config = config_of(planted, CASES["two_tower"])
    run = Trained(config, "v4-8").fresh()
    run.step._recommender.model.loss = spoiled(run.step._recommender.model.loss, 7)
    run.train(10)
    assert run.skipped[0] == 7 and int(run.step.guard.skipped) == 1
    assert "the loss" in run.step.guard.latest
    # The loop ends by itself only where each step is checked; the losses before the bad one count.
    assert len(run.losses) >= 2 and np.isfinite(run.losses[:2]).all()


def spoiled(loss_of, step):
    return lambda rows, columns, now, share: tf.where(
        now == step, float("nan"), loss_of(rows, columns, now, share)
    )


def test_equal_optimizers_are_one_object_with_one_learning_rate(planted):
    case = CASES["two_tower"] | {"optimizer": {"learning_rate": 0.02}}
    engine = Trained(config_of(planted, case), "v4-8").step._engine
    tables = engine.tables
    assert tables["user"].optimizer is tables["item"].optimizer
    assert tables["user_average"].optimizer is tables["item_average"].optimizer
    assert tables["user_average"].optimizer.learning_rate == 1.0
    tags = [t.optimization_parameters.learning_rate for t in engine._embedding._config_proto.table_descriptor]
    assert sum(tag.HasField("dynamic") for tag in tags) == 2
    assert {tag.dynamic.tag for tag in tags if tag.HasField("dynamic")} == {0}


def test_more_rows_than_int32_can_name(planted):
    config = config_of(planted, CASES["dot_bias"])
    dataset = bare_dataset({"user": 2**31 + 5, "item": 10})
    recommender = Recommender(config, dataset, np.ones(10, np.int64), STEPS, TpuTable)
    with pytest.raises(ConfigError, match="tables.user: 2,147,483,653 rows exceed the 2,147,483,6"):
        TpuStep(config, recommender, STEPS, tf.distribute.get_strategy(), emulated("v4-8"))

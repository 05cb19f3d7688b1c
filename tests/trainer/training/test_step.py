"""One step on a tiny tower against NumPy: dense Adam, the schedule's rate, averages, repeated ids."""

import numpy as np
import pytest
import tensorflow as tf

from configs.load import parse_config
from configs.sections.training import ScheduleConfig
from trainer.data.bare_dataset import bare_dataset
from trainer.models.recommender import Recommender
from trainer.optimizers.schedules import rate_multiplier
from trainer.training.step import TrainStep

pytestmark = pytest.mark.any_python

ROWS, NUM_STEPS, BATCH = 6, 30, 4
SGD = {"kind": "sgd", "learning_rate": 1.0}


def make(**sections):
    """A train step on tables of 6 rows, with a linear user tower of 3 x 3."""
    document = {
        "source": {"kind": "synthetic", "rows": 10, "users": 5, "items": 5},
        "dataset": {"path": "unused"},
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["user"], "layers": [3]},
            "item_tower": {"inputs": ["item"]},
            "loss": {"logq": False},
            "normalize": False,
        },
        "tables": {
            name: {"dim": 3, "init_stddev": 1.0, "optimizer": {"learning_rate": 0.001}}
            for name in ("user", "item")
        },
        "optimizer": {"learning_rate": 0.01},
        "schedule": {"warmup_fraction": 0.3, "cooldown_fraction": 0.3},
        "polyak": {"decay": 0.8, "start_fraction": 0.2},
        "train": {"num_steps": NUM_STEPS, "batch_size": BATCH},
        "output": {"path": "unused"},
        **sections,
    }
    config = parse_config(document, "test")
    dataset = bare_dataset({"user": ROWS, "item": ROWS})
    recommender = Recommender(config, dataset, np.ones(ROWS, np.int64), NUM_STEPS)
    recommender.initialize()
    return recommender, TrainStep(config, recommender, NUM_STEPS)


def batches(number=NUM_STEPS):
    rng = np.random.default_rng(0)
    for _ in range(number):
        ids = {name: rng.integers(0, ROWS, BATCH) for name in ("user", "item")}
        yield {name: tf.constant(value) for name, value in ids.items()} | {"label": tf.ones([BATCH])}


def softmax_gradients(user, item, ids):
    """Gradients of the mean masked in-batch softmax to both vectors, float64."""
    hit = (ids[:, None] == ids) & ~np.eye(len(ids), dtype=bool)
    logits = np.where(hit, -np.inf, user @ item.T)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share = (share / share.sum(1, keepdims=True) - np.eye(len(ids))) / len(ids)
    return share @ item, share.T @ user


class Adam:
    """Kingma & Ba's Adam with bias correction in the rate, on one array; `rows` limits it to some rows."""

    def __init__(self, value):
        self.value, self.m, self.v = value, np.zeros_like(value), np.zeros_like(value)

    def step(self, gradient, rate, t, rows=slice(None)):
        self.m[rows] = 0.9 * self.m[rows] + 0.1 * gradient[rows]
        self.v[rows] = 0.999 * self.v[rows] + 0.001 * gradient[rows] ** 2
        rate *= np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        self.value[rows] -= rate * self.m[rows] / (np.sqrt(self.v[rows]) + 1e-7)


def multiplier(step):
    """The schedule of `make`, reimplemented."""
    warm = min(step / 9, 1.0) ** 2
    return warm * np.clip((NUM_STEPS + 1 - step) / 9, 0, 1)


def weights(recommender):
    tables = {n: t.read_weights(np.arange(ROWS), False, 0.0).numpy() for n, t in recommender.tables.items()}
    kernel, bias = (v.numpy() for v in sorted(recommender.dense_variables, key=lambda v: -len(v.shape)))
    return {**tables, "kernel": kernel, "bias": bias}


def test_thirty_steps_equal_numpy():
    recommender, train_step = make()
    reference = {name: Adam(value.astype(np.float64)) for name, value in weights(recommender).items()}
    kernel_average = reference["kernel"].value.copy()
    compiled = tf.function(train_step)
    for t, batch in enumerate(batches(), start=1):
        compiled(batch)
        users, items = (batch[name].numpy() for name in ("user", "item"))
        value = {name: part.value for name, part in reference.items()}
        inputs = value["user"][users]
        to_user, to_item = softmax_gradients(
            inputs @ value["kernel"] + value["bias"], value["item"][items], items
        )
        gradients = {"kernel": inputs.T @ to_user, "bias": to_user.sum(0)}
        for name, ids, rows in (("user", users, to_user @ value["kernel"].T), ("item", items, to_item)):
            gradients[name] = np.zeros((ROWS, 3))
            np.add.at(gradients[name], ids, rows)
        rate = multiplier(t)
        for name, ids in (("user", users), ("item", items)):
            reference[name].step(gradients[name], 1e-3 * rate, t, np.unique(ids))
        for name in ("kernel", "bias"):
            reference[name].step(gradients[name], 1e-2 * rate, t)
        after = reference["kernel"].value
        kernel_average = 0.8 * kernel_average + 0.2 * after if t > 6 else after.copy()
    for name, value in weights(recommender).items():
        np.testing.assert_allclose(value, reference[name].value, atol=2e-5, err_msg=name)
    shadow = next(s for s in recommender.dense_averages.shadows if len(s.shape) == 2)
    np.testing.assert_allclose(shadow, kernel_average, atol=2e-5)
    assert int(train_step.step) == NUM_STEPS


def test_the_learning_rate_follows_the_schedule():
    recommender, train_step = make()
    for t, batch in enumerate(batches(), start=1):
        train_step(batch)
        expected = 0.01 * multiplier(t)
        assert float(train_step.learning_rate(float(t))) == pytest.approx(expected, rel=1e-5)
        assert float(train_step._optimizer.learning_rate) == pytest.approx(expected, rel=1e-5)
    assert multiplier(0) == 0 and multiplier(9) == multiplier(22) == 1


def test_rates_are_those_of_each_table_and_of_towers_where_there_are_any():
    tables = {"user": {"dim": 3, "optimizer": {"learning_rate": 0.5}}, "item": {"dim": 3, "optimizer": SGD}}
    train_step = make(tables=tables)[1]
    rates = {name: float(rate) / multiplier(5) for name, rate in train_step.learning_rates(5.0).items()}
    expected = {"learning_rate": 0.01, "learning_rate_user": 0.5, "learning_rate_item": 1.0}
    assert rates == pytest.approx(expected, rel=1e-5)
    train_step._recommender.dense_variables = []
    assert set(train_step.learning_rates(5.0)) == {"learning_rate_user", "learning_rate_item"}


@pytest.mark.parametrize("schedule", [{"warmup_fraction": 0}, {"warmup_fraction": 1, "warmup_power": 1}])
def test_schedules_at_their_ends(schedule):
    rate = rate_multiplier(ScheduleConfig(**schedule, cooldown_fraction=0), 10)
    first = 1.0 if not schedule["warmup_fraction"] else 0.1
    assert float(rate(1.0)) == pytest.approx(first) and float(rate(10.0)) == pytest.approx(1.0)


def test_the_dense_state_is_named_by_place_and_holds_everything():
    recommender, train_step = make()
    names = sorted(train_step.dense_state)
    assert names[:4] == ["average/000", "average/001", "dense/000", "dense/001"] and {
        "step",
        "skipped",
    } <= set(names)
    # Adam: iteration, and two moments of each of two variables; the rate is the config's.
    assert len([name for name in names if name.startswith("optimizer/")]) == 5
    # Two train steps of the same config name and shape their state alike.
    other = make()[1].dense_state
    assert {n: v.shape for n, v in other.items()} == {n: v.shape for n, v in train_step.dense_state.items()}


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adagrad", "ftrl"])
def test_towers_take_other_optimizers(kind):
    recommender, train_step = make(optimizer={"kind": kind, "learning_rate": 0.01})
    before = weights(recommender)["kernel"]
    train_step(next(batches()))
    assert np.abs(weights(recommender)["kernel"] - before).max() > 0
    assert float(train_step._optimizer.learning_rate) == pytest.approx(0.01 * multiplier(1), rel=1e-5)


def moves(clip_norm):
    """How far one step of gradient descent at rate 1 moves each weight, by name."""
    sections = {name: {"dim": 3, "init_stddev": 1.0, "optimizer": SGD} for name in ("user", "item")}
    train = {"num_steps": NUM_STEPS, "batch_size": BATCH, "clip_norm": clip_norm}
    recommender, train_step = make(
        optimizer=SGD, tables=sections, train=train, schedule={"warmup_fraction": 0}
    )
    before = weights(recommender)
    train_step(next(batches()))
    return {name: value - before[name] for name, value in weights(recommender).items()}


def test_the_global_norm_is_over_distinct_rows_and_towers():
    free = moves(None)
    norm = np.sqrt(sum((move**2).sum() for move in free.values()))
    clipped, loose = moves(float(norm / 4)), moves(float(norm * 2))
    assert norm > 0.1
    for name, move in free.items():
        np.testing.assert_allclose(clipped[name], move / 4, atol=1e-6)
        np.testing.assert_allclose(loose[name], move, atol=1e-6)


def test_without_averages_there_are_no_shadows():
    recommender, train_step = make(polyak={"kind": "none"})
    assert recommender.dense_averages is None and recommender.average is None
    assert not [name for name in train_step.dense_state if name.startswith("average/")]
    train_step(next(batches()))


def test_averaged_dense_swaps_and_restores():
    recommender, train_step = make()
    for batch in batches():
        train_step(batch)
    before = weights(recommender)["kernel"]
    shadow = next(s for s in recommender.dense_averages.shadows if len(s.shape) == 2).numpy()
    with recommender.averaged_dense():
        np.testing.assert_array_equal(weights(recommender)["kernel"], shadow)
    np.testing.assert_array_equal(weights(recommender)["kernel"], before)
    assert np.abs(shadow - before).max() > 0


@pytest.mark.parametrize("engine", ["rows", "native"])
def test_a_sum_of_gradients_that_overflows_is_not_applied(engine, monkeypatch):
    """The square of a row's summed gradient would be infinite, the squares of its parts are not."""
    tables = {name: {"dim": 3, "engine": engine} for name in ("user", "item")}
    recommender, step = make(tables=tables)
    table = recommender.tables["user"]
    before = table.read_records(np.arange(ROWS)).numpy()

    def loss(activations, *_):
        others = [activations["item"], *recommender.dense_variables]
        return 4e18 * tf.reduce_sum(activations["user"]) + tf.add_n([tf.reduce_sum(x) for x in others])

    monkeypatch.setattr(recommender.model, "loss", loss)
    zeros = tf.zeros([BATCH], tf.int64)
    batch = {"user": zeros, "item": zeros, "label": tf.ones([BATCH]), "timestamp": zeros}
    _, applied = step(batch)
    assert not applied and "squares" in step.guard.latest
    np.testing.assert_array_equal(table.read_records(np.arange(ROWS)), before)

"""The ordered user tower against NumPy: its vectors, what they depend on, its targets and their losses."""

import math

import numpy as np
import pytest
import tensorflow as tf

from configs.load import parse_config
from tests.support.documents import delimited
from trainer.kernels.build import graph_only
from trainer.models import MODELS
from trainer.models.sequence import NORM_EPSILON, next_items

pytestmark = pytest.mark.any_python

LENGTH, WIDTH, ITEMS = 5, 6, 9
COUNTS = np.array([4, 3, 2, 1, 5, 2, 3, 4, 0])
ONE = tf.constant(1, tf.int64)
HISTORY = np.array([[0, 1, 2, 3, 4], [5, 6, -1, -1, -1], [-1, -1, -1, -1, -1], [7, -1, -1, -1, -1]])
NEXT = np.array([7, 1, 3, 0])
LENGTHS = (HISTORY >= 0).sum(axis=1)


def make(loss=None, sequence=None, bias=False, **tower):
    document = {
        "source": delimited(roles={"timestamp": "time"}),
        "dataset": {"path": "unused", "history_length": LENGTH},
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["history"], "sequence": sequence or {"heads": 2, "hidden": 7}} | tower,
            "normalize": False,
            "item_bias": bias,
            "loss": loss or {"kind": "in_batch"},
        },
        "tables": {"item": {"dim": WIDTH + bias}},
        "train": {"num_steps": 1, "batch_size": len(HISTORY)},
        "output": {"path": "unused"},
    }
    config = parse_config(document, "test")
    return MODELS["two_tower"](config, COUNTS)


def table(width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(ITEMS, width)).astype(np.float32)


def rows_of(history, width: int = WIDTH) -> np.ndarray:
    return np.where(history[..., None] < 0, np.float32(0), table(width)[history])


def served(model, history) -> np.ndarray:
    return model.user_vectors({"history": rows_of(history)}, {"history": history}).numpy()


def spread(model, seed: int = 5):
    """The model with weights that are all different from zero and one."""
    draw = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(draw.normal(scale=0.5, size=variable.shape))
    return model


def normed(x, layer):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + NORM_EPSILON)
    return x * layer.gamma.numpy() + layer.beta.numpy()


def forward(tower, items: list[int]) -> np.ndarray:
    """The vector after these items, item by item and head by head in NumPy, float64."""
    x = table()[items].astype(np.float64) * math.sqrt(WIDTH) + tower.positions.numpy()[: len(items)]
    for block in tower.blocks:
        wq, wk, wv, wo = (v.numpy() for v in block.attention.variables)
        h, added = normed(x, block.attention_norm), np.zeros_like(x)
        for head in range(wq.shape[1]):
            q, k, v = (h @ w[:, head] for w in (wq, wk, wv))
            for i in range(len(items)):
                scores = np.exp(q[i] @ k[: i + 1].T / math.sqrt(q.shape[1]))
                added[i] += (scores / scores.sum()) @ v[: i + 1] @ wo[head]
        x = x + added
        (w0, b0), (w1, b1) = ([v.numpy() for v in layer.variables] for layer in block.dense)
        x = x + np.maximum(normed(x, block.dense_norm) @ w0 + b0, 0) @ w1 + b1
    x = normed(x, tower.norm)
    for layer in tower.layers:
        x = x @ layer.kernel.numpy() + layer.bias.numpy()
    return x[-1]


@pytest.mark.parametrize("layers", [[], [WIDTH]])
def test_vectors_are_those_of_numpy(layers):
    model = spread(make(layers=layers))
    found = served(model, HISTORY)
    for row, history in zip(found, HISTORY, strict=True):
        items = [item for item in history if item >= 0]
        expected = forward(model._sequence, items) if items else np.zeros(WIDTH)
        np.testing.assert_allclose(row, expected, rtol=2e-4, atol=2e-5)


def positions(model, history, step=None) -> np.ndarray:
    return model._sequence(tf.constant(rows_of(history)), step).numpy()


def test_no_position_sees_what_follows():
    model = spread(make())
    whole = positions(model, HISTORY[:1])
    for cut in range(1, LENGTH):
        other = HISTORY[:1].copy()
        other[:, cut:] = 8
        np.testing.assert_array_equal(positions(model, other)[:, :cut], whole[:, :cut])
        assert np.abs(positions(model, other)[:, cut:] - whole[:, cut:]).min(axis=2).max() > 1e-4
        # In serving the position is the last one, and what follows is padding.
        other[:, cut:] = -1
        np.testing.assert_allclose(served(model, other), whole[:, cut - 1], rtol=1e-5, atol=1e-6)


def test_padding_may_hold_anything():
    """An engine of TPUs looks up a row for padding."""
    model, rows = spread(make()), rows_of(HISTORY)
    expected = served(model, HISTORY)
    rows[HISTORY < 0] = 1e3
    found = model.user_vectors({"history": rows}, {"history": HISTORY})
    np.testing.assert_array_equal(found, expected)


def test_the_order_matters():
    model = spread(make())
    assert np.abs(served(model, HISTORY[:1]) - served(model, HISTORY[:1, [1, 0, 2, 3, 4]])).max() > 1e-3


def test_each_position_is_followed_by_its_target():
    found = next_items(tf.constant(HISTORY), tf.constant(NEXT)).numpy()
    expected = [[1, 2, 3, 4, 7], [6, 1, 1, 1, 1], [3] * 5, [0] * 5]
    np.testing.assert_array_equal(found, expected)


def batch() -> dict:
    return {"history": tf.constant(HISTORY), "item": tf.constant(NEXT), "label": tf.ones([len(NEXT)])}


def targets() -> list[tuple[int, int, int]]:
    """(row, position, item) of all targets."""
    found = []
    for row, (history, item) in enumerate(zip(HISTORY, NEXT, strict=True)):
        items = [*history[history >= 0], item]
        found += [(row, place, items[place + 1]) for place in range(len(items) - 1)]
    return found


def computed(model, width: int = WIDTH):
    """(loss, gradient of the history's rows, gradient of the rows that are scored)."""
    ids, columns = model.lookups(batch(), ONE), model.columns(batch(), ONE)
    rows = {name: tf.constant(rows_of(value.numpy(), width)) for name, value in ids.items()}
    with tf.GradientTape() as tape:
        tape.watch(rows)
        loss = model.loss(rows, columns, ONE)
    return loss.numpy(), ids, tape.gradient(loss, rows)


def vectors_of_targets(model) -> np.ndarray:
    found = positions(model, HISTORY)
    return np.stack([found[row, place] for row, place, _ in targets()]).astype(np.float64)


def test_softmax_over_the_catalog():
    model = spread(make({"kind": "full_softmax", "temperature": 0.5}))
    loss, ids, gradients = computed(model)
    np.testing.assert_array_equal(ids["negative/item"], np.flatnonzero(COUNTS))
    assert set(ids) == {"history", "negative/item"}
    logits = vectors_of_targets(model) @ table()[:-1].T / 0.5
    own = [item for *_, item in targets()]
    whole = np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(loss, np.mean(whole - logits[range(len(own)), own]), rtol=1e-5)
    share = np.exp(logits - whole[:, None])
    share[range(len(own)), own] -= 1
    expected = share.T @ vectors_of_targets(model) / 0.5 / len(own)
    np.testing.assert_allclose(gradients["negative/item"], expected, rtol=1e-4, atol=1e-6)


def test_generalized_cross_entropy():
    """Against formulas 8 and 14 of gSASRec as they are printed."""
    model = spread(make({"kind": "gbce", "negatives": 3, "calibration": 0.6}))
    loss, ids, _ = computed(model)
    drawn = ids["negative/item"].numpy().reshape(len(HISTORY), 3)
    assert 8 not in drawn, "has no train rows"
    alpha, t = 3 / (8 - 1), 0.6
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    losses = []
    for vector, (row, _, item) in zip(vectors_of_targets(model), targets(), strict=True):
        positive, *negative = 1 / (1 + np.exp(-table()[[item, *drawn[row]]] @ vector))
        losses.append(-(np.log(positive**beta) + np.log1p(-np.array(negative)).sum()) / 4)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_softmax_over_the_targets_of_the_batch():
    model = spread(make({"kind": "in_batch", "extra_negatives": 2}))
    loss, ids, gradients = computed(model)
    own = np.array([item for *_, item in targets()])
    every = np.concatenate([own, ids["negative/item"]])
    probability = np.maximum(COUNTS, 1) / np.maximum(COUNTS, 1).sum()
    share, places = np.where(COUNTS > 0, 1 / 8, 0), LENGTH * len(HISTORY)
    probability = probability * places / (places + 2) + share * 2 / (places + 2)
    logits = vectors_of_targets(model) @ table()[every].T - np.log(probability)[every]
    hits = (every[None, :] == own[:, None]) & ~np.eye(len(own), len(every), dtype=bool)
    logits[hits] = -np.inf
    np.testing.assert_allclose(loss, np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits)), rtol=1e-5)
    there = (HISTORY >= 0).reshape(-1)
    assert not gradients["item"].numpy()[~there].any() and gradients["item"].numpy()[there].any(axis=1).all()


@pytest.mark.parametrize("kind", ["in_batch", "full_softmax", "gbce"])
def test_every_item_of_a_history_trains(kind):
    _, _, gradients = computed(spread(make({"kind": kind}, bias=True)), WIDTH + 1)
    found = gradients["history"].numpy()
    assert found[HISTORY >= 0][:, :WIDTH].any(axis=1).all() and not found[HISTORY < 0].any()
    assert not found[..., WIDTH].any(), "the bias of an item is no part of a history"


@pytest.mark.parametrize("kind", ["in_batch", "full_softmax", "gbce"])
def test_a_batch_without_targets_has_no_loss(kind):
    model = make({"kind": kind})
    empty = batch() | {"history": -tf.ones_like(batch()["history"])}
    rows = {n: tf.constant(rows_of(v.numpy())) for n, v in model.lookups(empty, ONE).items()}
    assert float(model.loss(rows, model.columns(empty, ONE), ONE)) == 0.0


def test_dropout_follows_from_the_step():
    model = spread(make(sequence={"dropout": 0.5}))
    one, again, two = (positions(model, HISTORY, tf.constant(step, tf.int64)) for step in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 1e-2 and np.abs(one - positions(model, HISTORY)).max() > 1e-2


def test_weights_begin_different_and_follow_from_the_seed():
    first, again = make(), make()
    for one, other in zip(first.trainable_variables, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    kernels = [
        v.numpy().ravel() for b in first._sequence.blocks for v in b.attention.variables if v.shape.rank > 2
    ]
    assert len(kernels) == 8 and len({tuple(values) for values in kernels}) == 8
    limit = math.sqrt(6 / (2 * WIDTH))
    assert all(0.6 * limit < np.abs(values).max() <= limit for values in kernels)


@pytest.mark.parametrize("kind", ["in_batch", "gbce"])
def test_xla_compiles_the_step_for_tpus(kind):
    """Static shapes and operations that XLA knows, as the chips need them."""
    model = spread(make({"kind": kind}))
    ids, columns = model.lookups(batch(), ONE), model.columns(batch(), ONE)
    rows = {name: tf.constant(rows_of(value.numpy())) for name, value in ids.items()}

    def step(rows, columns):
        with tf.GradientTape() as tape:
            loss = model.loss(rows, columns, ONE)
        return loss, tape.gradient(loss, model.trainable_variables)

    with graph_only():
        found = tf.function(step, jit_compile=True, autograph=False)(rows, columns)
    for got, expected in zip(tf.nest.flatten(found), tf.nest.flatten(step(rows, columns)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)

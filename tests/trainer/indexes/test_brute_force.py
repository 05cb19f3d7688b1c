"""Brute force against NumPy: ties, bans, blocks and chunks."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.indexes import brute_force
from trainer.indexes.base import NO_SCORE
from trainer.indexes.brute_force import top_items

pytestmark = pytest.mark.any_python


def _expected(users, items, servable, banned, k):
    """(scores, rows) [batch, <= k] by a stable sort of all scores."""
    scores = np.where(np.arange(len(items)) < servable, users @ items.T, NO_SCORE).astype(np.float32)
    scores[banned[:, 0], banned[:, 1]] = NO_SCORE
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def _check(users, items, servable, banned, k, block_items=brute_force.BLOCK_ITEMS):
    pairs = (tf.constant(banned[:, 0]), tf.constant(banned[:, 1]))

    @tf.function
    def find(number):
        return top_items(users, tf.constant(items), servable, pairs, number, block_items)

    scores, rows = (part.numpy() for part in find(tf.constant(k)))
    best, order = _expected(users, items, servable, banned, k)
    width = best.shape[1]
    np.testing.assert_array_equal(scores[:, :width], best)
    assert (scores[:, width:] == np.float32(NO_SCORE)).all()
    there = best > NO_SCORE
    np.testing.assert_array_equal(rows[:, :width][there], order[there])


def _bans(random, batch, rows, per_user):
    return np.array(
        [[u, i] for u in range(batch) for i in random.choice(rows, min(per_user * u, rows), replace=False)],
        np.int64,
    ).reshape(-1, 2)


@pytest.mark.parametrize("block_items", [1, 7, 64, 1000])
@pytest.mark.parametrize("k", [1, 5, 90])
def test_blocks_do_not_change_the_best_items(block_items, k):
    random = np.random.default_rng(block_items * 100 + k)
    # Small integers, so that scores are exact and often equal.
    users = random.integers(-2, 3, [6, 3]).astype(np.float32)
    items = random.integers(-2, 3, [83, 3]).astype(np.float32)
    _check(users, items, 75, _bans(random, 6, 83, 4), k, block_items)


@pytest.mark.parametrize("order", ["as it comes", "rising", "falling"])
@pytest.mark.parametrize("k", [1, 30])
@pytest.mark.parametrize("batch", [1, 9])
def test_many_chunks_and_blocks_with_ties_in_any_order(order, k, batch):
    """Rising scores make every chunk promising, falling ones none after the first block."""
    random = np.random.default_rng(k + batch)
    users = random.integers(1, 3, [batch, 2]).astype(np.float32)
    items = random.integers(-40, 40, [5003, 2]).astype(np.float32)
    if order != "as it comes":
        items = items[np.argsort(items.sum(axis=1))[:: 1 if order == "rising" else -1]]
    _check(users, items, 4990, _bans(random, batch, 5003, 200), k, 640)


def test_the_best_may_all_lie_in_one_chunk_or_each_in_its_own():
    items = np.zeros([1280, 1], np.float32)
    items[700:740] = 1  # in one chunk, and over its border
    items[::32] += 2
    for k in (3, 40, 42, 80, 81):
        _check(np.ones([1, 1], np.float32), items, 1280, np.empty([0, 2], np.int64), k)


def test_the_same_pair_may_be_banned_twice_and_rows_that_are_not_servable_too():
    items = np.arange(10, dtype=np.float32)[:, np.newaxis]
    banned = np.array([[0, 7], [0, 7], [0, 9], [1, 0]])
    _check(np.array([[1.0], [-1.0]], np.float32), items, 9, banned, 4)


def test_nobody_asks_or_nothing_can_be_served():
    items, none = tf.ones([5, 2]), (tf.zeros([0], tf.int64), tf.zeros([0], tf.int64))
    scores, rows = top_items(tf.zeros([0, 2]), items, 5, none, tf.constant(3))
    assert scores.shape == rows.shape == (0, 3)
    scores, _ = top_items(tf.ones([2, 2]), items, 0, none, tf.constant(3))
    np.testing.assert_array_equal(scores, np.full([2, 3], NO_SCORE, np.float32))


def test_a_large_batch_is_scored_in_small_blocks(monkeypatch):
    monkeypatch.setattr(brute_force, "BLOCK_SCORES", 1 << 12)
    monkeypatch.setattr(brute_force, "_SMALLEST_BLOCK", 1)
    random = np.random.default_rng(0)
    users = random.integers(-3, 4, [200, 4]).astype(np.float32)
    items = random.integers(-3, 4, [300, 4]).astype(np.float32)
    _check(users, items, 300, _bans(random, 200, 300, 1), 12)

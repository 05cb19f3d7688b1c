"""The best of allowed items against NumPy: each way of searching, one list for all users and one for each."""

import numpy as np
import pytest
import tensorflow as tf

from configs.sections.export import BruteForceIndexConfig
from trainer.indexes import among
from trainer.indexes.among import Allowed, search_among
from trainer.indexes.base import NO_SCORE, make_index

pytestmark = pytest.mark.any_python


class Lists(Allowed):
    """Of each row a list of allowed rows; None restricts nothing."""

    def __init__(self, lists, servable, few):
        self.restricted = tf.constant([rows is not None for rows in lists])
        self._lists = tf.ragged.constant([rows or [] for rows in lists], tf.int64, ragged_rank=1)
        self._servable, self._few = servable, few

    def are_few(self, position):
        return tf.constant(self._few)

    def rows(self, position):
        return self._lists[position]

    def mask(self, position):
        rows = self.rows(position)
        return tf.scatter_nd(rows[:, None], tf.ones_like(rows, tf.bool), [self._servable])


def _expected(users, items, servable, allowed, banned, k):
    """By user the best allowed rows by a stable sort; None allows all."""
    found = []
    for i, user in enumerate(users):
        rows = np.arange(servable) if allowed[i] is None else np.array(allowed[i], np.int64)
        rows = np.setdiff1d(rows, banned[banned[:, 0] == i, 1])
        found.append(rows[np.argsort(-(items[rows] @ user), kind="stable")][:k])
    return found


def _check(users, items, servable, allowed, banned, k, few=False):
    """`allowed`: by row None or rising places."""
    vectors = tf.Variable(items)
    index = make_index(BruteForceIndexConfig(kind="brute_force"), vectors, servable)
    lists = Lists(allowed, servable, few)
    pairs = tf.constant(banned[:, 0]), tf.constant(banned[:, 1])

    @tf.function
    def find(number):
        return search_among(index, tf.constant(users), vectors, servable, lists, pairs, number)

    scores, rows = (part.numpy() for part in find(tf.constant(k)))
    whole = allowed * len(users) if len(allowed) == 1 else allowed
    assert scores.shape == rows.shape == (len(users), k)
    for i, best in enumerate(_expected(users, items, servable, whole, banned, k)):
        np.testing.assert_array_equal(rows[i, : len(best)], best)
        np.testing.assert_allclose(scores[i, : len(best)], items[best] @ users[i], rtol=1e-6)
        assert (scores[i, len(best) :] == np.float32(NO_SCORE)).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("each", [False, True])
def test_random_restrictions_equal_a_sort(seed, each):
    random = np.random.default_rng(seed)
    batch, rows, servable = int(random.integers(1, 6)), 220, 200
    items = random.integers(-2, 3, (rows, 3)).astype(np.float32)  # with ties
    users = random.integers(-2, 3, (batch, 3)).astype(np.float32)
    allowed = []
    for _ in range(batch if each else 1):
        share = random.choice([0.0, 0.02, 0.2, 0.3, 0.9, 1.0])
        chosen = np.flatnonzero(random.random(servable) < share).tolist()
        allowed.append(None if random.random() < 0.2 else chosen)
    banned = np.stack([random.integers(0, batch, 150), random.integers(0, rows, 150)], axis=1)
    _check(users, items, servable, allowed, banned, int(random.choice([1, 7, 250])), few=bool(seed % 2))


def test_users_whose_best_rows_are_not_allowed_are_searched_again(monkeypatch):
    """One of two users likes only what a broad restriction excludes, so too few of the best rows are left."""
    random, asked = np.random.default_rng(3), []
    items = random.random((1000, 2)).astype(np.float32)
    items[:300] += [10, 0]
    users = np.array([[0, 1], [1, 0]], np.float32)
    top_items = among.top_items
    monkeypatch.setattr(among, "top_items", lambda *a, **b: asked.append(b.keys()) or top_items(*a, **b))
    banned = np.array([[0, 500], [1, 300], [1, 301]])
    for allowed in (np.arange(300, 1000), np.arange(1000)):
        lists = Lists([allowed.tolist()], 1000, few=False)
        pairs = tf.constant(banned[:, 0]), tf.constant(banned[:, 1])
        share = tf.constant(len(allowed) / 1000)
        asked.clear()
        tensors = tf.constant(users), tf.constant(items)
        scores, rows = among._best_of_most(*tensors, 1000, lists.mask(0), share, pairs, tf.constant(9))
        assert asked == ([set(), {"allowed"}] if len(allowed) < 1000 else [set()])
        for i, best in enumerate(_expected(users, items, 1000, [allowed] * 2, banned, 9)):
            np.testing.assert_array_equal(rows[i], best)
            np.testing.assert_allclose(scores[i], items[best] @ users[i], rtol=1e-6)


def test_no_allowed_row_and_no_user_give_empty_answers():
    items, nothing = np.ones([30, 2], np.float32), np.zeros([0, 2], np.int64)
    _check(np.ones([2, 2], np.float32), items, 30, [[]], nothing, 3)
    _check(np.ones([2, 2], np.float32), items, 30, [[], [29]], nothing, 3)
    _check(np.ones([0, 2], np.float32), items, 30, [[1, 2]], nothing, 3)

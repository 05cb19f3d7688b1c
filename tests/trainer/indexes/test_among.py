"""The best of allowed items against NumPy, gathered and masked, one list for all users and one for each."""

import numpy as np
import pytest
import tensorflow as tf

from configs.sections.export import BruteForceIndexConfig
from trainer.indexes.among import search_among
from trainer.indexes.base import NO_SCORE, make_index

pytestmark = pytest.mark.any_python


def _expected(users, items, servable, allowed, banned, k):
    """By user the best allowed rows by a stable sort; None allows all."""
    found = []
    for i, user in enumerate(users):
        rows = np.arange(servable) if allowed[i] is None else np.array(allowed[i], np.int64)
        rows = np.setdiff1d(rows, banned[banned[:, 0] == i, 1])
        found.append(rows[np.argsort(-(items[rows] @ user), kind="stable")][:k])
    return found


def _check(users, items, servable, allowed, banned, k):
    """`allowed`: by row None or rising places."""
    vectors = tf.Variable(items)
    index = make_index(BruteForceIndexConfig(kind="brute_force"), vectors, servable)
    restricted = tf.constant([rows is not None for rows in allowed])
    lists = tf.ragged.constant(
        [rows if rows is not None else [] for rows in allowed], tf.int64, ragged_rank=1
    )
    pairs = tf.constant(banned[:, 0]), tf.constant(banned[:, 1])

    @tf.function
    def find(number):
        return search_among(index, tf.constant(users), vectors, servable, restricted, lists, pairs, number)

    scores, rows = (part.numpy() for part in find(tf.constant(k)))
    whole = allowed * len(users) if len(allowed) == 1 else allowed
    assert scores.shape == rows.shape == (len(users), k)
    for i, best in enumerate(_expected(users, items, servable, whole, banned, k)):
        np.testing.assert_array_equal(rows[i, : len(best)], best)
        np.testing.assert_allclose(scores[i, : len(best)], items[best] @ users[i], rtol=1e-6)
        assert (scores[i, len(best) :] == np.float32(NO_SCORE)).all()


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
    _check(users, items, servable, allowed, banned, int(random.choice([1, 7, 250])))


def test_no_allowed_row_and_no_user_give_empty_answers():
    items, nothing = np.ones([30, 2], np.float32), np.zeros([0, 2], np.int64)
    _check(np.ones([2, 2], np.float32), items, 30, [[]], nothing, 3)
    _check(np.ones([2, 2], np.float32), items, 30, [[], [29]], nothing, 3)
    _check(np.ones([0, 2], np.float32), items, 30, [[1, 2]], nothing, 3)

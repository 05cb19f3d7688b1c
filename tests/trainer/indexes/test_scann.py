"""ScaNN against brute force; skipped where the package is not installed."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import ExportError
from configs.sections.export import ScannIndexConfig
from trainer.indexes.base import NO_SCORE, make_index
from trainer.indexes.brute_force import top_items
from trainer.indexes.recall import measure_recall

pytestmark = [
    pytest.mark.any_python,
    pytest.mark.skipif(importlib.util.find_spec("scann") is None, reason="scann is not installed"),
]
ROWS, SERVABLE, DIM = 3000, 2900, 9


@pytest.fixture(scope="module")
def vectors():
    """Clustered, of different lengths, and rows that are not servable better than all others."""
    random = np.random.default_rng(0)
    centres = random.standard_normal([60, DIM])
    rows = centres[random.integers(0, 60, ROWS)] + 0.3 * random.standard_normal([ROWS, DIM])
    rows[SERVABLE:] *= 10
    return tf.Variable(rows.astype(np.float32), trainable=False)


@pytest.fixture(scope="module")
def users(vectors):
    return tf.constant(vectors.numpy()[:40] + 0.1, tf.float32)


def _index(vectors, servable=SERVABLE, **options):
    return make_index(ScannIndexConfig(kind="scann", **options), vectors, servable)


def _search(index, users, banned, k):
    pairs = (tf.constant(banned[:, 0]), tf.constant(banned[:, 1]))
    search = tf.function(lambda u, n: index.search(u, pairs, n))
    return [part.numpy() for part in search(users, tf.constant(k))]


NONE = np.empty([0, 2], np.int64)


def test_all_leaves_and_candidates_give_the_exact_lists(vectors, users):
    index = _index(vectors, leaves=20, leaves_to_search=20, reorder=SERVABLE)
    random = np.random.default_rng(1)
    banned = np.array([[u, i] for u in range(40) for i in random.choice(ROWS, 50 * (u % 3), replace=False)])
    banned = np.concatenate([banned, banned[:7]])  # pairs may come twice
    scores, rows = _search(index, users, banned, 30)
    expected, order = top_items(users, vectors, SERVABLE, (banned[:, 0], banned[:, 1]), tf.constant(30))
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    assert (rows == order.numpy()).mean() > 0.99  # rounding may swap neighbours


def test_equal_scores_stand_in_row_order():
    vectors = tf.Variable(np.repeat(np.eye(4, dtype=np.float32), 10, axis=0))
    index = _index(vectors, 40, leaves=2, leaves_to_search=2)
    _, rows = _search(index, tf.constant([[0.0, 1, 0, 0]]), NONE, 12)
    np.testing.assert_array_equal(rows[0], [*range(10, 20), 0, 1])


def test_lists_of_few_leaves_hold_true_scores_and_nothing_banned(vectors, users):
    index = _index(vectors, leaves=50, leaves_to_search=3, reorder=60)
    best = _search(index, users, NONE, 10)[1]
    banned = np.array([[u, row] for u in range(40) for row in best[u]])
    scores, rows = _search(index, users, banned, 10)
    assert (scores > NO_SCORE).all() and (rows < SERVABLE).all()
    for user in range(40):
        assert len(set(rows[user])) == 10 and not set(rows[user]) & set(best[user])
        expected = vectors.numpy()[rows[user]] @ users.numpy()[user]
        np.testing.assert_allclose(scores[user], expected, rtol=1e-5, atol=1e-5)
        assert (np.diff(scores[user]) <= 0).all()


def test_what_is_not_there_has_no_score(vectors, users):
    index = _index(vectors, 20)
    scores, rows = _search(index, users[:2], np.array([[0, 3], [0, 5]]), 25)
    assert ((scores[0] > NO_SCORE).sum(), (scores[1] > NO_SCORE).sum()) == (18, 20)
    assert set(rows[1][:20]) == set(range(20)) and not {3, 5} & set(rows[0][:18])
    scores, _ = _search(index, users[:0], NONE, 4)
    assert scores.shape == (0, 4)


def test_recall_is_the_share_of_the_exact_best(vectors, users):
    wide = _index(vectors, leaves=50, leaves_to_search=50)
    narrow = _index(vectors, leaves=50, leaves_to_search=1, reorder=20)
    assert measure_recall(wide, users, vectors, SERVABLE, [10])[10] > 0.99
    found = measure_recall(narrow, users, vectors, SERVABLE, [10])[10]
    rows = _search(narrow, users, NONE, 10)[1]
    exact = np.argsort(-users.numpy() @ vectors.numpy()[:SERVABLE].T, axis=1)[:, :10]
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, exact, strict=True)])
    assert found == pytest.approx(expected, abs=0.01) and found < 0.95


def test_facts_and_size(vectors):
    index = _index(vectors)
    assert index.facts() == {"kind": "scann", "leaves": 54, "leaves_to_search": 10, "reorder": 500}
    assert SERVABLE * (4 + 5) <= index.num_bytes() < vectors.numpy().nbytes


def test_too_few_items_are_refused(vectors):
    with pytest.raises(ExportError, match="needs 16 items, there are 15; use brute_force"):
        _index(vectors, 15)
    with pytest.raises(ExportError, match="export.index.leaves: 30 exceeds the number of items, 20"):
        _index(vectors, 20, leaves=30)

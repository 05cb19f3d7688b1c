"""Recall of an index that is known to miss some items."""

import numpy as np
import pytest
import tensorflow as tf

from configs.sections.export import BruteForceIndexConfig
from trainer.indexes.base import NO_SCORE, BaseIndex, make_index
from trainer.indexes.recall import measure_recall


class _Forgetful(BaseIndex):
    """Never finds rows whose number is a multiple of 4, and fills up with nothing."""

    def search(self, users, banned, k):
        scores, rows = make_index(self._config, self._vectors, self._servable).search(users, banned, k)
        return tf.where(rows % 4 == 0, NO_SCORE, scores), rows


def test_missing_items_are_counted():
    random = np.random.default_rng(0)
    vectors = tf.Variable(random.standard_normal([500, 6]).astype(np.float32))
    users = tf.constant(random.standard_normal([70, 6]), tf.float32)  # more than are asked for at once
    index = _Forgetful(BruteForceIndexConfig(), vectors, 450)
    found = measure_recall(index, users, vectors, 450, [1, 10])
    best = np.argsort(-users.numpy() @ vectors.numpy()[:450].T, axis=1)
    for k in (1, 10):
        assert found[k] == pytest.approx((best[:, :k] % 4 != 0).mean(), abs=1e-6)
    assert 0.6 < found[10] < 0.9


def test_brute_force_finds_all():
    vectors = tf.Variable(np.random.default_rng(1).standard_normal([90, 3]).astype(np.float32))
    index = make_index(BruteForceIndexConfig(), vectors, 90)
    assert measure_recall(index, vectors[:5], vectors, 90, [3]) == {3: 1.0}
    assert index.facts() == {"kind": "brute_force"} and index.num_bytes() == 0

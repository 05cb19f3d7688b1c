"""Pooled lookups against plain loops; padding touches nothing."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from trainer.embeddings.pooling import divided, joined, of_distinct, pooled
from trainer.kernels.build import graph_only

pytestmark = pytest.mark.any_python

HISTORY = np.array([[3, 5, 3], [-1, -1, -1], [7, -1, -1]])
TABLE = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)


def test_features_are_joined_without_their_padding_and_divided_again():
    ids, sizes = joined({"item": tf.constant([7, 2, 7], tf.int64), "history": tf.constant(HISTORY)})
    distinct, where = of_distinct(ids, tf.identity)
    assert sorted(distinct.numpy()) == [2, 3, 5, 7]
    found = divided(tf.gather(distinct, where), sizes)
    assert found["item"].numpy().tolist() == [7, 2, 7]
    assert found["history"].numpy().tolist() == [3, 5, 3, 7]


@pytest.mark.parametrize("pooling, divide", [("sum", lambda n: 1), ("mean", lambda n: n), ("sqrtn", np.sqrt)])
@pytest.mark.parametrize("context", [graph_only, contextlib.nullcontext])
def test_pooling_and_its_gradient(pooling, divide, context):
    with context():
        check_pooling(pooling, divide)


def check_pooling(pooling, divide):
    ids, where = of_distinct(joined({"history": tf.constant(HISTORY)})[0], tf.identity)
    weight = tf.constant(TABLE[ids.numpy()])
    with tf.GradientTape() as tape:
        tape.watch(weight)
        vectors = pooled(weight, where, tf.constant(HISTORY), pooling)
        total = tf.reduce_sum(vectors * tf.constant([[1.0], [2.0], [3.0]]))
    expected = np.zeros([3, 4])
    counts = np.zeros(len(TABLE))
    for row, items in enumerate(HISTORY):
        real = [i for i in items if i >= 0]
        for item in real:
            expected[row] += TABLE[item] / divide(len(real))
            counts[item] += (row + 1) / divide(len(real))
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    gradient = tf.convert_to_tensor(tape.gradient(total, weight))
    np.testing.assert_allclose(gradient, counts[ids.numpy()][:, None] * np.ones(4), atol=1e-6)


@pytest.mark.parametrize("length", [0, 3])
@pytest.mark.parametrize("context", [graph_only, contextlib.nullcontext])
def test_a_batch_without_any_history(context, length):
    ids, weight = -tf.ones([4, length], tf.int64), tf.ones([2, 5])
    with context(), tf.GradientTape() as tape:
        tape.watch(weight)
        vectors = pooled(weight, tf.zeros([0], tf.int32), ids, "mean")
    np.testing.assert_array_equal(vectors, np.zeros([4, 5]))
    with context():
        gradient = tape.gradient(vectors, weight, tf.ones([4, 5]))
    np.testing.assert_array_equal(tf.convert_to_tensor(gradient), np.zeros([2, 5]))


def test_unpooled_ids_keep_their_shape():
    ids = tf.constant([[1, 2], [2, 8], [1, 1]], tf.int64)
    flat, _ = joined({"negative": ids})
    weight, where = of_distinct(flat, lambda unique: tf.gather(TABLE, unique))
    for vectors in (pooled(weight, where, ids, None), pooled(tf.gather(TABLE, flat), None, ids, None)):
        np.testing.assert_array_equal(vectors, TABLE[ids.numpy()])


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("context", [graph_only, contextlib.nullcontext])
def test_a_bag_equals_embedding_lookup_sparse(combiner, weighted, context):
    """In value and gradient; with empty bags at both ends and in between, repeated ids, and weights of 0."""
    draw = np.random.default_rng(3)
    lengths = [0, 3, 0, 1, 5, 2, 0]
    bags = np.full((len(lengths), 6), -1)
    weights = np.zeros(bags.shape, np.float32)
    for row, length in enumerate(lengths):
        bags[row, :length] = draw.integers(0, len(TABLE), length)
        weights[row, :length] = draw.choice([0.0, 0.25, 1.0, 3.0], length)
    weights[5] = 0.0  # a bag that weighs nothing
    above = tf.constant(draw.normal(size=(len(lengths), 4)), tf.float32)
    with tf.GradientTape() as tape:
        table = tf.constant(TABLE)
        tape.watch(table)
        sparse = tf.sparse.from_dense(tf.constant(bags + 1))
        ids = tf.SparseTensor(sparse.indices, sparse.values - 1, sparse.dense_shape)
        parts = tf.SparseTensor(ids.indices, tf.gather_nd(weights, ids.indices), ids.dense_shape)
        # Its result ends with the last bag that has an id.
        found = tf.nn.embedding_lookup_sparse(table, ids, parts if weighted else None, combiner=combiner)
        expected = tf.pad(found, [[0, len(lengths) - found.shape[0]], [0, 0]])
    expected_gradient = tf.convert_to_tensor(tape.gradient(expected, table, above))
    with context():
        flat, _ = joined({"tags": tf.constant(bags)})
        distinct, where = of_distinct(flat, tf.identity)
        with tf.GradientTape() as tape:
            rows = tf.gather(TABLE, distinct)
            tape.watch(rows)
            vectors = pooled(rows, where, tf.constant(bags), combiner, True, weights if weighted else None)
        gradient = tf.convert_to_tensor(tape.gradient(vectors, rows, above))
        served = pooled(rows, where, tf.constant(bags), combiner, False, weights if weighted else None)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.testing.assert_allclose(served, expected, atol=1e-6)
    whole = np.zeros(TABLE.shape, np.float32)
    whole[distinct] = gradient
    np.testing.assert_allclose(whole, expected_gradient, atol=1e-6)

"""Clipping by the global norm: of any finite gradients, of any floating types."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.optimizers.clipping import clip_by_global_norm, half_square, scale_to_norm

pytestmark = pytest.mark.any_python


@pytest.mark.parametrize("value", [1e-30, 1e-3, 1.0, 1e25, 3e38])
@pytest.mark.parametrize("share", [1e-3, 1.0])
def test_no_size_is_lost(value, share):
    """Squares of the largest overflow, their norm too; squares of the smallest vanish."""
    clip_norm = share * value
    found = clip_by_global_norm([tf.fill([2, 2], value), None], clip_norm)
    np.testing.assert_allclose(found[0], np.full([2, 2], clip_norm / 2, np.float32), rtol=1e-6)
    assert found[1] is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_types(dtype):
    large = {"float16": 300.0, "bfloat16": 1e30, "float64": 1e200}[dtype]
    (found,) = clip_by_global_norm([tf.constant([[large] * 2] * 2, dtype)], 1.0)
    assert found.dtype == dtype
    np.testing.assert_allclose(tf.cast(found, tf.float64), np.full([2, 2], 0.5), rtol=1e-2)


def test_types_may_be_mixed():
    half, single = clip_by_global_norm([tf.ones([2], "float16"), tf.ones([2])], 1.0)
    assert (half.dtype, single.dtype) == (tf.float16, tf.float32)
    np.testing.assert_allclose(half, [0.5, 0.5])
    np.testing.assert_allclose(single, [0.5, 0.5])


def test_sums_of_repeated_half_rows_are_float32():
    many = tf.IndexedSlices(tf.ones([4096, 1], "float16"), tf.zeros([4096], tf.int32))
    (found,) = clip_by_global_norm([many], 1e6)
    assert found.values.numpy().tolist() == [[4096.0]] and found.indices.numpy().tolist() == [0]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_makes_everything_nan(bad):
    found = clip_by_global_norm([tf.constant([bad, 1.0]), tf.ones([3])], 1.0)
    expected, _ = tf.clip_by_global_norm([tf.constant([bad, 1.0]), tf.ones([3])], 1.0)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.isnan(ours.numpy()).all() and np.isnan(theirs.numpy()).all()


def test_nothing_to_clip():
    assert clip_by_global_norm([], 1.0) == [] and clip_by_global_norm([None], 1.0) == [None]
    zero, empty = clip_by_global_norm([tf.zeros([2]), tf.zeros([0, 3])], 1.0)
    assert zero.numpy().tolist() == [0.0, 0.0] and empty.shape == (0, 3)
    unchanged = tf.constant([0.1, 0.7, 1e-20])
    np.testing.assert_array_equal(clip_by_global_norm([unchanged], 1.0)[0], unchanged)


def test_mistakes_are_named():
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="clip_norm must be greater than 0, found"):
            clip_by_global_norm([tf.ones([2])], wrong)
    for dtype in ("int32", "complex64"):
        with pytest.raises(TypeError, match=f"must be floating to be clipped by their norm, found {dtype}"):
            clip_by_global_norm([tf.ones([2], dtype)], 1.0)


def test_the_training_step_scales_as_the_public_function():
    gradients = [tf.random.stateless_normal([5, 3], seed=[1, i]) for i in range(3)]
    ours = scale_to_norm(gradients, half_square(gradients), 0.3)
    for a, b in zip(ours, clip_by_global_norm(gradients, 0.3), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)

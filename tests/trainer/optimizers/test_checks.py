"""What apply_gradients and keras() refuse, before anything is updated."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from trainer.optimizers import ROW_OPTIMIZERS, SGD, SM3, Adam, LazyAdam

pytestmark = pytest.mark.any_python

FACES = {
    "plain": lambda: LazyAdam(0.1),
    "sm3": lambda: SM3(0.1),
    "keras": lambda: LazyAdam(0.1).keras(),
}
EVERY_FACE = pytest.mark.parametrize("make", FACES.values(), ids=FACES)


def rows(values, indices, dense_shape=None):
    return tf.IndexedSlices(tf.constant(values), tf.constant(indices), dense_shape)


WRONG = {
    "transposed": (tf.ones([4, 2]), r"variable v has the shape \(2, 4\) and its gradient \(4, 2\)"),
    "narrow rows": (rows([[1.0]], [0]), r"shape \(2, 4\); its gradient has indices \(1,\), values \(1, 1\)"),
    "too few indices": (rows([[1.0] * 4] * 2, [0]), r"indices \(1,\), values \(2, 4\)"),
    "another variable": (rows([[1.0] * 4], [0], tf.constant([9, 4])), r"and dense shape \(9, 4\)"),
    "indices of rank 2": (rows([[[1.0] * 4]], [[0]]), r"indices \(1, 1\)"),
    "whole numbers": (tf.ones([2, 4], tf.int32), "its gradient is int32; it must be floating"),
    "complex": (tf.ones([2, 4], tf.complex64), "its gradient is complex64"),
    "a sparse tensor": (tf.sparse.from_dense(tf.ones([2, 4])), "is a SparseTensor; use tf.IndexedSlices"),
    "floating indices": (rows([[1.0] * 4], [0.0]), "indices of its gradient are float32"),
}


@EVERY_FACE
@pytest.mark.parametrize(("gradient", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "tf.function"])
def test_gradients_that_do_not_fit(make, gradient, message, compiled):
    variable, optimizer = tf.Variable(tf.ones([2, 4]), name="v"), make()

    def apply():
        return optimizer.apply_gradients([(gradient, variable)])

    with pytest.raises((TypeError, ValueError), match=message):
        tf.function(apply)() if compiled else apply()
    np.testing.assert_array_equal(variable, np.ones([2, 4]))


@EVERY_FACE
@pytest.mark.parametrize("dtype", ["int32", "complex64"])
def test_variables_that_cannot_be_trained(make, dtype):
    variable = tf.Variable(tf.ones([2], dtype), name="v")
    with pytest.raises(TypeError, match=f"variable v is {dtype}; only floating variables can be trained"):
        make().apply_gradients([(tf.ones([2]), variable)])


def test_a_shape_that_grows_is_refused():
    variable = tf.Variable(tf.ones([2, 3]), shape=[None, 3], name="v")
    with pytest.raises(ValueError, match="variable v has the shape .None, 3.; it must be fully defined"):
        SGD(0.1).build([variable])


@EVERY_FACE
@pytest.mark.parametrize("given", [None, tf.TensorShape([2, 4]), [2, 4], tf.constant([2, 4])], ids=type)
def test_slices_may_say_their_shape_in_any_form(make, given):
    variable, optimizer = tf.Variable(tf.ones([2, 4])), make()

    @tf.function
    def step():
        optimizer.apply_gradients([(tf.IndexedSlices(tf.ones([1, 4]), tf.constant([1]), given), variable)])

    step()
    assert (variable.numpy() < 1).any(axis=1).tolist() == [False, True]


@EVERY_FACE
def test_shapes_known_late_are_looked_at_late(make):
    variable, optimizer = tf.Variable(tf.ones([2, 4])), make()

    @tf.function(input_signature=[tf.TensorSpec(None)])
    def apply(gradient):
        optimizer.apply_gradients([(gradient, variable)])

    with pytest.raises(tf.errors.InvalidArgumentError):
        apply(tf.ones([4, 2]))
    np.testing.assert_array_equal(variable, np.ones([2, 4]))
    apply(tf.ones([2, 4]))
    assert (variable.numpy() < 1).all()


@pytest.mark.parametrize("wrong", [-1, 4])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "tf.function"])
@pytest.mark.parametrize("face", ["plain", "keras"])
@pytest.mark.parametrize("kind", ["adam", "lazy_adam", "sgd", "sm3"])
def test_an_index_out_of_range_moves_nothing(kind, face, compiled, wrong):
    """Of no variable of the call, not even of those before it."""
    optimizer = ROW_OPTIMIZERS[kind](learning_rate=0.1)
    if face == "keras":
        if optimizer.shared_names:
            return
        optimizer = optimizer.keras()
    first, second = (tf.Variable(tf.ones([4, 2]), name=name) for name in "ab")

    def apply(ids):
        return optimizer.apply_gradients(
            [(tf.ones([4, 2]), first), (tf.IndexedSlices(tf.ones([2, 2]), ids), second)]
        )

    with pytest.raises(tf.errors.InvalidArgumentError, match=r"variable b.*not in \[0, 4\)"):
        (tf.function(apply) if compiled else apply)(tf.constant([1, wrong]))
    np.testing.assert_array_equal([first, second], np.ones([2, 4, 2]))


def test_a_variable_is_given_once():
    variable = tf.Variable(1.0, name="v")
    with pytest.raises(ValueError, match="variable v occurs twice; sum its gradients"):
        SGD(0.1).apply_gradients([(tf.constant(1.0), variable)] * 2)
    with pytest.raises(TypeError, match="found ndarray"):
        SGD(0.1).apply_gradients([(tf.constant(1.0), np.ones(1))])


@EVERY_FACE
@pytest.mark.parametrize("gradient", [tf.ones([3]), rows([1.0, 1.0], [0, 2])], ids=["dense", "rows"])
def test_constraints_are_applied(make, gradient):
    variable, optimizer = tf.Variable(tf.zeros([3]), constraint=lambda w: tf.maximum(w, -0.01)), make()
    tf.function(lambda: optimizer.apply_gradients([(gradient, variable)]))()
    assert variable.numpy().min() == np.float32(-0.01)


@pytest.mark.parametrize("make", [lambda: SGD(1.0), lambda: SGD(1.0).keras()], ids=["plain", "keras"])
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_sums_of_half_precision_are_float32(make, kind):
    """4,096 times 1 on top of each other: float16 stands still at 2,048, bfloat16 at 256."""
    variable = tf.Variable(tf.zeros([2, 1], kind))
    many = tf.IndexedSlices(tf.ones([4096, 1], kind), tf.zeros([4096], tf.int32))
    make().apply_gradients([(many, variable)])
    assert variable.numpy()[:, 0].tolist() == [-4096, 0]


_REPLICAS = """
import tensorflow as tf
cpu, one = tf.config.list_physical_devices("CPU")[0], tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [one] * 2)
from trainer.optimizers import SM3, LazyAdam
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    table, plain, keras = tf.Variable(tf.zeros([4, 1])), LazyAdam(0.1), LazyAdam(0.1).keras()
def step(optimizer):
    def replica():
        here = tf.distribute.get_replica_context().replica_id_in_sync_group
        optimizer.apply_gradients([(tf.IndexedSlices([[1.0]], tf.reshape(here, [1])), table)])
    strategy.run(replica)
for optimizer in (plain, SM3(0.1)):
    try:
        tf.function(step)(optimizer)
    except ValueError as error:
        print(str(error).splitlines()[-1].strip())
try:
    plain.apply_gradients([(tf.ones([4, 1]), table)])
except ValueError as error:
    print(error)
tf.function(step)(keras)
print([[round(float(x), 3) for x in copy[:, 0]] for copy in strategy.experimental_local_results(table)])
"""


def test_copies_on_several_replicas_do_not_drift_apart():
    done = subprocess.run([sys.executable, "-c", _REPLICAS], capture_output=True, text=True)
    *refused, moved = done.stdout.splitlines() or [done.stderr]
    sentence = (
        "apply_gradients does not sum the gradients of 2 replicas; use the optimizer that .keras() returns"
    )
    assert len(refused) == 3 and all(sentence in line for line in refused), done.stderr
    assert moved == "[[-0.1, -0.1, 0.0, 0.0], [-0.1, -0.1, 0.0, 0.0]]"


def test_negative_indices_are_no_silent_zero_under_adam():
    """tf.math.unsorted_segment_sum drops them."""
    variable = tf.Variable(tf.ones([3, 1]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="index -2 of its gradient"):
        Adam(0.1).apply_gradients([(rows([[1.0]], [-2]), variable)])

"""State of plain variables: found by the variable in checkpoints and SavedModels, or refused."""

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import ConfigError
from trainer.optimizers import ROW_OPTIMIZERS, SGD, SM3, Adagrad, LazyAdam

pytestmark = pytest.mark.any_python


def trained(kind, names=("user", "item")):
    """Variables of equal name and shape under an optimizer, with states that differ."""
    variables = {name: tf.Variable(tf.ones([3, 2]), name="table") for name in names}
    optimizer = ROW_OPTIMIZERS[kind](0.1)
    for scale, variable in enumerate(variables.values(), 1):
        optimizer.apply_gradients([(tf.fill([3, 2], 10.0**scale), variable)])
    return optimizer, variables


@pytest.mark.parametrize("how", ["first use", "built", "built in the other order"])
@pytest.mark.parametrize("kind", ["adagrad", "lazy_adam", "sm3"])
def test_a_restored_variable_has_its_own_slots_in_any_order(kind, how, tmp_path):
    optimizer, variables = trained(kind)
    path = tf.train.Checkpoint(optimizer=optimizer, **variables).save(str(tmp_path / "c"))
    others = {name: tf.Variable(tf.zeros([3, 2]), name="table") for name in variables}
    restored = ROW_OPTIMIZERS[kind](0.1)
    if how != "first use":
        restored.build(list(others.values())[:: 1 if how == "built" else -1])
    status = tf.train.Checkpoint(optimizer=restored, **others).restore(path)
    for opt, named in ((optimizer, variables), (restored, others)):
        opt.apply_gradients([(tf.ones([3, 2]), named["item"])])
        opt.apply_gradients([(tf.ones([3, 2]), named["user"])])
    status.assert_consumed()
    for name in variables:
        np.testing.assert_array_equal(others[name], variables[name])
    assert int(restored.updates.iterations) == 4


@pytest.mark.parametrize("kind", ["adagrad", "sm3"])
def test_a_checkpoint_without_the_variables_is_refused(kind, tmp_path):
    """Their slots would be silently missing."""
    optimizer, variables = trained(kind)
    for left in ({}, {"user": variables["user"]}):
        with pytest.raises(ValueError, match=r"without \d of its variables.* pass the variables"):
            tf.train.Checkpoint(optimizer=optimizer, **left).save(str(tmp_path / "c"))
    tf.train.Checkpoint(optimizer=SGD(0.1)).save(str(tmp_path / "without state"))


class OldLayout(tf.Module):
    """An optimizer's state as it was kept in the order of first use."""

    def __init__(self):
        super().__init__()
        self.updates = tf.Module()
        self.updates.iterations = tf.Variable(3, dtype=tf.int64)
        self.updates.slots = {"000": [tf.Variable(tf.ones([3, 2]))]}


def test_a_checkpoint_by_order_of_first_use_is_refused(tmp_path):
    path = tf.train.Checkpoint(optimizer=OldLayout()).save(str(tmp_path / "c"))
    optimizer, variable = Adagrad(0.1), tf.Variable(tf.ones([3, 2]))
    tf.train.Checkpoint(optimizer=optimizer, variable=variable).restore(path)
    with pytest.raises(ValueError, match="stores slots in order of first use"):
        optimizer.build([variable])


class Trainer(tf.Module):
    """A model that trains itself, to be exported whole."""

    def __init__(self, optimizer):
        super().__init__()
        self.table, self.optimizer = tf.Variable(tf.ones([4, 2])), optimizer

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def step(self, ids):
        rows = tf.IndexedSlices(tf.ones([tf.size(ids), 2]), ids)
        self.optimizer.apply_gradients([(rows, self.table)])
        return self.table.read_value()


@pytest.mark.parametrize("optimizer", [LazyAdam, SM3])
def test_a_saved_model_that_trains(optimizer, tmp_path):
    model, ids = Trainer(optimizer(0.1)), tf.constant([1, 2], tf.int64)
    model.step(ids)
    tf.saved_model.save(model, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.step(ids), model.step(ids))
    tf.train.Checkpoint(model=model).save(str(tmp_path / "c"))  # and is still checkpointed by variable
    assert any("OPTIMIZER_SLOT" in name for name, _ in tf.train.list_variables(str(tmp_path)))


def test_slots_are_named():
    variable, optimizer = tf.Variable(tf.ones([3, 2]), name="table"), LazyAdam(0.1, amsgrad=True)
    assert optimizer.get_slot(variable, "m") is None
    optimizer.build([variable])
    assert [optimizer.get_slot(variable, name).name for name in optimizer.slot_names] == [
        "table/m:0",
        "table/v:0",
        "table/v_max:0",
    ]
    assert optimizer.get_slot(variable, "momentum") is None


@pytest.mark.parametrize("kind", ["sgd", "lazy_adam", "sm3"])
def test_minimize(kind):
    table, bias = tf.Variable(tf.ones([4, 2])), tf.Variable(0.5)

    def loss():
        return tf.reduce_sum(tf.gather(table, [1, 1, 3])) * bias

    optimizer = ROW_OPTIMIZERS[kind](0.1)
    optimizer.minimize(loss, [table, bias])
    assert (table.numpy() < 1).all(axis=1).tolist() == [False, True, False, True] and float(bias) < 0.5
    with tf.GradientTape() as tape:
        value = loss()
    optimizer.minimize(value, lambda: [table], tape)
    with pytest.raises(ValueError, match="`tape` is required"):
        optimizer.minimize(value, [table])


@pytest.mark.parametrize("optimizer", [SGD, SM3])
def test_a_rate_that_is_set_is_obeyed_or_refused(optimizer):
    """Eagerly, and with a tf.Variable everywhere; a number that a tf.function holds cannot change."""
    one = tf.constant([1.0])
    variable, eager = tf.Variable([0.0]), optimizer(learning_rate=0.5)
    eager.apply_gradients([(one, variable)])
    eager.learning_rate = 2.0
    assert eager.config.learning_rate == eager.learning_rate == 2.0
    before = float(variable[0])
    eager.apply_gradients([(one, variable)])
    assert before - float(variable[0]) > 1.0
    with pytest.raises(ConfigError, match="learning_rate: Input should be greater than 0"):
        eager.learning_rate = -1.0

    number, variable = optimizer(learning_rate=0.5), tf.Variable([0.0])
    tf.function(lambda: number.apply_gradients([(one, variable)]))()
    with pytest.raises(ConfigError, match="compiled into a tf.function.* with a tf.Variable"):
        number.learning_rate = 2.0

    rate, variable = tf.Variable(0.5), tf.Variable([0.0])
    given = optimizer(learning_rate=rate)
    step = tf.function(lambda: given.apply_gradients([(one, variable)]))
    step()
    given.learning_rate = 50.0
    before = float(variable[0])
    step()
    assert float(rate) == 50.0 and before - float(variable[0]) > 10.0

"""The interfaces of each optimizer, and other libraries, against its row mathematics."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from configs.errors import ConfigError
from tests.support.addons import needs_addons
from tests.trainer.optimizers.test_optimizers_contract import (
    BATCH,
    CASES,
    DIM,
    ROWS,
    SECTIONS,
    batches,
    initial_weight,
    make,
    records,
    rows_engine,
    step_of,
    table_of,
)
from trainer.addons import import_addons
from trainer.averages import Exponential
from trainer.optimizers import SGD
from trainer.optimizers.schedules import warm_up

pytestmark = pytest.mark.any_python

DENSE = [case for case in CASES if case[0] in ("adam", "adagrad", "sgd", "momentum", "ftrl")]
TPU = [
    ("lazy_adam", {}),
    ("lazy_adam", {"bias_correction": "none"}),
    ("adagrad", {}),
    ("sgd", {}),
    ("ftrl", {"l1": 0.3, "l2": 0.1, "beta": 0.2, "learning_rate_power": -0.7}),
]


def dense_gradients(steps=120):
    rng = np.random.default_rng(3)
    return [tf.constant(rng.normal(size=(ROWS, DIM)).astype(np.float32)) for _ in range(steps)]


@pytest.mark.parametrize(("kind", "options"), DENSE, ids=str)
def test_the_dense_face_equals_the_rows(kind, options):
    """Under gradients of all rows, Keras' own optimizer and the row mathematics do the same."""
    optimizer, ours = make(kind, options), tf.Variable(initial_weight())
    keras, theirs = optimizer.dense(), tf.Variable(initial_weight())
    keras.build([theirs])
    one = tf.function(lambda g: optimizer.apply_gradients([(g, ours)]))
    other = tf.function(lambda g: keras.apply_gradients([(g, theirs)]))
    for gradient in dense_gradients():
        one(gradient)
        other(gradient)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def sparse_run(kind, options, apply, steps=120):
    """(our table's values, a variable that `apply(variable, ids, summed gradient)` moved) under Zipf ids."""
    table, theirs = table_of(rows_engine, make(kind, options)), tf.Variable(initial_weight())
    step = step_of(table)
    for t, (ids, gradient, _) in enumerate(batches(steps), start=1):
        step(ids, gradient, t, np.float32(1))
        unique, where = np.unique(ids, return_inverse=True)
        summed = np.zeros([len(unique), DIM], np.float32)
        np.add.at(summed, where, gradient)
        apply(theirs, tf.constant(unique), tf.constant(summed))
    return records(table), theirs


@needs_addons
def test_lazy_adam_equals_addons():
    addons = import_addons().optimizers.LazyAdam(0.05)
    ours, theirs = sparse_run(
        "lazy_adam", {}, lambda v, ids, g: addons.apply_gradients([(tf.IndexedSlices(g, ids), v)])
    )
    np.testing.assert_allclose(ours["weight"], theirs, atol=2e-5)
    np.testing.assert_allclose(ours["v"], addons.get_slot(theirs, "v"), rtol=1e-4)


@pytest.mark.parametrize("kind", ["adagrad", "sgd", "adam"])
def test_sparse_keras(kind):
    """Adam of Keras under IndexedSlices moves all rows: what `adam` on a table is."""
    types = {name: getattr(tf_keras.optimizers, name) for name in ("Adagrad", "SGD", "Adam")}
    keras = types[{"adagrad": "Adagrad", "sgd": "SGD", "adam": "Adam"}[kind]](0.05)
    ours, theirs = sparse_run(
        kind, {}, lambda v, ids, g: keras.apply_gradients([(tf.IndexedSlices(g, ids), v)])
    )
    np.testing.assert_allclose(ours["weight"], theirs, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sparse_momentum_equals_the_kernel(nesterov):
    velocity = tf.Variable(tf.zeros([ROWS, DIM]))

    def apply(variable, ids, gradient):
        tf.raw_ops.ResourceSparseApplyKerasMomentum(
            var=variable.handle,
            accum=velocity.handle,
            lr=0.05,
            grad=gradient,
            indices=ids,
            momentum=0.9,
            use_nesterov=nesterov,
        )

    ours, theirs = sparse_run("momentum", {"nesterov": nesterov}, apply)
    np.testing.assert_allclose(ours["weight"], theirs, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(ours["velocity"], velocity, atol=1e-5)


def test_sparse_ftrl_equals_the_kernel():
    accumulator, linear = tf.Variable(tf.fill([ROWS, DIM], 0.1)), tf.Variable(tf.zeros([ROWS, DIM]))

    def apply(variable, ids, gradient):
        tf.raw_ops.ResourceSparseApplyFtrl(
            var=variable.handle,
            accum=accumulator.handle,
            linear=linear.handle,
            grad=gradient,
            indices=ids,
            lr=0.05,
            l1=2.0,
            l2=0.1,
            lr_power=-0.5,
        )

    ours, theirs = sparse_run("ftrl", {"l1": 2.0, "l2": 0.1}, apply)
    np.testing.assert_allclose(ours["weight"], theirs, atol=1e-5, rtol=1e-5)
    assert 0.1 < (ours["weight"] == 0).mean() < 0.9  # L1 at work


def test_sparse_shrinkage_equals_the_kernel():
    accumulator, linear = tf.Variable(tf.fill([ROWS, DIM], 0.1)), tf.Variable(tf.zeros([ROWS, DIM]))

    def apply(variable, ids, gradient):
        tf.raw_ops.ResourceSparseApplyFtrlV2(
            var=variable.handle,
            accum=accumulator.handle,
            linear=linear.handle,
            grad=gradient,
            indices=ids,
            lr=0.05,
            l1=0.3,
            l2=0.1,
            l2_shrinkage=0.2,
            lr_power=-0.5,
        )

    ours, theirs = sparse_run("ftrl", {"l1": 0.3, "l2": 0.1, "l2_shrinkage": 0.2}, apply)
    np.testing.assert_allclose(ours["weight"], theirs, atol=1e-5, rtol=1e-4)


def test_sparse_amsgrad_equals_keras():
    """Under gradients of the same rows at every step, lazy or not makes no difference."""
    keras = tf_keras.optimizers.legacy.Adam(0.05, beta_2=0.9, amsgrad=True)
    optimizer = make("lazy_adam", {"beta_2": 0.9, "amsgrad": True})
    ours, theirs = tf.Variable(initial_weight()), tf.Variable(initial_weight())
    rng, ids = np.random.default_rng(3), tf.constant([3, 1, 7])
    for t in range(60):
        gradient = tf.constant((rng.normal(size=(3, DIM)) * (10 if t == 5 else 1)).astype(np.float32))
        for opt, variable in ((optimizer, ours), (keras, theirs)):
            opt.apply_gradients([(tf.IndexedSlices(gradient, ids), variable)])
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    np.testing.assert_allclose(optimizer.get_slot(ours, "v_max"), keras.get_slot(theirs, "vhat"), rtol=1e-5)


def test_adam_on_a_table_is_dense_adam_averages_included():
    rule, keras = Exponential(0.95), tf_keras.optimizers.Adam(0.05)
    table, theirs = table_of(rows_engine, make("adam", {}), rule), tf.Variable(initial_weight())
    step, average = step_of(table), initial_weight().astype(np.float64)
    for t, (ids, gradient, _) in enumerate(batches(120), start=1):
        step(ids, gradient, t, np.float32(1))
        keras.apply_gradients([(tf.IndexedSlices(tf.constant(gradient), tf.constant(ids)), theirs)])
        average = 0.95 * average + 0.05 * theirs.numpy()
    np.testing.assert_allclose(records(table)["weight"], theirs, atol=2e-5)
    np.testing.assert_allclose(table.read_weights(np.arange(ROWS), True, 120.0), average, atol=2e-5)


def engine_update(optimizer, weight, slots, g):
    """One step of TensorFlow's TPU embedding engine (tensorflow/core/tpu/kernels) in float64."""
    rate = optimizer.learning_rate() if callable(optimizer.learning_rate) else optimizer.learning_rate
    rate, name = float(rate), type(optimizer).__name__
    if name == "SGD":
        return weight - rate * g, slots
    if name == "Adagrad":
        a = slots[0] + g**2
        return weight - rate * g / np.sqrt(a), [a]
    if name == "Adam":
        assert not optimizer.sum_inside_sqrt and optimizer.lazy_adam
        m = optimizer.beta_1 * slots[0] + (1 - optimizer.beta_1) * g
        v = optimizer.beta_2 * slots[1] + (1 - optimizer.beta_2) * g**2
        return weight - rate * m / (np.sqrt(v) + optimizer.epsilon), [m, v]
    assert name == "FTRL" and not optimizer.multiply_linear_by_learning_rate
    p = -optimizer.learning_rate_power
    n = slots[0] + g**2
    z = slots[1] + g - (n**p - slots[0] ** p) / rate * weight
    l1, l2 = optimizer.l1_regularization_strength, optimizer.l2_regularization_strength
    return (np.clip(z, -l1, l1) - z) / ((n**p + optimizer.beta) / rate + 2 * l2), [n, z]


@pytest.mark.parametrize("multiplier", [None, warm_up(20, 2.0)], ids=["constant", "warm-up"])
@pytest.mark.parametrize(("kind", "options"), TPU, ids=str)
def test_the_tpu_face_equals_the_rows(kind, options, multiplier):
    now = tf.Variable(0.0)
    engine = make(kind, options).tpu(step=now.read_value, multiplier=multiplier)
    table = table_of(rows_engine, make(kind, options))
    step, weight = step_of(table), initial_weight().astype(np.float64)
    slots = [
        np.full([ROWS, DIM], float(initializer(())), np.float64)
        for initializer in (engine._slot_initializers() if kind != "sgd" else [])
    ]
    for t, (ids, gradient, _) in enumerate(batches(120), start=1):
        now.assign(t)
        rate = 1.0 if multiplier is None else float(multiplier(now))
        step(ids, gradient, t, np.float32(rate))
        g, u = np.zeros([ROWS, DIM]), np.unique(ids)
        np.add.at(g, ids, gradient)
        weight[u], new = engine_update(engine, weight[u], [slot[u] for slot in slots], g[u])
        for slot, value in zip(slots, new, strict=True):
            slot[u] = value
    np.testing.assert_allclose(records(table)["weight"], weight, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("kind", "options"), TPU, ids=str)
def test_the_tpu_face_makes_tables(kind, options):
    """TensorFlow's own embedding API takes the object, makes its slots and reads its parameters."""
    tf.random.set_seed(1)  # its initializers are random ops, which op determinism asks a seed of
    api = tf.tpu.experimental.embedding
    optimizer = make(kind, options).tpu(step=lambda: tf.constant(1.0), multiplier=warm_up(5, 2.0))
    config = api.TableConfig(vocabulary_size=8, dim=4, optimizer=optimizer, name="t")
    embedding = api.TPUEmbedding(api.FeatureConfig(config), optimizer=None)
    embedding.build(8)
    variables = embedding._variables["t"]
    assert len(variables) == 1 + len(make(kind, options).slot_names)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lazy_adam", {"bias_correction": "per_row"}, "does not count a row's updates"),
        ("lazy_adam", {"clip_value": 1.0}, "SparseCore ignores or refuses clip_value"),
        ("lazy_adam", {"amsgrad": True}, "does not keep the largest second moment; remove amsgrad"),
        ("ftrl", {"l2_shrinkage": 0.1}, "FTRL has no shrinkage; remove l2_shrinkage or use l2"),
        ("sgd", {"weight_decay": 0.1}, "SparseCore ignores or refuses weight_decay"),
        ("adam", {}, "SparseCore updates touched rows only; use lazy_adam"),
        (
            "adagrad",
            {"initial_accumulator_value": 0.0},
            "would divide by 0; set initial_accumulator_value above",
        ),
        ("rowwise_adagrad", {}, "use adagrad"),
        ("momentum", {}, "AdagradMomentum, divides by Adagrad's root"),
    ],
)
def test_what_no_tpu_can_do_is_said(kind, options, message):
    with pytest.raises(ConfigError, match=f"^optimizer {kind} is not available on TPUs: .*{message}"):
        make(kind, options).tpu(step=lambda: tf.constant(1.0))


def test_a_changing_rate_needs_the_step():
    with pytest.raises(ConfigError, match="changes with the step; pass step"):
        make("lazy_adam", {}).tpu()
    assert make("sgd", {}).tpu().learning_rate == 0.05


@pytest.mark.parametrize("multiplier", [None, warm_up(4, 1.0)], ids=["constant", "warm-up"])
@pytest.mark.parametrize(
    "rate", [lambda step: 0.5, tf.Variable(0.5), 0.5], ids=["function", "variable", "number"]
)
def test_rates_of_the_engine(rate, multiplier):
    found = SGD(rate).tpu(step=lambda: tf.constant(2.0), multiplier=multiplier).learning_rate
    assert float(found() if callable(found) else found) == (0.5 if multiplier is None else 0.25)


@pytest.mark.parametrize(("kind", "use"), [("lazy_adam", "use adam"), ("rowwise_adagrad", "use adagrad")])
def test_what_is_for_rows_only_says_so(kind, use):
    with pytest.raises(ConfigError, match=use):
        make(kind, {}).dense()


def test_the_first_updates_of_a_rare_row():
    """Late in a run, under global, they are 3.16 times, then up to 6.6 times what per_row gives."""
    size = {}
    for rule in ("global", "per_row", "none"):
        optimizer = make("lazy_adam", {"bias_correction": rule}, learning_rate=1.0)
        weight = tf.zeros([1, 1])
        slots, moves = optimizer.initial_slots(weight), []
        for k in range(400):
            after, slots = optimizer.row_update(weight, slots, tf.ones([1, 1]), tf.constant(1e6 + k), 1.0)
            moves.append((weight - after).numpy()[0, 0])
            weight = after
        size[rule] = np.array(moves)
    np.testing.assert_allclose(size["per_row"], 1.0, rtol=1e-3)
    np.testing.assert_allclose(size["global"], size["none"], rtol=1e-4)
    assert (
        size["global"][0]
        == pytest.approx((1 - 0.9) / np.sqrt(1 - 0.999), rel=1e-4)
        == pytest.approx(3.162, rel=1e-3)
    )
    peak = size["global"].argmax() + 1
    assert (peak, round(size["global"].max(), 1)) == (12, 6.6)


def test_the_suite_covers_every_section():
    assert {kind for kind, _ in CASES} == set(SECTIONS) and BATCH < ROWS

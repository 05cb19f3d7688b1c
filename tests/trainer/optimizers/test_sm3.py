"""SM3 against a NumPy reference: dense of any rank, sparse, in tables, in checkpoints and in a run."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.load import parse_config
from configs.sections.optimizers import LazyAdamConfig, SM3Config
from tests.support.checkpoint_state import newest_state
from tests.support.tiny_run import planted_document, write_planted
from tests.trainer.optimizers.sm3_reference import Reference
from trainer.averages import Exponential
from trainer.checkpoints.store import CheckpointStore
from trainer.embeddings.engines import TABLE_ENGINES
from trainer.embeddings.engines.rows import RecordTable
from trainer.embeddings.engines.stored import StoredTable
from trainer.embeddings.pooling import of_distinct
from trainer.optimizers import SM3
from trainer.optimizers.lazy_adam import LazyAdam
from trainer.optimizers.sm3_maths import sm3_accumulators, sm3_update
from trainer.report.metrics_file import read_metrics
from trainer.training.run import train

pytestmark = pytest.mark.any_python

ROWS, DIM, STEPS, BATCH = 40, 6, 200, 12
VARIANTS = {
    "accumulate": {},
    "momentum": {"momentum": 0.9},
    "average": {"beta": 0.9},
    "average, momentum": {"beta": 0.99, "momentum": 0.5},
}
# Where the sparse path equals the dense algorithm.
EXACT = ["accumulate", "average"]


def batches(seed=0, dim=(DIM,)):
    """Zipf ids with repeats, gradients whose columns differ in scale, and rate multipliers of each step."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, ROWS + 1) ** 1.3
    scale = 10.0 ** rng.uniform(-2, 1, size=dim)
    for _ in range(STEPS):
        ids = rng.choice(ROWS, BATCH, p=share / share.sum())
        yield ids, (scale * rng.normal(size=(BATCH, *dim))).astype(np.float32), np.float32(rng.random())


def summed(ids, gradient):
    """The dense gradient of a batch, float64."""
    result = np.zeros((ROWS, *gradient.shape[1:]))
    np.add.at(result, ids, gradient)
    return result


def assert_state_close(optimizer, variable, reference, **tolerance):
    np.testing.assert_allclose(variable.numpy(), reference.weight, **tolerance)
    for axis, accumulator in enumerate(optimizer.updates.slots(variable).accumulators):
        expected = reference.accumulator(axis).reshape(accumulator.shape)
        np.testing.assert_allclose(accumulator.numpy(), expected, **tolerance)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("shape", [(), (7,), (5, 4), (4, 1), (3, 4, 2)], ids=str)
def test_dense_equals_numpy(shape, options):
    rng = np.random.default_rng(len(shape))
    variable = tf.Variable(rng.normal(size=shape).astype(np.float32))
    reference, optimizer = Reference(variable.numpy(), **options), SM3(**options)
    step = tf.function(lambda gradient: optimizer.apply_gradients([(gradient, variable)]))
    for t in range(30):
        gradient = np.where(rng.random(shape) < 0.3, 0.0, rng.normal(size=shape)).astype(np.float32)
        step(tf.constant(gradient * (t != 3)))
        reference.step(gradient * (t != 3))
    assert_state_close(optimizer, variable, reference, rtol=2e-5, atol=1e-6)
    shapes = [tuple(a.shape) for a in optimizer.updates.slots(variable).accumulators]
    assert shapes == ([(n,) for n in shape] or [()])


@pytest.mark.parametrize("beta", [None, 0.9])
def test_rank_one_is_adagrad_or_its_moving_average(beta):
    weight, sums = tf.zeros([3]), np.zeros(3)
    state = sm3_accumulators([3])
    for gradient in ([1.0, -2.0, 0.0], [0.5, 0.0, 0.0]):
        weight, state, trace = sm3_update(weight, state, None, tf.constant(gradient), 0.1, beta=beta)
        squares = np.square(gradient)
        sums = sums + squares if beta is None else beta * sums + (1 - beta) * squares
    np.testing.assert_allclose(state[0], sums, rtol=1e-6)
    assert trace is None and float(weight[2]) == 0.0


@pytest.mark.parametrize("options", [VARIANTS[name] for name in EXACT], ids=EXACT)
@pytest.mark.parametrize("dim", [(), (DIM,), (3, 2)], ids=str)
def test_sparse_rows_equal_the_dense_algorithm(dim, options):
    initial = np.random.default_rng(1).normal(size=(ROWS, *dim)).astype(np.float32)
    sparse, dense = (tf.Variable(initial) for _ in range(2))
    reference, optimizer = Reference(initial, **options), SM3(**options)

    @tf.function
    def step(ids, values, gradient):
        optimizer.apply_gradients([(tf.IndexedSlices(values, ids), sparse), (gradient, dense)])

    for ids, values, _ in batches(dim=dim):
        gradient = summed(ids, values)
        step(tf.constant(ids), tf.constant(values), tf.constant(gradient, tf.float32))
        reference.step(gradient)
    assert_state_close(optimizer, dense, reference, rtol=1e-4, atol=1e-5)
    if "beta" in options:
        slots = optimizer.updates.slots(sparse)
        missed = int(slots.step) - slots.last.numpy()
        assert missed.max() > 3  # some rows wait to be caught up
        slots.accumulators[0].assign(slots.accumulators[0] * options["beta"] ** missed.astype(np.float32))
    assert_state_close(optimizer, sparse, reference, rtol=1e-4, atol=1e-5)


def test_accumulating_sparse_rows_equal_dense_ones_to_the_last_bit():
    """Whole numbers, so that sums of repeated ids have no rounding either."""
    sparse, dense = (tf.Variable(tf.ones([ROWS, DIM])) for _ in range(2))
    optimizer = SM3()
    for ids, values, _ in batches(3):
        values = np.round(values)
        gradient = tf.constant(summed(ids, values), tf.float32)
        optimizer.apply_gradients([(tf.IndexedSlices(tf.constant(values), ids), sparse), (gradient, dense)])
        np.testing.assert_array_equal(sparse, dense)
        for a, b in zip(*(optimizer.updates.slots(v).accumulators for v in (sparse, dense)), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("beta", [None, 0.9])
def test_with_momentum_sparse_rows_do_not_equal_dense_ones(beta):
    """Densely, an untouched row goes on by its momentum; sparse rows rest. Accumulators agree."""
    sparse, dense = (tf.Variable(tf.ones([2, 2])) for _ in range(2))
    optimizer = SM3(learning_rate=0.5, momentum=0.5, beta=beta)
    for touched in (0, 1, 1):
        gradient = tf.one_hot([touched], 2, axis=0) * tf.constant([1.0, 2.0])
        rows = tf.IndexedSlices(tf.constant([[1.0, 2.0]]), [touched])
        optimizer.apply_gradients([(rows, sparse), (gradient, dense)])
    assert np.abs(sparse.numpy() - dense.numpy())[0].min() > 0.1
    np.testing.assert_allclose(sparse[1], dense[1], rtol=1e-6)
    columns = [optimizer.updates.slots(variable).accumulators[1] for variable in (sparse, dense)]
    np.testing.assert_allclose(*columns, rtol=1e-6)


def test_the_column_accumulator_keeps_what_touched_rows_do_not_reach():
    """Maximum over touched rows alone would forget: 100 from row 0 must outlive a step of row 1."""
    variable, optimizer = tf.Variable(tf.zeros([2, 1])), SM3()
    for row, value in ((0, 10.0), (1, 1.0)):
        optimizer.apply_gradients([(tf.IndexedSlices(tf.constant([[value]]), [row]), variable)])
    assert optimizer.updates.slots(variable).accumulators[1].numpy().tolist() == [100.0]


def test_a_variable_may_take_dense_gradients_rows_and_none():
    variable, other = tf.Variable(tf.ones([4, 2])), tf.Variable(1.0, dtype=tf.float64)
    optimizer, reference = SM3(beta=0.8, learning_rate=lambda step: 0.1), Reference(np.ones([4, 2]), beta=0.8)
    values = tf.constant([[1.0, 3.0], [1.0, 1.0], [2.0, 0.5]])
    rows = tf.IndexedSlices(values, tf.constant([2, 2, 0]), tf.constant([4, 2]))
    for gradient in (rows, tf.constant([[1.0, -1.0]] * 4), None, rows, rows, tf.ones([4, 2])):
        optimizer.apply_gradients([(gradient, variable), (tf.constant(1.0), other)])
        if gradient is not None:
            reference.step(tf.convert_to_tensor(gradient))
    assert_state_close(optimizer, variable, reference, rtol=1e-5)
    assert optimizer.updates.slots(other).accumulators[0].dtype == tf.float64


def test_an_empty_batch_of_rows_moves_nothing():
    variable, optimizer = tf.Variable(tf.ones([3, 2])), SM3()
    empty = tf.IndexedSlices(tf.zeros([0, 2]), tf.zeros([0], tf.int64))
    optimizer.apply_gradients([(empty, variable)])
    assert np.isfinite(optimizer.updates.slots(variable).accumulators[1].numpy()).all()
    np.testing.assert_array_equal(variable, np.ones([3, 2]))


@pytest.mark.parametrize("built", [True, False])
def test_the_optimizer_is_checkpointed(tmp_path, built):
    def make():
        return tf.Variable(tf.ones([3, 2])), SM3(momentum=0.9, beta=0.9)

    rows = tf.IndexedSlices(tf.constant([[1.0, 2.0]]), tf.constant([1]))
    variable, optimizer = make()
    optimizer.apply_gradients([(rows, variable)])
    path = tf.train.Checkpoint(optimizer=optimizer, variable=variable).save(str(tmp_path / "c"))
    other, restored = make()
    if built:
        restored.build([other])
    tf.train.Checkpoint(optimizer=restored, variable=other).restore(path)
    for opt, var in ((optimizer, variable), (restored, other)):
        tf.function(opt.apply_gradients)([(rows, var)])
    assert len(optimizer.variables) == 6  # iterations, two accumulators, momentum, step, last steps
    for a, b in zip([variable, *optimizer.variables], [other, *restored.variables], strict=True):
        np.testing.assert_array_equal(a, b)


def trained_table(options, rule):
    """A table after all batches, its initial weights, and what the dense algorithm makes of them."""
    table = RecordTable("items", ROWS, DIM, SM3(SM3Config(kind="sm3", **options)), rule)
    table.initialize(0.1, seed=7)
    initial = table.read_weights(np.arange(ROWS), False, 0.0).numpy()
    reference, averages = Reference(initial, **options), initial.astype(np.float64)

    @tf.function
    def step(ids, gradient, step, multiplier):
        unique, where = of_distinct(ids, tf.identity)
        rows = tf.math.unsorted_segment_sum(gradient, where, tf.size(unique))
        table.update(table.lookup(unique), rows, step, multiplier)

    for t, (ids, gradient, multiplier) in enumerate(batches(), start=1):
        step(tf.constant(ids), tf.constant(gradient), tf.constant(float(t)), tf.constant(multiplier))
        reference.step(summed(ids, gradient), multiplier)
        averages += (1 - rule.decay) * (reference.weight - averages)
    return table, reference, averages


@pytest.mark.parametrize("options", [VARIANTS[name] for name in EXACT], ids=EXACT)
@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_a_table_and_its_average_equal_brute_force(options, decay):
    table, reference, averages = trained_table(options, Exponential(decay))
    weights = table.read_weights(np.arange(ROWS), False, float(STEPS))
    np.testing.assert_allclose(weights, reference.weight, atol=3e-5)
    np.testing.assert_allclose(table.read_weights(np.arange(ROWS), True, float(STEPS)), averages, atol=3e-5)
    np.testing.assert_allclose(table.shared["column_accumulator"], reference.accumulator(1), rtol=1e-4)
    if not options:
        rows = table.read_records(np.arange(ROWS)).numpy()[:, DIM]
        np.testing.assert_allclose(rows, reference.accumulator(0), rtol=1e-4)


def test_momentum_in_a_table_is_lazy():
    """Only touched rows move; the momentum is a slot as wide as the row."""
    table = RecordTable("t", 5, 2, SM3(SM3Config(kind="sm3", momentum=0.5, beta=0.9)), None)
    slots = [("accumulator", 1), ("accumulator_step", 1), ("momentum", 2)]
    assert table.parts == [("weight", 2), *slots, ("last_step", 1)]
    for t, row in enumerate((3, 1, 3), start=1):
        before = table.read_records(np.arange(5)).numpy()
        lookup = table.lookup(tf.constant([row], tf.int64))
        table.update(lookup, tf.ones([1, 2]), tf.constant(float(t)), tf.constant(1.0))
        changed = (before != table.read_records(np.arange(5)).numpy()).any(axis=1)
        assert np.flatnonzero(changed).tolist() == [row]


def test_rows_cannot_be_updated_without_the_columns():
    with pytest.raises(NotImplementedError, match="row_update_shared"):
        SM3(SM3Config(kind="sm3")).row_update(tf.zeros([1, 2]), [tf.zeros([1, 1])], tf.ones([1, 2]), 1.0, 0.1)


def test_the_addons_engine_refuses_sm3():
    with pytest.raises(ConfigError, match="engine: tfa does not support optimizer sm3; use engine: rows"):
        TABLE_ENGINES["tfa"]("x", 3, 2, SM3(SM3Config(kind="sm3")), None)


def large_table(**options):
    """25M x 32 as it would be trained, nothing allocated."""
    return StoredTable("user", 25_000_000, 32, SM3(SM3Config(kind="sm3", **options)), None)


def test_memory():
    assert large_table().optimizer_bytes == 100_000_128
    assert large_table(beta=0.99).optimizer_bytes == 200_000_128
    assert large_table(momentum=0.9).optimizer_bytes == 3_300_000_128
    adam = StoredTable("user", 25_000_000, 32, LazyAdam(LazyAdamConfig()), None)
    assert adam.optimizer_bytes == 6_400_000_000
    # The same arithmetic on a table whose variables exist.
    table = RecordTable("user", 250_000, 32, SM3(SM3Config(kind="sm3")), None)
    held = sum(variable.numpy().nbytes for variable in table.variables)
    assert held == table.bytes == 250_000 * (32 + 1) * 4 + table.optimizer_bytes
    assert table.optimizer_bytes == 250_000 * 4 + 32 * 4


def configured(directory, output, **optimizer):
    document = planted_document(str(directory))
    document["output"]["path"] = str(directory / output)
    for table in document["tables"].values():
        table["optimizer"] = {"kind": "sm3", **optimizer}
    return document


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sm3")
    write_planted(str(directory))
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, VARIANTS["average, momentum"]], ids=str)
def test_a_run_learns_and_beats_popularity(place, options):
    name = "-".join(options) or "accumulate"
    train(parse_config(configured(place, name, **options), "test"))
    lines = read_metrics(str(place / name))
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.05
    final = {x["scorer"]: x["ndcg@5"] for x in lines if x["kind"] == "evaluate" and x["step"] == 60}
    assert final["popularity"] < final["model"]


def test_a_resumed_run_equals_an_undisturbed_one(place):
    """The column accumulators are in the checkpoint: without them the steps after it would be longer."""
    train(parse_config(configured(place, "whole", beta=0.9), "test"))
    shutil.copytree(place / "whole", place / "parts")
    shutil.rmtree(place / "parts" / "checkpoints" / "step-000000060")
    train(parse_config(configured(place, "parts", beta=0.9), "test"))
    whole, parts = (newest_state(place / output) for output in ("whole", "parts"))
    assert whole["shared/user/column_accumulator"].min() > 0
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, err_msg=name)


def test_checkpoint_round_trip_of_the_column_accumulator(tmp_path):
    table = RecordTable("user", 10, 3, SM3(SM3Config(kind="sm3")), None)
    table.initialize(0.1, seed=1)
    lookup = table.lookup(tf.constant([2, 5], tf.int64))
    table.update(lookup, tf.constant([[1.0, 2.0, 3.0]] * 2), tf.constant(1.0), tf.constant(1.0))
    dense = {"shared/user/column_accumulator": table.shared["column_accumulator"]}
    store = CheckpointStore(str(tmp_path), 1, {})
    store.save(1, {"user": table}, dense)
    store.wait()
    other = RecordTable("user", 10, 3, SM3(SM3Config(kind="sm3")), None)
    into = {"shared/user/column_accumulator": other.shared["column_accumulator"]}
    assert CheckpointStore(str(tmp_path), 1, {}).restore_newest({"user": other}, into) == 1
    assert other.shared["column_accumulator"].numpy().tolist() == [1.0, 4.0, 9.0]
    np.testing.assert_array_equal(other.records, table.records)
    other.initialize(0.1, seed=1)
    assert other.shared["column_accumulator"].numpy().tolist() == [0.0] * 3


@pytest.mark.parametrize("wrong", [{"beta": 1.0}, {"beta": 0.0}, {"momentum": 1.0}, {"learning_rate": 0}])
def test_bounds(place, wrong):
    with pytest.raises(ConfigError, match=f"tables.user.optimizer.{next(iter(wrong))}: "):
        parse_config(configured(place, "none", **wrong), "test")


def test_an_optimizer_without_a_kind_is_lazy_adam(place):
    document = planted_document(str(place))
    assert parse_config(document, "test").tables["user"].optimizer.kind == "lazy_adam"
    document["tables"]["user"]["optimizer"]["kind"] = "sm4"
    with pytest.raises(ConfigError, match="tables.user.optimizer.kind: 'sm4' is unknown; .*sm3"):
        parse_config(document, "test")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 12), st.integers(0, 10**6))
def test_accumulators_bound_the_sums_of_squares(shape, steps, seed):
    """Anil et al. 2019, claim 2: a value's sum of squares is at most the least of its accumulators."""
    rng = np.random.default_rng(seed)
    sums, accumulators = np.zeros(shape), sm3_accumulators(shape)
    for _ in range(steps):
        gradient = rng.normal(size=shape) * rng.integers(0, 2, shape) * 10.0 ** rng.integers(-3, 4)
        sums += gradient.astype(np.float32).astype(np.float64) ** 2
        _, accumulators, _ = sm3_update(
            tf.zeros(shape), accumulators, None, tf.constant(gradient, tf.float32), tf.constant(0.1)
        )
        bound = accumulators[0].numpy().reshape([-1] + [1] * (len(shape) - 1))
        for axis, accumulator in enumerate(accumulators):
            bound = np.minimum(
                bound, accumulator.numpy().reshape([-1 if a == axis else 1 for a in range(len(shape))])
            )
        assert (sums <= np.broadcast_to(bound, shape) * (1 + 1e-5)).all()

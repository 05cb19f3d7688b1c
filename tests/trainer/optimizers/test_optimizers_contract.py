"""The contract of every optimizer of the registry, with every option that changes its numbers."""

import typing

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import ConfigError
from configs.sections.optimizers import TableOptimizer
from tests.trainer.optimizers.references import UPDATE, Reference
from trainer.averages import Exponential, Uniform
from trainer.embeddings.engines import TABLE_ENGINES
from trainer.optimizers import ROW_OPTIMIZERS

pytestmark = pytest.mark.any_python

ROWS, DIM, STEPS, BATCH = 120, 4, 130, 24
# Beside the defaults of every kind; each is one more row of the suite.
OPTIONS = [
    ("lazy_adam", {"bias_correction": "per_row"}),
    ("lazy_adam", {"bias_correction": "none"}),
    ("lazy_adam", {"beta_1": 0.0, "weight_decay": 0.1, "clip_value": 0.5}),
    ("lazy_adam", {"amsgrad": True}),
    ("lazy_adam", {"amsgrad": True, "bias_correction": "per_row", "beta_2": 0.9}),
    ("adam", {"weight_decay": 0.1, "clip_value": 0.5}),
    ("adam", {"amsgrad": True, "beta_2": 0.9}),
    ("adagrad", {"weight_decay": 0.1, "clip_value": 0.5}),
    ("rowwise_adagrad", {"initial_accumulator_value": 0.2, "weight_decay": 0.1}),
    ("sgd", {"weight_decay": 0.1, "clip_value": 0.5}),
    ("momentum", {"nesterov": True, "weight_decay": 0.1}),
    ("sm3", {"momentum": 0.5}),
    ("sm3", {"beta": 0.9}),
    ("ftrl", {"l1": 0.3, "l2": 0.1, "beta": 0.2, "learning_rate_power": -0.7, "clip_value": 0.5}),
    ("ftrl", {"l2_shrinkage": 0.02, "l2": 0.5}),
]
CASES = [(kind, {}) for kind in ROW_OPTIMIZERS] + OPTIONS
EVERY = pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
SECTIONS = {
    typing.get_args(section.model_fields["kind"].annotation)[0]: section
    for section in typing.get_args(typing.get_args(TableOptimizer)[0])
}


def make(kind, options, learning_rate=0.05):
    return ROW_OPTIMIZERS[kind](SECTIONS[kind](kind=kind, learning_rate=learning_rate, **options))


def batches(steps=STEPS, seed=0):
    """Zipf ids with repeats, gradients float32 [BATCH, DIM], rate multipliers."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, ROWS + 1) ** 1.1
    for _ in range(steps):
        ids = rng.choice(ROWS, BATCH, p=share / share.sum())
        yield ids, rng.normal(size=(BATCH, DIM)).astype(np.float32), np.float32(0.5 + rng.random() / 2)


def initial_weight():
    return np.random.default_rng(9).normal(size=(ROWS, DIM)).astype(np.float32)


@pytest.fixture(params=["rows", "native", "native_distinct"])
def engine(request):
    """Makes tables of row records: under TensorFlow's ops, and under compiled kernels where there is one.

    These sum gradients, or are given the sums.
    """

    def made(name, rows, optimizer, rule):
        if request.param.startswith("native") and optimizer.native is None:
            pytest.skip(f"{optimizer.config.kind} has no kernel")
        table = TABLE_ENGINES[request.param.removesuffix("_distinct")](name, rows, DIM, optimizer, rule)
        table.takes_repeats = request.param == "native"
        return table

    return made


def rows_engine(name, rows, optimizer, rule):
    """Tables whose numbers are those of TensorFlow's ops bit for bit."""
    return TABLE_ENGINES["rows"](name, rows, DIM, optimizer, rule)


def table_of(engine, optimizer, rule=None):
    """A record table that starts from `initial_weight`."""
    table = engine("t", ROWS, optimizer, rule)
    weight = tf.constant(initial_weight())
    extra = [*([] if rule is None else [weight]), tf.zeros([ROWS, 1])]
    table.write_records(0, tf.concat([weight, *optimizer.initial_slots(weight), *extra], axis=1))
    return table


def step_of(table):
    """A compiled step (ids with repeats, gradients, step, multiplier)."""

    @tf.function
    def step(ids, gradient, step, multiplier):
        if table.takes_repeats:
            table.update(table.lookup_each(ids), gradient, step, multiplier)
            return
        unique, where = tf.unique(ids)
        summed = tf.math.unsorted_segment_sum(gradient, where, tf.size(unique))
        table.update(table.lookup(unique), summed, step, multiplier)

    return lambda ids, g, t, m: step(*map(tf.constant, (ids, g, float(t), m)))


def records(table):
    """Values of all rows by name of the part."""
    values = table.read_records(np.arange(table.rows)).numpy()
    cuts = np.cumsum([width for _, width in table.parts])[:-1]
    return dict(zip([name for name, _ in table.parts], np.split(values, cuts, axis=1), strict=True))


# How an average follows a row does not depend on the options of the row's optimizer.
AVERAGED = [(Exponential(0.97, 10), *case) for case in CASES]
AVERAGED += [(Uniform(), kind, {}) for kind in ROW_OPTIMIZERS]


@pytest.mark.parametrize(
    ("rule", "kind", "options"), [case for case in AVERAGED if case[1] in UPDATE], ids=str
)
def test_a_table_equals_numpy_and_its_average_the_average_of_every_step(engine, kind, options, rule):
    optimizer = make(kind, options)
    table = table_of(engine, optimizer, rule)
    reference, step = Reference(optimizer.config, initial_weight()), step_of(table)
    average = reference.weight.copy()
    for t, (ids, gradient, multiplier) in enumerate(batches(), start=1):
        step(ids, gradient, t, multiplier)
        reference.step(ids, gradient, t, 0.05 * float(multiplier))
        share = 1 / t if isinstance(rule, Uniform) else 1 - rule.decay if t > 10 else 1.0
        average += share * (reference.weight - average)
    values = records(table)
    np.testing.assert_allclose(values["weight"], reference.weight, atol=3e-5, rtol=3e-5)
    for name, slot in zip(optimizer.slot_names, reference.slots, strict=True):
        np.testing.assert_allclose(values[name], slot, atol=3e-5, rtol=3e-5, err_msg=name)
    averaged = table.read_weights(np.arange(ROWS), True, float(STEPS)).numpy()
    np.testing.assert_allclose(averaged, average, atol=3e-5, rtol=3e-5)


@EVERY
def test_rows_without_gradient_stay_bit_for_bit(engine, kind, options):
    optimizer = make(kind, options)
    table = table_of(engine, optimizer, Exponential(0.9))
    step, history = step_of(table), list(batches(30))
    for t, batch in enumerate(history[:-1], start=1):
        step(*batch[:2], t, batch[2])
    before = table.read_records(np.arange(ROWS)).numpy()
    ids, gradient, multiplier = history[-1]
    step(ids, gradient, 30, multiplier)
    after = table.read_records(np.arange(ROWS)).numpy()
    moved = set(np.flatnonzero((before != after).any(axis=1)))
    assert set(ids) <= moved
    assert moved == (set(ids) if optimizer.lazy else set(range(ROWS)))


@EVERY
def test_repeated_indices_are_summed(kind, options):
    """[3, 1, 3] is one update of row 3 by the sum, and equals the summed gradient given once."""
    twice, once = (tf.Variable(initial_weight()) for _ in range(2))
    gradient = np.random.default_rng(1).normal(size=(3, DIM)).astype(np.float32)
    summed = np.stack([gradient[0] + gradient[2], gradient[1]])
    a, b = make(kind, options), make(kind, options)
    for _ in range(3):
        a.apply_gradients([(tf.IndexedSlices(tf.constant(gradient), tf.constant([3, 1, 3])), twice)])
        b.apply_gradients([(tf.IndexedSlices(tf.constant(summed), tf.constant([3, 1])), once)])
    np.testing.assert_array_equal(twice, once)
    assert (twice.numpy() != initial_weight())[[1, 3]].all(axis=1).all()


@EVERY
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "tf.function"])
def test_a_plain_variable_gets_the_numbers_of_a_table(kind, options, compiled):
    optimizer, variable = make(kind, options), tf.Variable(initial_weight())
    table = table_of(rows_engine, make(kind, options))

    def apply(ids, gradient):
        optimizer.apply_gradients([(tf.IndexedSlices(gradient, ids), variable)])

    apply, step = (tf.function(apply) if compiled else apply), step_of(table)
    for t, (ids, gradient, _) in enumerate(batches(30), start=1):
        apply(tf.constant(ids), tf.constant(gradient))
        step(ids, gradient, t, np.float32(1))
    values = records(table)
    np.testing.assert_allclose(variable, values["weight"], atol=1e-6, rtol=1e-5)
    if optimizer.shared_names:  # keeps its variables' state in a form of its own
        return
    for name, slot in zip(optimizer.slot_names, optimizer.updates.of(variable).values(), strict=True):
        largest = max(1.0, np.abs(values[name]).max())  # FTRL's sums of gradients cancel out
        np.testing.assert_allclose(slot, values[name], atol=1e-6 * largest, rtol=1e-5, err_msg=name)


@EVERY
def test_state_round_trips_through_records(engine, kind, options):
    """A run that is saved and loaded into a new table continues with the same bits."""
    history, table = list(batches(20)), table_of(engine, make(kind, options), Uniform())
    step = step_of(table)
    for t, batch in enumerate(history, start=1):
        if t == 11:
            saved = table.read_records(np.arange(ROWS)).numpy()
            other = engine("t", ROWS, make(kind, options), Uniform())
            other.write_records(0, saved[:50])
            other.write_records(50, saved[50:])
            for name, variable in other.shared.items():
                variable.assign(table.shared[name])
            resumed = step_of(other)
        step(*batch[:2], t, batch[2])
        if t >= 11:
            resumed(*batch[:2], t, batch[2])
    every = np.arange(ROWS)
    np.testing.assert_array_equal(table.read_records(every), other.read_records(every))


@EVERY
def test_arguments_round_trip(kind, options):
    """Keywords, the section that they make, and the section's dump all make the same optimizer."""
    optimizer_type = ROW_OPTIMIZERS[kind]
    by_keyword = optimizer_type(learning_rate=0.05, **options)
    assert by_keyword.config.model_dump() == make(kind, options).config.model_dump()
    for name, value in {"learning_rate": 0.05, **options}.items():
        assert getattr(by_keyword.config, name) == value
    assert optimizer_type(**by_keyword.config.model_dump(mode="json")).config == by_keyword.config
    assert optimizer_type(0.05, **options).config == by_keyword.config
    assert issubclass(SECTIONS[kind], optimizer_type.section)  # that of a table may have other defaults


@pytest.mark.parametrize("kind", ROW_OPTIMIZERS)
def test_wrong_arguments_are_named(kind):
    name = ROW_OPTIMIZERS[kind].__name__
    with pytest.raises(ConfigError, match=f"^{name}: learning_rat: unknown; did you mean learning_rate\\?$"):
        ROW_OPTIMIZERS[kind](learning_rat=1.0)
    with pytest.raises(ConfigError, match=f"^{name}: learning_rate: Input should be greater than 0$"):
        ROW_OPTIMIZERS[kind](0.0)


@EVERY
def test_every_face_is_there_or_says_why_not(kind, options):
    optimizer = make(kind, options)
    for face in (lambda: optimizer.tpu(step=lambda: tf.constant(1.0)), optimizer.dense):
        try:
            assert face() is not None
        except ConfigError as error:
            assert str(error).startswith(f"optimizer {kind} ") and len(str(error)) > 40


def test_slots_and_widths_agree():
    for kind, options in CASES:
        optimizer = make(kind, options)
        slots = optimizer.initial_slots(tf.constant(initial_weight()))
        assert [tuple(slot.shape) for slot in slots] == [(ROWS, w) for w in optimizer.slot_widths(DIM)]
        assert len(slots) == len(optimizer.slot_names) == len(set(optimizer.slot_names))


def test_dense_adam_passes_over_the_table_in_chunks(engine, monkeypatch):
    """Chunks that do not divide the table, some without any touched row."""
    every, found = np.arange(ROWS), []
    for chunk_rows in (7, ROWS):
        monkeypatch.setattr("trainer.embeddings.base.CHUNK_ROWS", chunk_rows)
        table = table_of(engine, make("adam", {}), Uniform())
        assert len(table.chunks()) == -(-ROWS // chunk_rows)
        step = step_of(table)
        for t, batch in enumerate(batches(12), start=1):
            step(*batch[:2], t, batch[2])
        found.append(table.read_records(every).numpy())
    np.testing.assert_array_equal(*found)


@EVERY
def test_an_empty_batch_and_a_table_of_one_row(engine, kind, options):
    optimizer = make(kind, options)
    table = engine("one", 1, optimizer, Exponential(0.9))
    table.initialize(0.1, seed=1)
    before = table.read_records(np.arange(1)).numpy()
    step = step_of(table)
    step(np.zeros(0, np.int64), np.zeros([0, DIM], np.float32), 1, np.float32(1))
    if optimizer.lazy:
        np.testing.assert_array_equal(table.read_records(np.arange(1)), before)
    step(np.zeros(2, np.int64), np.ones([2, DIM], np.float32), 2, np.float32(1))
    after = table.read_records(np.arange(1)).numpy()
    assert np.isfinite(after).all() and (after[:, :DIM] != before[:, :DIM]).all()


@pytest.mark.parametrize("kind", ROW_OPTIMIZERS)
def test_ids_out_of_range_are_refused_and_touch_nothing(engine, kind):
    table = table_of(engine, make(kind, {}))
    before, step = table.read_records(np.arange(ROWS)).numpy(), step_of(table)
    for wrong in (-1, ROWS):
        with pytest.raises(tf.errors.InvalidArgumentError, match="is not in"):
            step(np.array([3, wrong]), np.ones([2, DIM], np.float32), 1, np.float32(1))
    np.testing.assert_array_equal(table.read_records(np.arange(ROWS)), before)

"""Row optimizers as Keras optimizers: what a step touches, what Keras' options do, what is saved."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from configs.errors import ConfigError
from trainer.optimizers import ROW_OPTIMIZERS, SGD, Adam, KerasShell, LazyAdam

pytestmark = pytest.mark.any_python

KINDS = [kind for kind, made in ROW_OPTIMIZERS.items() if not made.shared_names]
LAZY = [kind for kind in KINDS if ROW_OPTIMIZERS[kind].lazy]


def rows(values, indices):
    return tf.IndexedSlices(tf.constant(values), tf.constant(indices))


@pytest.mark.parametrize(
    "options", [{}, {"global_clipnorm": 0.5}, {"clipnorm": 0.5}, {"clipvalue": 0.5}], ids=str
)
@pytest.mark.parametrize("kind", LAZY)
def test_rows_without_gradient_are_not_written(kind, options):
    """Not even by 0 times themselves, which makes NaN of an infinite row."""
    variable = tf.Variable([[np.inf], [1.0], [np.nan], [1.0]])
    ROW_OPTIMIZERS[kind](learning_rate=0.1).keras(**options).apply_gradients([(rows([[1.0]], [1]), variable)])
    values = variable.numpy()[:, 0]
    assert values[0] == np.inf and np.isnan(values[2]) and values[3] == 1.0 and values[1] < 1.0


def table_operations(optimizer, table):
    """Types of the operations of a compiled step that take a variable, or a slot of its size, as a whole."""

    @tf.function
    def step(ids):
        optimizer.apply_gradients([(tf.IndexedSlices(tf.ones([3, 2]), ids), table)])

    graph = step.get_concrete_function(tf.TensorSpec([3], tf.int64)).graph
    return {op.type for op in graph.get_operations() if any(_is_large(t, table) for t in _values(op))}


def _values(op):
    return [*op.inputs, *op.outputs]


def _is_large(tensor, table):
    return tensor.dtype != tf.resource and tensor.shape.rank and tensor.shape[0] == table.shape[0]


@pytest.mark.parametrize("kind", LAZY)
def test_no_operation_sees_the_whole_table(kind):
    table = tf.Variable(tf.zeros([1_000, 2]))
    optimizer = ROW_OPTIMIZERS[kind](learning_rate=0.1, weight_decay=0.1) if kind != "ftrl" else None
    optimizer = (optimizer or ROW_OPTIMIZERS[kind](learning_rate=0.1)).keras()
    assert table_operations(optimizer, table) == set()
    assert table_operations(tf_keras.optimizers.Adam(0.1), table)  # the test can fail


@pytest.mark.parametrize("gradient", ["dense", "rows"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_floating_type_equals_the_plain_face(kind, dtype, gradient):
    value = tf.ones([4, 2], dtype)
    given = value if gradient == "dense" else tf.IndexedSlices(value[:3], tf.constant([1, 3, 1]))
    variables = [tf.Variable(value) for _ in range(2)]
    optimizers = ROW_OPTIMIZERS[kind](learning_rate=0.1), ROW_OPTIMIZERS[kind](learning_rate=0.1).keras()
    for optimizer, variable in zip(optimizers, variables, strict=True):
        for _ in range(3):
            optimizer.apply_gradients([(given, variable)])
    np.testing.assert_array_equal(*[variable.numpy().astype(np.float64) for variable in variables])
    assert (variables[0].numpy() < 1).any()
    slots = [v for v in optimizers[1].variables if v.shape.rank == 2]
    assert all(slot.dtype == tf.float32 for slot in slots)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_minimize_equals_the_plain_face(kind, dtype):
    """With a loss that looks rows up, and so has slices as gradient."""
    variables = [tf.Variable([[1.0, 2.0], [1.0, 2.0]], dtype=dtype) for _ in range(2)]
    optimizers = ROW_OPTIMIZERS[kind](learning_rate=0.5), ROW_OPTIMIZERS[kind](learning_rate=0.5).keras()
    for optimizer, variable in zip(optimizers, variables, strict=True):

        def loss(variable=variable):
            return tf.matmul(tf.gather(variable, [0]), tf.constant([[4.0], [5.0]], dtype)) ** 2

        optimizer.minimize(loss, [variable])
    np.testing.assert_array_equal(*[variable.numpy() for variable in variables])
    assert (variables[0].numpy()[0] < [1.0, 2.0]).all()
    np.testing.assert_array_equal(variables[0][1], [1.0, 2.0])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_slots_of_keras_are_counted_once(dtype):
    optimizer, variable = LazyAdam(0.1).keras(), tf.Variable(tf.ones([4, 2], dtype))
    optimizer.build([variable])
    assert [v.name.split("/")[0] for v in optimizer.variables] == ["iteration:0", "m", "v"]


def test_a_model_in_mixed_precision_trains():
    tf_keras.utils.set_random_seed(1)
    policy = tf_keras.mixed_precision.Policy("mixed_float16")
    layers = [tf_keras.layers.Embedding(50, 4, dtype=policy), tf_keras.layers.Dense(1, dtype=policy)]
    model = tf_keras.Sequential(layers)
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(LazyAdam(0.01).keras())
    model.compile(optimizer, "mse")
    ids = np.arange(40)[:, None] % 30
    losses = model.fit(ids, (ids[:, 0] % 2).astype(np.float32), epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "tf.function"])
def test_a_variable_rate_is_obeyed(compiled):
    rate, variable = tf.Variable(0.5), tf.Variable([0.0])
    optimizer = SGD(rate).keras()

    def step():
        return optimizer.apply_gradients([(tf.constant([1.0]), variable)])

    step = tf.function(step) if compiled else step
    step()
    rate.assign(5.0)
    step()
    assert float(variable[0]) == -5.5
    optimizer.learning_rate = 2.0  # as a callback of Keras does
    step()
    assert float(variable[0]) == -7.5 and float(rate) == 2.0
    assert KerasShell.from_config(optimizer.get_config()).learning_rate.numpy() == 2.0


def clipped(gradients, **options):
    """How far gradient descent at rate 1 moves variables of zeros."""
    variables = [tf.Variable(tf.zeros([4, 2])) for _ in gradients]
    SGD(1.0).keras(**options).apply_gradients(list(zip(gradients, variables, strict=True)))
    return [-variable.numpy() for variable in variables]


def test_clips_count_a_repeated_row_once():
    """Row 1 moves by (3, 0), the sum of its parts."""
    repeated = rows([[5.0, 0.0], [-2.0, 0.0]], [1, 1])
    dense = tf.concat([[[4.0, 0.0]], tf.zeros([3, 2])], axis=0)
    one, two = clipped([repeated, dense], global_clipnorm=1.0)
    np.testing.assert_allclose([one[1, 0], two[0, 0]], [0.6, 0.8], rtol=1e-6)
    one, two = clipped([repeated, dense], clipnorm=1.0)
    np.testing.assert_allclose([one[1, 0], two[0, 0]], [1.0, 1.0], rtol=1e-6)
    one, two = clipped([repeated, dense], clipvalue=2.5)
    np.testing.assert_allclose([one[1, 0], two[0, 0]], [2.5, 2.5])
    one, two = clipped([repeated, dense], global_clipnorm=10.0)
    np.testing.assert_allclose([one[1, 0], two[0, 0]], [3.0, 4.0])


def test_an_average_of_keras_is_that_of_keras():
    ours, theirs = tf.Variable(tf.ones([3, 2])), tf.Variable(tf.ones([3, 2]))
    options = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2}
    pair = (SGD(0.1).keras(**options), ours), (tf_keras.optimizers.SGD(0.1, **options), theirs)
    for optimizer, variable in pair:
        for _ in range(5):
            optimizer.apply_gradients([(tf.ones([3, 2]), variable)])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("kind", LAZY)
def test_an_update_can_be_compiled_by_xla(kind):
    """What jit_compile does on GPUs."""
    optimizer, variables = ROW_OPTIMIZERS[kind](learning_rate=0.1).keras(jit_compile=True), []
    for compiled in (False, True):
        variable = tf.Variable(tf.ones([4, 2]))
        optimizer = ROW_OPTIMIZERS[kind](learning_rate=0.1).keras(jit_compile=True)
        optimizer.build([variable])

        def update(values, variable=variable, optimizer=optimizer):
            optimizer.update_step(tf.IndexedSlices(values, tf.constant([1, 3])), variable)

        tf.function(update, jit_compile=compiled)(tf.ones([2, 2]))
        variables.append(variable)
    np.testing.assert_allclose(*variables, rtol=1e-6)
    assert (variables[0].numpy()[1] < 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": 0.1}, "pass it to the optimizer, LazyAdam"),
        ({"gradient_aggregator": None}, "keras.. has no option gradient_aggregator"),
        ({"clipnorm": 0.0}, "clipnorm must be greater than 0, found 0.0"),
        ({"clipvalue": -1}, "clipvalue must be greater than 0, found -1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        LazyAdam(0.1).keras(**options)
    with pytest.raises(ValueError, match="At most one of `clipnorm` and `global_clipnorm`"):
        LazyAdam(0.1).keras(clipnorm=1.0, global_clipnorm=1.0)


def test_weight_decay_is_the_row_optimizers_and_can_leave_variables_out():
    table, bias = tf.Variable(tf.ones([3, 1]), name="table"), tf.Variable([1.0], name="bias")
    optimizer = SGD(0.5, weight_decay=0.1).keras()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.apply_gradients([(rows([[0.0]], [1]), table), (tf.zeros([1]), bias)])
    np.testing.assert_allclose(table[:, 0], [1.0, 0.95, 1.0])
    assert float(bias[0]) == 1.0


_LOAD = """
import sys, tf_keras, numpy as np
from trainer.optimizers import LazyAdam
for path in sys.argv[1:]:
    model = tf_keras.models.load_model(path)
    model.fit(np.arange(8).reshape(4, 2), np.ones(4), shuffle=False, verbose=0)
    print(type(model.optimizer).__name__, model.optimizer.clipnorm, int(model.optimizer.iterations),
          float(sum(abs(w).sum() for w in model.get_weights())))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_every_format_loads_in_a_fresh_process_and_goes_on(tmp_path):
    """From a SavedModel, Keras restores no optimizer's slots, its own neither."""
    tf_keras.utils.set_random_seed(2)
    layers = [tf_keras.layers.Embedding(20, 4, input_length=2), tf_keras.layers.Flatten()]
    model = tf_keras.Sequential([*layers, tf_keras.layers.Dense(1)])
    model.compile(LazyAdam(0.01, bias_correction="per_row").keras(clipnorm=0.7), "mse")
    data = np.arange(8).reshape(4, 2), np.ones(4)
    model.fit(*data, shuffle=False, verbose=0)
    paths = [str(tmp_path / name) for name in ("m.keras", "m.h5", "m_tf")]
    for path in paths:
        model.save(path, save_format="tf" if path.endswith("_tf") else None)
    done = subprocess.run([sys.executable, "-c", _LOAD, *paths], capture_output=True, text=True)
    model.fit(*data, shuffle=False, verbose=0)
    total = float(sum(np.abs(w).sum() for w in model.get_weights()))
    found = [line.split() for line in done.stdout.splitlines()]
    assert [line[:3] for line in found] == [["KerasShell", "0.7", n] for n in "221"], done.stderr
    np.testing.assert_allclose([float(line[3]) for line in found[:2]], total, rtol=1e-6)


def test_amsgrad_and_shrinkage_are_saved():
    for optimizer in (Adam(0.1, amsgrad=True), ROW_OPTIMIZERS["ftrl"](0.1, l2_shrinkage=0.5)):
        assert KerasShell.from_config(optimizer.keras().get_config())._rows.config == optimizer.config

"""Ranking models against NumPy and against TFRS: outputs, gradients, tasks, corrections."""

import numpy as np
import pytest
import tensorflow as tf

from configs.load import parse_config
from tests.support.ranking_dataset import KEYS, ranking_document
from trainer.models import MODELS
from trainer.models.ranking import Ranking

ONE = tf.constant(1, tf.int64)
BATCH, DIM = 6, 16
CLICK, BUY = {"name": "click"}, {"name": "buy", "label": "buy"}
BOTH = [CLICK, BUY | {"where": "label"}]
DENSE = ["n0", "n1"]
KEYED = [*KEYS, "tags"]


def make(model=None, **sections) -> Ranking:
    config = parse_config(ranking_document("unused", model, **sections), "test")
    made = MODELS[config.model.kind](config, np.zeros(0, np.int64))
    assert isinstance(made, Ranking)
    return made


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs() -> tuple[dict, dict]:
    """(activations, features)."""
    rows = {name: tf.constant(random((BATCH, DIM), seed)) for seed, name in enumerate(KEYED)}
    return rows, {name: tf.constant(random(BATCH, 50 + seed)) for seed, name in enumerate(DENSE)}


def batch(click, buy=None, weight=None) -> dict:
    _, features = inputs()
    found = features | {"label": tf.constant(click, tf.float32)}
    found["label/buy"] = tf.constant([np.nan] * BATCH if buy is None else buy, tf.float32)
    return found if weight is None else found | {"weight": tf.constant(weight, tf.float32)}


def shuffled(model: Ranking) -> dict[str, np.ndarray]:
    """Gives all variables random values, float64 by name, biases too."""
    found = {}
    for seed, variable in enumerate(model.trainable_variables):
        variable.assign(random(variable.shape, 100 + seed) / np.sqrt(variable.shape[0]))
        name = variable.name.partition(":")[0]
        assert name not in found, "names tell variables apart"
        found[name] = variable.numpy().astype(np.float64)
    return found


def relu(values, kernel, bias):
    return np.maximum(values @ kernel + bias, 0)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


class Reference:
    """The whole model in float64, from the variables' values by name and the formulas in the papers."""

    def __init__(self, values: dict[str, np.ndarray], interaction: dict, bottom: int, top: int):
        self.values, self.interaction, self.bottom, self.top = values, interaction, bottom, top

    def stack(self, name, number, x):
        for i in range(number):
            x = relu(x, self.values[f"{name}_dense_{i}/kernel"], self.values[f"{name}_dense_{i}/bias"])
        return x

    def interacted(self, rows: list, dense) -> tuple:
        bottom = self.stack("bottom", self.bottom, dense)
        vectors, kind = [*rows, bottom], self.interaction["kind"]
        if kind == "dot":
            pairs = [(vectors[i] * vectors[j]).sum(1) for i in range(len(vectors)) for j in range(i)]
            return np.concatenate([bottom, np.stack(pairs, 1)], 1), None
        first = x = np.concatenate(vectors, 1)
        if kind == "none":
            return first, None
        for i in range(self.interaction["layers"]):
            mine = [v for n, v in sorted(self.values.items()) if n.startswith(f"cross_{i}/")]
            kernels, [bias] = [v for v in mine if v.ndim == 2], [v for v in mine if v.ndim == 1]
            if len(kernels) == 2 and kernels[0].shape[0] != x.shape[1]:
                kernels = kernels[::-1]
            product = x
            for kernel in kernels:
                product = product @ kernel
            x = first * (product + bias) + x
        if self.interaction.get("structure") == "parallel":
            return first, x
        return np.concatenate([bottom, x], 1), None

    def logit(self, task, hidden, past):
        if past is not None:
            hidden = np.concatenate([hidden, past], 1)
        kernel, bias = (self.values[f"{task}_logit_dense_0/{part}"] for part in ("kernel", "bias"))
        return (hidden @ kernel + bias)[:, 0]

    def shared(self, rows, dense):
        x, past = self.interacted(rows, dense)
        return self.logit("click", self.stack("top", self.top, x), past)


INTERACTIONS = [
    {"kind": "dot"},
    {"kind": "none"},
    {"kind": "cross", "layers": 2},
    {"kind": "cross", "layers": 3, "rank": 5},
    {"kind": "cross", "layers": 2, "structure": "parallel"},
    {"kind": "cross", "layers": 2, "rank": 5, "structure": "parallel"},
]


def named(interaction: dict) -> str:
    return "-".join(map(str, interaction.values()))


@pytest.mark.parametrize("interaction", INTERACTIONS, ids=named)
def test_values_and_gradients_equal_numpy(interaction):
    """Gradients by central differences of the reference in float64."""
    model = make({"interaction": interaction, "bottom": [7, DIM], "top": [9, 5]})
    reference = Reference(shuffled(model), interaction, 2, 2)
    rows, features = inputs()
    exact = [rows[name].numpy().astype(np.float64) for name in KEYED]
    dense = np.stack([features[name].numpy() for name in DENSE], 1).astype(np.float64)
    factors = random(BATCH, 9).astype(np.float64)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        logits = tf.stack(model._logits(rows, features, [0.0]))[0]
        total = tf.reduce_sum(logits * factors.astype(np.float32))
    expected = reference.shared(exact, dense)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits / scale, expected / scale, atol=1e-6)

    def check(found, target):
        """`found` against differences of the reference by `target`, an array that it reads."""
        places = np.random.default_rng(3).choice(target.size, min(target.size, 12), replace=False)
        flat, slopes = target.reshape(-1), []
        for place in places:
            kept, sides = flat[place], []
            for step in (1e-6, -1e-6):
                flat[place] = kept + step
                sides.append(reference.shared(exact, dense) @ factors)
            flat[place] = kept
            slopes.append((sides[0] - sides[1]) / 2e-6)
        slopes = np.array(slopes)
        most = max(np.abs(slopes).max(), 1)
        np.testing.assert_allclose(found.numpy().reshape(-1)[places] / most, slopes / most, atol=1e-6)

    gradients = tape.gradient(total, [[rows[name] for name in KEYED], model.trainable_variables])
    for found, target in zip(gradients[0], exact, strict=True):
        check(found, target)
    for found, variable in zip(gradients[1], model.trainable_variables, strict=True):
        check(found, reference.values[variable.name.partition(":")[0]])


def test_dot_products_equal_those_of_tfrs_in_value_and_gradient():
    from tensorflow_recommenders.layers.feature_interaction import DotInteraction

    from configs.sections.ranking import DotInteractionConfig
    from trainer.models.interactions import DotProducts

    vectors = [tf.constant(random((BATCH, 5), seed)) for seed in range(4)]
    ours, theirs = DotProducts(DotInteractionConfig(kind="dot"), [5] * 4, 0, 0), DotInteraction()
    found = []
    for layer in (lambda v: ours(v, None)[0], theirs):
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            values = layer(vectors)
            total = tf.reduce_sum(values * random((BATCH, 6), 9))
        found.append([values, *tape.gradient(total, vectors)])
    assert found[0][0].shape == (BATCH, ours.width)
    for mine, other in zip(*found, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)


@pytest.mark.parametrize("kind", ["dot", "cross"])
def test_equals_the_ranking_model_of_tfrs_with_the_same_weights(kind):
    import tensorflow_recommenders as tfrs
    import tf_keras

    layers = tfrs.layers.feature_interaction
    interaction = {"kind": kind} if kind == "dot" else {"kind": kind, "layers": 2}
    model = make({"interaction": interaction, "bottom": [8, DIM], "top": [12, 6]})
    shuffled(model)
    rows, features = inputs()
    theirs = tfrs.experimental.models.Ranking(
        embedding_layer=tf_keras.layers.Lambda(lambda sparse: sparse),
        bottom_stack=tfrs.layers.blocks.MLP([8, DIM], final_activation="relu"),
        feature_interaction=layers.DotInteraction() if kind == "dot" else _JoinedMultiLayer(layers.Cross),
        top_stack=tfrs.layers.blocks.MLP([12, 6, 1], final_activation="sigmoid"),
    )
    dense = tf.stack([features[name] for name in DENSE], axis=1)
    # Nested structures are read by sorted name, as the keys are here.
    given = {"dense_features": dense, "sparse_features": rows}
    theirs(given)
    copies = [model._bottom, model._interaction, model._head.top, model._head.last[0]]
    values = [v for part in copies for v in part.trainable_variables]
    parts = [theirs._bottom_stack, theirs._feature_interaction, theirs._top_stack]
    targets = [v for part in parts for v in part.trainable_variables]
    for target, value in zip(targets, values, strict=True):
        target.assign(value)
    assert KEYED == sorted(KEYED)
    np.testing.assert_allclose(model.predictions(rows, features)["click"], theirs(given), atol=1e-6)


class _JoinedMultiLayer(tf.keras.layers.Layer):
    """TFRS documents Concatenate and one Cross; this is two of them, one after the other."""

    def __init__(self, cross):
        super().__init__()
        self._join, self._first, self._second = tf.keras.layers.Concatenate(), cross(), cross()

    def call(self, inputs):
        first = self._join(inputs)
        return self._second(first, self._first(first))


def test_mmoe_equals_numpy():
    sharing = {"kind": "mmoe", "experts": 3, "tower": [4]}
    model = make({"interaction": {"kind": "none"}, "top": [9, 5], "tasks": BOTH, "sharing": sharing})
    values = shuffled(model)
    reference = Reference(values, {"kind": "none"}, 0, 2)
    rows, features = inputs()
    dense = np.stack([features[name].numpy() for name in DENSE], 1)
    x, _ = reference.interacted([rows[name].numpy() for name in KEYED], dense)
    experts = np.stack([reference.stack(f"expert_{i}", 2, x) for i in range(3)], 1)
    found = model.predictions(rows, features)
    for task in ("click", "buy"):
        gate = np.exp(x @ values[f"{task}_gate"])
        mixture = np.einsum("be,beh->bh", gate / gate.sum(1, keepdims=True), experts)
        hidden = reference.stack(f"{task}_tower", 1, mixture)
        np.testing.assert_allclose(
            found[task], sigmoid(reference.logit(task, hidden, None)), rtol=1e-5, atol=1e-6
        )


def test_esmm_multiplies_click_and_conversion_rate():
    model = make(
        {"interaction": {"kind": "none"}, "top": [9], "tasks": [CLICK, BUY], "sharing": {"kind": "esmm"}}
    )
    reference = Reference(shuffled(model), {"kind": "none"}, 0, 1)
    rows, features = inputs()
    dense = np.stack([features[name].numpy() for name in DENSE], 1)
    x, _ = reference.interacted([rows[name].numpy() for name in KEYED], dense)
    click, rate = (
        sigmoid(reference.logit(task, reference.stack(f"{task}_top", 1, x), None))
        for task in ("click", "buy")
    )
    found = model.predictions(rows, features)
    np.testing.assert_allclose(found["click"], click, rtol=1e-5)
    np.testing.assert_allclose(found["buy"], click * rate, rtol=1e-5)
    clicks, buys = np.float32([1, 1, 0, 0, 1, 0]), np.float32([1, 0, 0, 0, 1, 0])
    given = batch(clicks, buys)
    loss = model.loss(rows, model.columns(given, ONE), ONE)
    losses = [
        -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)) for y, p in ((clicks, click), (buys, click * rate))
    ]
    np.testing.assert_allclose(loss, sum(losses), rtol=1e-5)


@pytest.mark.parametrize("pair", [(40.0, 40.0), (-40.0, 30.0), (-90.0, -90.0), (0.0, 50.0), (90.0, 95.0)])
def test_the_logit_of_a_product_is_exact_at_the_ends(pair):
    import math

    from trainer.models.heads import product_logit

    a, b = pair
    exact = -math.log(math.exp(-a) + math.exp(-b) + math.exp(-a - b))
    first, second = tf.constant(a), tf.constant(b)
    with tf.GradientTape() as tape:
        tape.watch([first, second])
        found = product_logit(first, second)
    assert float(found) == pytest.approx(exact, rel=1e-6)
    assert np.isfinite(tape.gradient(found, [first, second])).all()


def test_a_task_is_the_weighted_mean_over_its_own_rows():
    model = make({"tasks": [CLICK | {"weight": 2.0}, *BOTH[1:]]})
    shuffled(model)
    rows, features = inputs()
    click, weight = [1, 0, 1, 1, 0, 1], [1, 2, 3, 0.5, 1, 2]
    buy = [1, 1, np.nan, 0, np.nan, 1]  # of the rows with a click, row 2 has no label
    columns = model.columns(batch(click, buy, weight), ONE)
    p = {name: value.numpy() for name, value in model.predictions(rows, features).items()}
    y, w = np.array(click), np.array(weight)
    expected = 2 * np.average(-np.log(np.where(y > 0, p["click"], 1 - p["click"])), weights=w)
    there = [0, 3, 5]
    mine = p["buy"][there]
    expected += np.average(-np.log(np.where(np.array(buy)[there] > 0, mine, 1 - mine)), weights=w[there])
    np.testing.assert_allclose(model.loss(rows, columns, ONE), expected, rtol=1e-5)


def test_a_batch_without_rows_of_a_task_adds_nothing():
    both, one = make({"tasks": BOTH}), make({"tasks": [CLICK]})
    for target, value in zip(one.trainable_variables, one.trainable_variables, strict=True):
        target.assign(value)
    rows, _ = inputs()
    given = batch([0] * BATCH, [0] * BATCH)  # nobody clicked
    with tf.GradientTape() as tape:
        loss = both.loss(rows, both.columns(given, ONE), ONE)
    assert np.isfinite(loss)
    last = both._head.last[1].trainable_variables
    for gradient in tape.gradient(loss, last):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_a_number_is_learnt_by_squared_error():
    model = make({"tasks": [{"name": "value", "label": "buy", "loss": "mse"}]})
    rows, features = inputs()
    values = [3.5, np.nan, -2, 0, 7, 1]
    loss = model.loss(rows, model.columns(batch([0] * BATCH, values), ONE), ONE)
    predicted = model.predictions(rows, features)["value"].numpy()
    np.testing.assert_allclose(loss, np.nanmean((predicted - values) ** 2), rtol=1e-5)


@pytest.mark.parametrize("label", [5.0, -1.0])
def test_labels_that_are_no_probabilities_are_refused(label):
    with pytest.raises(tf.errors.InvalidArgumentError, match="a label of task click is outside 0..1; use"):
        make().columns(batch([1, 0, label, 0, 0, 0]), ONE)
    mse = make({"tasks": [CLICK | {"loss": "mse"}]})
    assert np.isfinite(mse.columns(batch([1, 0, label, 0, 0, 0]), ONE)["click/label"]).all()


TASKS = {
    "one": ({"tasks": [CLICK]}, True),
    "where": ({"tasks": BOTH}, True),
    "esmm": ({"tasks": [CLICK, BUY], "sharing": {"kind": "esmm"}}, False),
}


@pytest.mark.parametrize(("model", "single"), TASKS.values(), ids=TASKS)
def test_predictions_are_corrected_for_negatives_left_out(model, single):
    changes = {"source": {"roles": {"label": "click"}}} if single and len(model["tasks"]) == 1 else {}
    plain, thinned = make(model, **changes), make(model, dataset={"keep_negatives": 0.1}, **changes)
    values = shuffled(plain)
    for variable, value in zip(thinned.trainable_variables, values.values(), strict=True):
        variable.assign(value)
    rows, features = inputs()
    p, found = plain.predictions(rows, features), thinned.predictions(rows, features)
    click = p["click"] / (p["click"] + (1 - p["click"]) / 0.1)
    np.testing.assert_allclose(found["click"], click, rtol=1e-5)
    if "buy" in p:  # given a click nothing changes; the product does
        buy = p["buy"] if single else click * (p["buy"] / p["click"])
        np.testing.assert_allclose(found["buy"], buy, rtol=1e-5)
    labels = batch([1, 0, 0, 1, 0, 1], [1, 0, 0, 0, 0, 1])
    losses = [each.loss(rows, each.columns(labels, ONE), ONE) for each in (plain, thinned)]
    np.testing.assert_allclose(*losses, err_msg="training fits the rows that are there")


def test_dropout_follows_the_step_and_spares_predictions():
    model = make({"dropout": 0.5})
    rows, features = inputs()
    columns = model.columns(batch([1, 0, 0, 1, 0, 1]), ONE)
    losses = [float(model.loss(rows, columns, step)) for step in (ONE, ONE, ONE + 1)]
    assert losses[0] == losses[1] != losses[2]
    first, again = (model.predictions(rows, features)["click"] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_inputs_may_be_keys_or_numbers_alone():
    rows, features = inputs()
    keys = make({"inputs": KEYED, "interaction": {"kind": "dot"}})
    assert keys.predictions(rows, {})["click"].shape == (BATCH,)
    numbers = make({"inputs": DENSE, "interaction": {"kind": "cross"}})
    assert numbers.predictions({}, features)["click"].shape == (BATCH,)


def test_initial_weights_follow_from_the_seed():
    def values(seed):
        model = make({"interaction": {"kind": "cross", "rank": 8}}, train={"num_steps": 1, "seed": seed})
        return [variable.numpy() for variable in model.trainable_variables]

    first, again, other = values(1), values(1), values(2)
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    kernels = [pair for pair in zip(first, other, strict=True) if pair[0].ndim == 2]
    assert not any(np.array_equal(*pair) for pair in kernels)
    flat = [value.reshape(-1)[:20] for value in first if value.ndim == 2]
    assert not any(np.allclose(a, b) for i, a in enumerate(flat) for b in flat[:i]), "no two parts are alike"

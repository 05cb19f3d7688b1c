"""Models against NumPy: vectors, losses, sampled negatives, widths."""

import numpy as np
import pytest
import tensorflow as tf

from configs.dataset_parts import FeatureInfo
from configs.load import parse_config
from configs.sections.features import RESERVED_NAMES
from configs.sections.models import DRAWN
from trainer.data.lookups import FeatureLookup
from trainer.models import MODELS
from trainer.models.losses import logistic

pytestmark = pytest.mark.any_python

RATINGS = {"kind": "delimited", "paths": ["unused"], "roles": {"label": "rating"}}
COUNTS = np.array([5, 3, 2, 0])
PRICE = FeatureInfo(of="item", kind="numeric", steps=["standardize"], mean=2, stddev=4)
BRAND = FeatureInfo(of="item", kind="categorical", table="brand")
ONE = tf.constant(1, tf.int64)


# Bare scores, without what a two-tower model does by default.
PLAIN = {
    "two_tower": {
        "user_tower": {"inputs": ["user"]},
        "normalize": False,
        "item_bias": False,
        "history": {"pooling": "mean"},
    },
    "dot_bias": {},
}


def make(model, tables=None, drawn_items=None, unknown_rows=None, **sections):
    model = PLAIN[model["kind"]] | model
    if tables is None:
        tables = {"user": {"dim": 32}, "item": {"dim": 32}}
    document = {
        "source": {"kind": "synthetic", "rows": 10, "users": 3, "items": 3},
        "dataset": {"path": "unused", "history_length": 2},
        "model": model,
        "tables": tables,
        "train": {"num_steps": 1},
        "output": {"path": "unused"},
        **sections,
    }
    config = parse_config(document, "test")
    return MODELS[config.model.kind](config, COUNTS, drawn_items, unknown_rows)


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_two_tower_layers_are_relu_then_linear():
    model = make({"kind": "two_tower", "user_tower": {"inputs": ["user", "history"], "layers": [5, 32]}})
    user, history = random((4, 32)), random((4, 32), 1)
    vectors = model.user_vectors({"user": user, "history": history}, {})
    (w0, b0), (w1, b1) = ([v.numpy() for v in layer.variables] for layer in model._user.layers)
    hidden = np.maximum(np.concatenate([user, history], 1) @ w0 + b0, 0)
    np.testing.assert_allclose(vectors, hidden @ w1 + b1, atol=1e-5)
    assert len(model.trainable_variables) == 4


def test_item_bias_is_added_to_the_score_and_not_normalized():
    dims = {"user": {"dim": 3}, "item": {"dim": 4}}
    model = make({"kind": "two_tower", "normalize": True, "item_bias": True}, dims)
    user, item = random((2, 3)), random((2, 4), 1)
    scores = np.sum(model.user_vectors({"user": user}, {}) * model.item_vectors({"item": item}, {}), axis=1)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (user, item[:, :3])]
    np.testing.assert_allclose(scores, (unit[0] * unit[1]).sum(1) + item[:, 3], atol=1e-5)


def test_history_of_the_item_table_drops_its_bias():
    dims = {"user": {"dim": 3}, "item": {"dim": 4}}
    tower = {"inputs": ["user", "history"], "combine": "sum"}
    model = make({"kind": "two_tower", "item_bias": True, "user_tower": tower}, dims)
    user, history = random((2, 3)), random((2, 4), 1)
    vectors = model.user_vectors({"user": user, "history": history}, {})
    np.testing.assert_allclose(
        vectors, np.concatenate([user + history[:, :3], np.ones([2, 1])], 1), atol=1e-6
    )


def test_two_tower_loss_uses_train_counts_for_logq():
    model = make({"kind": "two_tower", "loss": {"temperature": 0.5}})
    user, item = random((3, 32)), random((3, 32), 1)
    ids = np.array([0, 1, 2])
    batch = {"item": tf.constant(ids), "label": tf.ones([3])}
    loss = model.loss({"user": user, "item": item}, model.columns(batch, ONE), ONE)
    # The floor of one row for items without train rows makes the total 11.
    logits = user @ item.T / 0.5 - np.log(np.array([5, 3, 2]) / 11)
    expected = np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("logq", [True, False])
def test_extra_negatives_are_candidates_of_every_row(logq):
    """Against the whole matrix in NumPy, with drawn items' own features."""
    features = [{"name": "price", "of": "item", "kind": "numeric"}]
    features.append({"name": "brand", "of": "item", "kind": "categorical"})
    tower = {"inputs": ["item", "price", "brand"]}
    known = {"price": np.float32([2, 6, 10, 14]), "brand": np.array([7, 8, 9, 6])}
    model = make(
        {"kind": "two_tower", "item_tower": tower, "loss": {"extra_negatives": 6, "logq": logq}},
        {"user": {"dim": 8}, "item": {"dim": 4}, "brand": {"dim": 3}},
        FeatureLookup({"price": PRICE, "brand": BRAND}, known),
        source=RATINGS | {"features": features},
        train={"num_steps": 1, "batch_size": 3},
    )
    ids = np.array([0, 1, 0])
    batch = {"user": tf.range(3), "item": tf.constant(ids), "label": tf.ones([3])}
    price = np.float32([0, 1, 2, 3])  # (value - 2) / 4
    batch |= {"price": tf.gather(price, ids), "brand": tf.gather(known["brand"], ids)}
    lookups, columns = model.lookups(batch, ONE), model.columns(batch, ONE)
    drawn = lookups["negative/item"].numpy()
    assert set(drawn) <= {0, 1, 2} and drawn.shape == (6,), "item 3 has no train rows"
    assert not np.array_equal(drawn, model.lookups(batch, ONE + 1)["negative/item"])
    np.testing.assert_array_equal(lookups["negative/brand"], known["brand"][drawn])
    np.testing.assert_array_equal(columns["negative/price"], price[drawn])
    user, rows, brands = random((3, 8)), random((4, 4), 1), random((10, 3), 2)
    every = np.concatenate([ids, drawn])
    got = model.loss(
        {
            **{"user": user, "item": rows[ids], "brand": brands[known["brand"][ids]]},
            **{"negative/item": rows[drawn], "negative/brand": brands[known["brand"][drawn]]},
        },
        columns,
        ONE,
    )
    item = np.concatenate([rows, price[:, None], brands[known["brand"]]], axis=1)
    # Of 9 candidates 3 are drawn by train rows, whose floor of one makes the total 11, and 6 of 3 items.
    share = np.array([5, 3, 2]) / 11 * 3 / 9 + 1 / 3 * 6 / 9
    logits = user @ item[every].T - (np.log(share)[every] if logq else 0)
    hits = (every[None, :] == ids[:, None]) & ~np.eye(3, 9, dtype=bool)
    logits[hits] = -np.inf
    expected = np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_logq_is_the_share_of_a_groups_candidates():
    """Counted in many groups, which are drawn without replacement from batches, as the reader does it."""
    model = make(
        {"kind": "two_tower", "loss": {"extra_negatives": 2, "group": 4}},
        train={"num_steps": 1, "batch_size": 8},
    )
    batch = {"user": tf.zeros([4], tf.int64), "item": tf.range(4, dtype=tf.int64), "label": tf.ones([4])}
    share = np.exp(model.columns(batch, ONE)["log_q"])
    # Of 6 candidates 4 are drawn by train rows, whose floor of one makes the total 11, and 2 of 3 items.
    expected = (4 * np.array([5, 3, 2, 1]) / 11 + 2 * np.array([1, 1, 1, 0]) / 3) / 6
    np.testing.assert_allclose(share, expected, rtol=1e-5)
    rng, counted = np.random.default_rng(0), np.zeros(3)
    for _ in range(20_000):
        group = rng.permutation(rng.choice(3, 8, p=COUNTS[:3] / 10))[:4]
        counted += np.bincount(np.concatenate([group, rng.integers(0, 3, 2)]), minlength=3)
    without_floor = (4 * COUNTS[:3] / 10 + 2 / 3) / 6
    np.testing.assert_allclose(counted / counted.sum(), without_floor, atol=0.004)


@pytest.mark.parametrize(
    "model", [{"kind": "two_tower", "loss": {"extra_negatives": 4}}, {"kind": "dot_bias", "negatives": 2}]
)
def test_no_feature_may_stand_in_for_what_the_loss_is_given(model):
    """A numeric feature called log_q would silently be used as the correction."""
    batch = {name: tf.constant([0, 1]) for name in ("user", "item")} | {"label": tf.ones([2])}
    names = {name.removeprefix(DRAWN) for name in make(model).columns(batch, ONE)}
    assert names and names | {"history_mask"} <= RESERVED_NAMES  # the mask is trainer/tpu/batches.py's


def test_drawn_items_drop_values_of_their_own():
    tower = {"inputs": ["item"], "dropout": 0.5}
    model = make({"kind": "two_tower", "item_tower": tower, "loss": {"extra_negatives": 4}})
    rows = tf.ones([4, 32])
    own, drawn = (model._item({"item": rows}, {}, ONE, drawn=drawn) for drawn in (False, True))
    assert not np.array_equal(own, drawn)


def test_numbers_and_vectors_enter_a_tower_as_they_are():
    look = {"name": "look", "kind": "vector", "dim": 3}
    side = {"of": "user", "kind": "jsonl", "paths": ["u"], "key": "id", "features": [look]}
    source = {"kind": "jsonl", "paths": ["unused"], "sides": [side]}
    source["features"] = [{"name": "age", "of": "user", "kind": "numeric"}]
    tower = {"inputs": ["user", "age", "look"]}
    model = make({"kind": "two_tower", "user_tower": tower}, {"item": {"dim": 36}}, source=source)
    rows, looks = random((2, 32)), random((2, 3), 1)
    vectors = model.user_vectors({"user": rows}, {"age": np.float32([0, 2]), "look": looks})
    np.testing.assert_array_equal(vectors, np.concatenate([rows, [[0.0], [2.0]], looks], 1))


def test_dropout_depends_on_the_step_alone():
    tower = {"inputs": ["user"], "dropout": 0.5}
    model = make({"kind": "two_tower", "user_tower": tower})
    rows = tf.ones([4, 32])
    one, again, two = (model._user({"user": rows}, {}, tf.constant(s, tf.int64)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, two) and 0.2 < np.mean(one == 0) < 0.8
    np.testing.assert_array_equal(model.user_vectors({"user": rows}, {}), rows)


def test_dot_bias_is_dot_plus_both_biases():
    model = make({"kind": "dot_bias", "label_threshold": 4}, source=RATINGS)
    user, item = random((3, 32)), random((3, 32), 1)
    scores = np.sum(model.user_vectors({"user": user}, {}) * model.item_vectors({"item": item}, {}), axis=1)
    expected = (user[:, :-1] * item[:, :-1]).sum(1) + user[:, -1] + item[:, -1]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    batch = {"label": tf.constant([5.0, 4.0, 3.9]), "weight": tf.constant([1.0, 2.0, 3.0])}
    loss = model.loss({"user": user, "item": item}, model.columns(batch, ONE), ONE)
    np.testing.assert_allclose(
        loss, logistic(expected, np.float32([1, 1, 0]), np.float32([1, 2, 3])), rtol=1e-5
    )


def test_dot_bias_negatives_are_known_items_fixed_by_the_step():
    model = make({"kind": "dot_bias", "negatives": 50})
    batch = {"user": tf.constant([0, 1]), "item": tf.constant([0, 1]), "label": tf.ones([2])}
    one, again, two = (model.lookups(batch, tf.constant(s, tf.int64))["negative/item"] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, two)
    assert set(np.unique(one)) == {0, 1, 2}, "item 3 has no train rows"
    user, item, negative = random((2, 32)), random((2, 32), 1), random((2, 50, 32), 2)
    loss = model.loss({"user": user, "item": item, "negative/item": negative}, model.columns(batch, ONE), ONE)
    rows = np.concatenate([item[:, None], negative], 1)
    logits = np.einsum("bd,bnd->bn", user[:, :-1], rows[..., :-1]) + user[:, -1:] + rows[..., -1]
    labels = np.zeros_like(logits)
    labels[:, 0] = 1
    np.testing.assert_allclose(loss, logistic(logits, labels, np.ones_like(logits)), rtol=1e-5)


@pytest.mark.parametrize("kind", PLAIN)
def test_retrieval_models_say_their_inputs(kind):
    model = make({"kind": kind}, source=RATINGS)
    assert model.user_inputs == ["user"] and model.item_inputs == ["item"]


@pytest.mark.parametrize("label", [5.0, -1.0])
def test_dot_bias_refuses_labels_that_are_no_shares(label):
    batch, step = {"label": tf.constant([1.0, label])}, ONE
    rows = {"user": random((2, 32)), "item": random((2, 32), 1)}
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="a label is outside 0..1; set model.label_threshold"
    ):
        make({"kind": "dot_bias"}, source=RATINGS).columns(batch, ONE)
    model = make({"kind": "dot_bias", "label_threshold": 4}, source=RATINGS)
    assert np.isfinite(model.loss(rows, model.columns(batch, ONE), step))


def with_id_dropout(share: float, seed: int = 1):
    features = [{"name": "brand", "of": "item", "kind": "categorical"}]
    return make(
        {
            "kind": "two_tower",
            "user_tower": {"inputs": ["user", "history"], "id_dropout": share},
            "item_tower": {"inputs": ["item", "brand"], "id_dropout": share},
            "loss": {"extra_negatives": 500},
        },
        {"user": {"dim": 8}, "item": {"dim": 4}, "brand": {"dim": 8}},
        FeatureLookup({"brand": BRAND}, {"brand": np.array([7, 8, 9, 6])}),
        {"user": (90, 1), "item": (3, 1)},
        source=RATINGS | {"features": features},
        train={"num_steps": 1, "batch_size": 1000, "seed": seed},
    )


def rows_of_batch() -> dict:
    user, item = np.arange(1000) % 90, np.arange(1000) % 3
    history = np.stack([item, np.full(1000, -1)], axis=1)
    found = {"user": user, "item": item, "history": history, "brand": item + 7}
    return {name: tf.constant(value) for name, value in found.items()} | {"label": tf.ones([1000])}


def test_id_dropout_replaces_a_share_of_the_ids_alone():
    model, batch = with_id_dropout(0.3), rows_of_batch()
    found = model.lookups(batch, ONE)
    kept = with_id_dropout(0.0).lookups(batch, ONE)
    shares = {}
    for name, unknown in (("user", 90), ("item", 3), ("negative/item", 3)):
        dropped = found[name].numpy() != kept[name].numpy()
        assert (found[name].numpy()[dropped] == unknown).all()
        shares[name] = dropped.mean()
    assert all(0.22 < share < 0.38 for share in shares.values()), shares
    for name in set(found) - set(shares):
        np.testing.assert_array_equal(found[name], kept[name], name)
    # Which items are candidates, and how probable each is, does not change.
    columns, others = model.columns(batch, ONE), with_id_dropout(0.0).columns(batch, ONE)
    for name in columns:
        np.testing.assert_array_equal(columns[name], others[name], name)


def test_id_dropout_is_drawn_from_seed_step_and_row():
    model, batch = with_id_dropout(0.5), rows_of_batch()
    first = {name: model.lookups(batch, ONE)[name].numpy() for name in ("user", "item", "negative/item")}
    again = with_id_dropout(0.5).lookups(batch, ONE)
    for name, ids in first.items():
        np.testing.assert_array_equal(ids, again[name])
    later, other = model.lookups(batch, ONE + 1), with_id_dropout(0.5, seed=2).lookups(batch, ONE)
    for name in ("user", "item"):
        assert not np.array_equal(first[name], later[name]) and not np.array_equal(first[name], other[name])
    assert not np.array_equal(first["user"] == 90, first["item"] == 3), "towers drop rows independently"


def test_vectors_of_a_trained_model_drop_no_ids():
    model = with_id_dropout(0.5)
    item = {"item": random((2, 4)), "brand": random((2, 8), 1)}
    np.testing.assert_allclose(model.item_vectors(item, {}), np.concatenate([item["item"], item["brand"]], 1))


def test_id_dropout_is_the_same_in_the_input_of_a_tpu():
    """There `lookups` runs in the input pipeline, of which each replica gets a share."""
    model, batch = with_id_dropout(0.5), rows_of_batch()
    data = tf.data.Dataset.from_tensors(batch).repeat(2).enumerate(start=1)
    for step, found in enumerate(data.map(lambda step, rows: model.lookups(rows, step)), start=1):
        expected = model.lookups(batch, tf.Variable(step, dtype=tf.int64))
        for name, ids in expected.items():
            np.testing.assert_array_equal(found[name], ids, name)
            assert found[name].shape == ids.shape

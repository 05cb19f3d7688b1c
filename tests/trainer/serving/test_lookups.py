"""export.cold_items: items without a row of their own are recommended by their features, and restricted, left
out and named like all others."""

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.feature_dataset import write_features
from tests.support.feature_worlds import every_kind, raw_world
from tests.support.replays import replay_here

pytestmark = [pytest.mark.any_python, pytest.mark.slow]


@pytest.fixture(scope="module")
def world():
    """raw_world, and an item of which nothing is known."""
    world = raw_world()
    user = dict(world.rows[0])
    blank = user | {"item": "blank", "kind": "", "split": "test"}
    return dataclasses.replace(world, rows=[*world.rows, blank])


@pytest.fixture(scope="module")
def served(world, tmp_path_factory):
    """(model, metadata); the export itself replays golden examples."""
    from trainer.serving import export
    from trainer.training.run import train

    directory = str(tmp_path_factory.mktemp("served"))
    document = every_kind(directory)
    document["model"]["item_tower"]["id_dropout"] = 0.5
    config = parse_config(document, "served")
    assert config.export.cold_items == "serve"
    write_features(config, world)
    train(config)
    with mock.patch.object(export, "replay_golden", replay_here):
        path = export.export(config)
    with open(f"{path}/assets.extra/lazytower.json", encoding="utf-8") as file:
        return tf.saved_model.load(path), json.load(file), load_dataset(config.dataset.path)


def train_counts(world) -> dict[str, int]:
    items = [row["item"] for row in world.rows if row["split"] == "train"]
    return {item: items.count(item) for item in items}


def everything(world) -> set[str]:
    return {row["item"] for row in world.rows} | set(world.sides[1])


def recommended(model, user="nobody", **inputs) -> list[str]:
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    answer = model.recommend(tf.constant([user]), k=1000, **inputs)
    return [item.decode() for item in answer["items"].numpy()[0] if item]


def test_all_items_with_a_known_feature_are_recommended(world, served):
    model, metadata, _ = served
    expected = everything(world) - {"blank"}
    # Items outside the side table may have a known `kind`, which is a column of the interactions.
    undescribed = {row["item"] for row in world.rows if not row["kind"]} - set(world.sides[1])
    trained = {item for item, count in train_counts(world).items() if count >= 2}
    expected -= undescribed - trained
    maybe = {i for i in expected - trained if i in world.sides[1] and not any(_known(world.sides[1][i]))}
    found = recommended(model)
    assert len(found) == len(set(found)) and expected - maybe <= set(found) <= expected
    assert {"fresh 1", "fresh 2"} <= set(found) and "blank" not in found
    assert metadata["recommended_items"] == len(found)
    assert metadata["cold_items"] == len(set(found) - trained) >= 3


def _known(row: dict) -> list[bool]:
    return [any(row["tags"]), row["price"] is not None, row["look"] is not None, bool(row["brand"])]


def test_cold_items_are_scored_by_their_own_vectors(served):
    model, _, _ = served
    answer = model.recommend(tf.constant(["ü3"]), k=1000)
    items, scores = answer["items"].numpy()[0], answer["scores"].numpy()[0]
    mine = items == b"fresh 1"
    user = model.user_embedding(tf.constant(["ü3"]))["embedding"].numpy()[0]
    item = model.item_embedding(tf.constant(["fresh 1"]))["embedding"].numpy()[0]
    np.testing.assert_allclose(scores[mine], [user @ item], atol=1e-5)


def test_include_exclude_and_where_hold_for_cold_items(world, served):
    model, _, _ = served
    assert recommended(model, include=[["fresh 1", "blank", "no such item"]]) == ["fresh 1"]
    assert "fresh 1" not in recommended(model, exclude=[["fresh 1"]])
    for tag in ("red", "b/lue"):
        having = {i for i, row in world.sides[1].items() if tag in [t for t in row["tags"] if t][:4]}
        assert set(recommended(model, where_tags=[[tag]])) == having


def test_seen_cold_items_are_left_out_and_histories_hold_trained_ones_alone(world, served):
    model, _, _ = served
    counts = train_counts(world)
    pairs = [
        (row["user"], row["item"])
        for row in world.rows
        if counts.get(row["item"], 0) < 2 and row["item"] in world.sides[1]
    ]
    found = recommended(model, pairs[0][0], exclude_seen=False)
    user, item = next((u, i) for u, i in pairs if i in recommended(model, u, exclude_seen=False))
    assert found and item not in recommended(model, user)
    popular = max(counts, key=counts.get)

    def embedding(*keys):
        return model.user_embedding(tf.constant(["nobody"]), history=tf.constant([keys]))["embedding"].numpy()

    np.testing.assert_array_equal(embedding(popular, "fresh 1"), embedding(popular, ""))
    assert "fresh 1" not in recommended(model, history=[[popular, "fresh 1"]])


@pytest.mark.parametrize(
    "tower, expected",
    [
        ({"inputs": ["item"]}, "leave_out"),
        ({"inputs": ["item", "tags"]}, "leave_out"),
        ({"inputs": ["tags"]}, "serve"),
        ({"inputs": ["item", "tags"], "id_dropout": 0.1}, "serve"),
        ({"inputs": ["kind"]}, "leave_out"),
    ],
)
def test_default_serves_items_that_the_tower_has_learned_to_describe(tmp_path, tower, expected):
    document = every_kind(str(tmp_path))
    document["model"]["item_tower"] = tower | {"layers": [9]}
    del document["tables"]
    assert parse_config(document, "x").export.cold_items == expected
    asked = {"serve": "leave_out", "leave_out": "serve"}[expected]
    if tower["inputs"] != ["item"]:
        document["export"] = {"cold_items": asked}
        assert parse_config(document, "x").export.cold_items == asked

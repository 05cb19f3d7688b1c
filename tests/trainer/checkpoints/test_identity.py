"""What a run and its checkpoints must have in common, and how a difference is named."""

import pytest

from configs.load import parse_config
from tests.support.documents import document
from trainer.checkpoints.identity import checkpoint_identity, first_difference

SAVED = {
    "tables": {"user": {"dim": 8, "optimizer": {"kind": "sgd", "learning_rate": 0.1}}, "item": {"dim": 8}},
    "train.seed": 0,
    "model": {"user_tower": {"inputs": ["user"], "layers": [4]}},
}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({}, None),
        ({"train.seed": 3}, ("train.seed", 0, 3)),
        ({"tables": SAVED["tables"] | {"item": {"dim": 9}}}, ("tables.item.dim", 8, 9)),
        (
            {"tables": {"user": {"dim": 8, "optimizer": {"kind": "adam", "beta": 1}}, "item": {"dim": 8}}},
            ("tables.user.optimizer.kind", "sgd", "adam"),
        ),
        ({"tables": {"user": SAVED["tables"]["user"]}}, ("tables.item", {"dim": 8}, None)),
        (
            {"model": {"user_tower": {"inputs": ["user"], "layers": []}}},
            ("model.user_tower.layers", [4], []),
        ),
        ({"new": 1}, ("new", None, 1)),
    ],
)
def test_the_first_difference_is_one_key_with_both_values(change, difference):
    assert first_difference(SAVED, SAVED | change) == difference


def test_a_key_that_only_the_checkpoint_has_differs():
    assert first_difference(SAVED | {"old": 1}, SAVED) == ("old", 1, None)
    assert first_difference(SAVED | {"old": None}, SAVED) is None


@pytest.mark.parametrize(
    ("kind", "key", "off", "on"), [("lazy_adam", "amsgrad", False, True), ("ftrl", "l2_shrinkage", 0.0, 0.5)]
)
def test_checkpoints_may_be_older_than_an_option_that_is_off(kind, key, off, on):
    def identity(value):
        optimizer = {"kind": kind, key: value}
        return checkpoint_identity(
            parse_config(document(tables={"user": {"optimizer": optimizer}}), "FILE"), "f", 9
        )

    assert key not in identity(off)["tables"]["user"]["optimizer"]
    assert first_difference(identity(off), identity(on)) == (f"tables.user.optimizer.{key}", None, on)


def test_checkpoints_may_be_older_than_options_of_the_softmax():
    def identity(**loss):
        return checkpoint_identity(parse_config(document(model={"loss": loss}), "FILE"), "f", 9)

    old = identity()
    del old["model"]["loss"]["group"]
    assert "precision" not in old["model"]["loss"] and first_difference(old, identity()) is None
    for key, value in (("precision", "bfloat16"), ("group", 2)):
        assert first_difference(old, identity(**{key: value})) == (f"model.loss.{key}", None, value)


def test_averages_of_another_horizon_are_another_run():
    """A checkpoint without the key was averaged by another default than today's."""
    now = checkpoint_identity(parse_config(document(), "FILE"), "f", 10)
    old = {
        **now,
        "polyak": {"kind": "exponential", "decay": None, "start_fraction": 0.0, "checkpoints": None},
    }
    assert first_difference(old, now) == ("polyak.horizon_fraction", None, 0.002)
    said = {"decay": 0.9, "start_fraction": 0.0}
    explicit = checkpoint_identity(parse_config(document(polyak=said), "FILE"), "f", 10)
    old = {**explicit, "polyak": {"kind": "exponential", **said, "checkpoints": None}}
    assert first_difference(old, explicit) is None, "a run that says its decay goes on"


def test_where_a_tpu_keeps_a_table_may_change():
    device = {"kind": "tpu", "slice": "v4-8"}
    identities = [
        checkpoint_identity(
            parse_config(document(device=device, tables={"user": {"placement": placement}}), "test"),
            "data",
            9,
        )
        for placement in ("auto", "tensorcore", "engine")
    ]
    assert identities[0] == identities[1] == identities[2]

"""What does not go with an ordered history, or with a loss, is refused with its key and what to do."""

import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from tests.support.documents import delimited, document, two_tower

pytestmark = pytest.mark.any_python


def ordered(sequence=None, tower=None, **sections) -> dict:
    model = two_tower(["history"]) | sections.pop("model", {})
    model["user_tower"] = model["user_tower"] | {"sequence": sequence or {}} | (tower or {})
    source = delimited(roles={"timestamp": "time"} | sections.pop("roles", {}))
    return document(**{"source": source, "model": model, **sections})


def test_defaults():
    config = parse_config(ordered(), "FILE")
    assert config.model.sequence.layers == 2 and config.model.sequence.heads == 1
    assert config.examples_per_step == config.train.batch_size * 50
    assert config.ids_of_batch == {"item": {"history": (8192, 50), "item": (8192 * 50,)}}
    assert not parse_config(document(), "FILE").model.sequence


SIZES = {"num_steps": 10, "batch_size": 64}
REFUSED = {
    "reads the history alone, but user_tower.inputs is .*; use .history.": {
        "tower": {"inputs": ["user", "history"]}
    },
    "user_tower.dropout: 0.1 .*; set sequence.dropout": {"tower": {"dropout": 0.1}},
    "model.history.pooling is sqrtn; remove it": {"model": {"history": {"pooling": "sqrtn"}}},
    "heads: 3 does not divide the width 128": {"sequence": {"heads": 3}},
    "dataset.history_of is others; if the rows have an order, set it to earlier": {
        "source": delimited(),
        "dataset": {"path": "data", "split": {"kind": "random"}},
    },
    "dataset.history_of is not set; if": {
        "source": delimited(roles={"split": "split"}),
        "dataset": {"path": "data", "split": {"kind": "given"}},
    },
    "history_length: 0, but the model reads history": {"dataset": {"path": "data", "history_length": 0}},
    "dataset.user_ids: hashed users .* use kind: vocab": {
        "dataset": {"path": "data", "user_ids": {"kind": "hash", "rows": 9}}
    },
    "train.window_days weighs rows by age": {"train": SIZES | {"window_days": 3.0}},
    "train.half_life_days weighs rows by age": {"train": SIZES | {"half_life_days": 3.0}},
    "source.roles.weight is that of one row": {"roles": {"weight": "w"}},
    "full_softmax is not available with device.replicas above 1; use in_batch": {
        "model": {"loss": {"kind": "full_softmax"}},
        "device": {"replicas": 2},
        "train": SIZES,
    },
    "full_softmax is not available with device.kind tpu": {
        "model": {"loss": {"kind": "full_softmax"}},
        "device": {"kind": "tpu", "slice": "v4-8"},
        "train": SIZES | {"batch_size": 64},
    },
    "full_softmax is not available with device.kind cluster": {
        "model": {"loss": {"kind": "full_softmax"}},
        "device": {"kind": "cluster", "hosts": ["a:1", "b:1"]},
        "train": SIZES,
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_config(ordered(**REFUSED[message]), "FILE")
    assert "\n" not in str(error.value)


def test_item_features_and_ordered_items_are_refused():
    source = delimited(roles={"timestamp": "time"})
    source["features"] = [{"name": "brand", "of": "item", "kind": "categorical"}]
    model = {"item_tower": {"inputs": ["item", "brand"]}}
    with pytest.raises(ConfigError, match="item_tower.inputs is .*, but targets have ids alone; use .item."):
        parse_config(ordered(model=model, source=source), "FILE")
    with pytest.raises(ConfigError, match="item_tower.sequence: an item has no history; remove it"):
        parse_config(ordered(model={"item_tower": {"inputs": ["item"], "sequence": {}}}), "FILE")


def test_keys_of_other_losses_are_refused():
    for loss, key in (
        ({"kind": "gbce", "temperature": 0.5}, "temperature"),
        ({"kind": "full_softmax", "logq": True}, "logq"),
        ({"negatives": 3}, "negatives"),
    ):
        with pytest.raises(ConfigError, match=f"model.loss.{key}"):
            parse_config(ordered(model={"loss": loss}), "FILE")

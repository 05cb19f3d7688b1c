"""The forecast of dense weights against the models that are built."""

import itertools

import numpy as np
import pytest

from configs.load import parse_config
from tests.support.documents import delimited, document, two_tower
from tests.support.ranking_dataset import ranking_document
from trainer.models import MODELS
from trainer.resources.dense import dense_weights

TWO = [{"name": "click"}, {"name": "buy", "label": "buy"}]
INTERACTIONS = [
    {"kind": "dot"},
    {"kind": "cross"},
    {"kind": "cross", "rank": 3, "layers": 2, "structure": "parallel"},
    {"kind": "none"},
]
SHARINGS = [
    {"sharing": {"kind": "shared_bottom"}},
    {"sharing": {"kind": "mmoe", "experts": 3, "tower": [5, 4]}, "tasks": TWO},
    {"sharing": {"kind": "mmoe"}, "tasks": TWO},
    {"sharing": {"kind": "esmm"}, "tasks": TWO},
]
INPUTS = [
    {},
    {"inputs": ["c0", "c1", "tags"]},
    {"inputs": ["user", "item", "history", "n0", "c0"], "bottom": [7, 16]},
]


@pytest.mark.parametrize("parts", [*itertools.product(INTERACTIONS, SHARINGS, INPUTS)], ids=str)
def test_ranking_models(parts):
    interaction, sharing, inputs = parts
    model = {"interaction": interaction, "top": [9, 6]} | sharing | inputs
    config = parse_config(ranking_document("unused", model, owners="inputs" in inputs), "test")
    built = MODELS["ranking"](config, np.zeros(0, np.int64))
    assert dense_weights(config) == sum(int(np.prod(v.shape)) for v in built.trainable_variables)


@pytest.mark.parametrize("more", [{}, {"layers": 3, "heads": 2, "hidden": 5}], ids=str)
@pytest.mark.parametrize("layers", [[], [7, 128]], ids=str)
def test_ordered_histories(more, layers):
    tower = {"inputs": ["history"], "sequence": more, "layers": layers}
    model = two_tower() | {"user_tower": tower}
    dataset = {"path": "unused", "history_length": 4}
    config = parse_config(
        document(source=delimited(roles={"timestamp": "t"}), dataset=dataset, model=model), "test"
    )
    built = MODELS["two_tower"](config, np.ones(3, np.int64))
    assert dense_weights(config) == sum(int(np.prod(v.shape)) for v in built.trainable_variables)


def test_a_model_without_hidden_layers():
    config = parse_config(ranking_document("unused", {"top": [], "interaction": {"kind": "none"}}), "test")
    built = MODELS["ranking"](config, np.zeros(0, np.int64))
    assert dense_weights(config) == sum(int(np.prod(v.shape)) for v in built.trainable_variables)

"""Numbers of dense weights, from configs alone, against the variables of the models themselves."""

import numpy as np
import pytest

from configs.load import parse_config
from tests.support.documents import document
from tests.support.ranking_dataset import ranking_document
from trainer.models import MODELS
from trainer.resources.dense_sizes import dense_values

BOTH = [{"name": "click"}, {"name": "buy", "label": "buy"}]
RANKING = {
    "dot": {"interaction": {"kind": "dot"}},
    "cross": {"interaction": {"kind": "cross", "layers": 2}, "bottom": [5, 7]},
    "low rank": {"interaction": {"kind": "cross", "layers": 2, "rank": 3}},
    "parallel": {"interaction": {"kind": "cross", "structure": "parallel"}, "bottom": [6]},
    "none, several tasks": {"interaction": {"kind": "none"}, "tasks": BOTH, "top": []},
    "mmoe": {"sharing": {"kind": "mmoe", "experts": 3, "tower": [4]}, "tasks": BOTH},
    "mmoe, parallel": {
        "interaction": {"kind": "cross", "structure": "parallel"},
        "sharing": {"kind": "mmoe"},
        "tasks": BOTH,
    },
    "esmm": {"sharing": {"kind": "esmm"}, "tasks": BOTH},
    "no numbers": {"inputs": ["c0", "c1", "tags"], "interaction": {"kind": "dot"}},
}


@pytest.mark.parametrize("model", RANKING)
def test_ranking_models(model):
    config = parse_config(ranking_document("unused", {"top": [9, 8]} | RANKING[model]), "test")
    made = MODELS["ranking"](config, np.zeros(0, np.int64))
    assert dense_values(config) == sum(int(v.shape.num_elements()) for v in made.trainable_variables) > 0


def test_towers():
    towers = {side: {"inputs": [side], "layers": [6, 4]} for side in ("user", "item")}
    model = {
        "kind": "two_tower",
        "user_tower": towers["user"],
        "item_tower": towers["item"],
        "item_bias": False,
    }
    config = parse_config(document(model=model), "test")
    made = MODELS["two_tower"](config, np.ones(5, np.int64))
    assert dense_values(config) == sum(int(v.shape.num_elements()) for v in made.trainable_variables) > 0

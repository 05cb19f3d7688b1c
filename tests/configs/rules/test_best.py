"""Which metrics may choose a checkpoint, and what evaluate.best needs."""

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from configs.rules.best import known_metrics
from configs.sections.evaluation import LOWER_IS_BETTER, is_better
from tests.support.tiny_run import planted_document
from trainer.data.ragged import Ragged
from trainer.evaluation.metrics import user_metrics
from trainer.evaluation.pointwise.metrics import OF_ORDER, OF_SUMS

pytestmark = pytest.mark.any_python


def best(metric="ndcg@5", weights="both", **sections) -> dict:
    document = planted_document("/place")
    document["evaluate"] |= {"best": {"metric": metric}, "weights": weights}
    for name, section in sections.items():
        document[name] = document.get(name, {}) | section
    return document


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"metric": "ndcg@10"},
            "evaluate.best.metric: 'ndcg@10' is not .*; known: hr@5, recall@5, ndcg@5, mrr",
        ),
        ({"metric": "auc"}, "evaluate.best.metric: 'auc' is not a metric of this run"),
        ({"day": {"metric": "ndgc@5"}}, "day.metric: 'ndgc@5' is not a metric of this run; known: hr@5"),
        ({"evaluate": {"best": {"metric": "mrr"}}}, "evaluate.best requires evaluate.every_steps above 0"),
        (
            {"weights": "raw"},
            "evaluate.best chooses by averaged weights, which evaluate.weights: raw leaves out",
        ),
        (
            {"dataset": {"path": "/d", "split": {"kind": "temporal", "valid_fraction": 0}}},
            "evaluate.best requires rows in valid; set dataset.split.valid_fraction above 0",
        ),
    ],
)
def test_the_best_needs_a_metric_evaluations_and_rows(sections, message):
    document = best(**sections)
    if "evaluate" in sections:
        document["evaluate"] = sections["evaluate"]
    with pytest.raises(ConfigError, match=message):
        parse_config(document, "test")


def test_names_to_choose_by_are_those_that_evaluations_have():
    config = parse_config(best(), "test")
    ranks = Ragged(np.array([1.0]), np.array([1]))
    assert set(known_metrics(config)) == set(user_metrics(ranks, np.array([1]), config.evaluate.k))
    clicks = {"kind": "synthetic_clicks", "rows": 1000}
    document = {k: v for k, v in best().items() if k in ("train", "output")}
    document |= {"source": clicks, "dataset": {"path": "/d"}, "model": {"kind": "ranking"}}
    config = parse_config(document, "test")
    evaluated = {*OF_SUMS["bce"], *OF_ORDER["bce"]} - {"calibration"}
    own = {name for name in known_metrics(config) if "/" not in name}
    assert own - {"grouped_auc"} == evaluated
    assert ("grouped_auc" in own) == (config.source.roles.user is not None)
    assert {f"{config.model.tasks[0].name}/{name}" for name in own} < set(known_metrics(config))
    errors = {*OF_SUMS["mse"], *OF_ORDER["mse"]}
    assert {name for name in (*evaluated, *errors) if not is_better(name, 2, 1)} == set(LOWER_IS_BETTER)
    directions = known_metrics(config)
    assert not directions["log_loss"] and directions["auc"]


def test_without_best_any_run_is_fine():
    document = best()
    document["evaluate"] = {"best": None, "weights": "raw"}
    assert parse_config(document, "test").evaluate.best is None

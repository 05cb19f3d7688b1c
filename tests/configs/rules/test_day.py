"""Rules of bases, windows and warm starts that need the whole document."""

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from configs.rules.day import choosing_metrics
from configs.sections.evaluation import LOWER_IS_BETTER, is_better, loss_against
from tests.support.tiny_run import planted_document
from trainer.data.ragged import Ragged
from trainer.evaluation.metrics import user_metrics
from trainer.evaluation.pointwise.metrics import OF_ORDER, OF_SUMS

pytestmark = pytest.mark.any_python


@pytest.mark.parametrize("name", ["run", "run/"])
def test_a_run_does_not_start_from_itself(name):
    document = planted_document("/place") | {"init": {"from": f"/place/{name}"}}
    with pytest.raises(ConfigError, match="init.from: /place/run/? is the run's own output.path; name"):
        parse_config(document, "test")


@pytest.mark.parametrize("key", ["window_days", "half_life_days"])
def test_ages_need_timestamps(key):
    document = planted_document("/place")
    document["source"] = {"kind": "delimited", "paths": ["x.csv"], "roles": {"user": "u", "item": "i"}}
    document["dataset"]["split"] = {"kind": "random"}
    document["train"][key] = 1.5
    with pytest.raises(ConfigError, match=f"train.{key} requires source.roles.timestamp, .* or remove {key}"):
        parse_config(document, "test")
    document["source"]["roles"]["timestamp"] = "t"
    assert getattr(parse_config(document, "test").train, key) == 1.5


def _daily(**dataset) -> dict:
    document = planted_document("/place")
    document["source"] = {"kind": "delimited", "paths": ["x.csv"], "roles": {"user": "u", "item": "i"}}
    document["dataset"] = {"path": "/place/day", "split": {"kind": "random"}, **dataset}
    return document


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"base": "/place/day/"}, "dataset.base: /place/day/ is dataset.path itself; name the dataset of"),
        ({"refresh_statistics": True}, "dataset.refresh_statistics requires dataset.base, .*; remove it"),
        (
            {"item_ids": {"expire_days": 3}},
            "dataset.item_ids.expire_days requires source.roles.timestamp, .* or remove expire_days",
        ),
        (
            {"feature_ids": {"words": {"expire_days": 3}}, "base": "/place/base"},
            "dataset.feature_ids.words.expire_days requires source.roles.timestamp",
        ),
    ],
)
def test_bases_that_cannot_be_stood_on(dataset, message):
    document = _daily(**dataset)
    document["source"]["features"] = [{"name": "words", "of": "item", "kind": "list", "separator": "|"}]
    with pytest.raises(ConfigError, match=message):
        parse_config(document, "test")


def test_a_base_with_expiring_keys():
    ids = {"expire_days": 3, "max_rows": 10}
    document = _daily(base="/place/base", user_ids=ids, refresh_statistics=True)
    document["source"]["roles"]["timestamp"] = "t"
    assert parse_config(document, "test").dataset.user_ids.expire_days == 3


def best(metric="ndcg@5", **sections) -> dict:
    document = planted_document("/place")
    document["evaluate"] |= {"best": {"metric": metric}}
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
        ({"metric": "auc"}, "evaluate.best.metric: 'auc' is not a metric to choose by"),
        ({"day": {"metric": "ndgc@5"}}, "day.metric: 'ndgc@5' is not a metric to choose by; known: hr@5"),
        ({"evaluate": {"best": {"metric": "mrr"}}}, "evaluate.best requires evaluate.every_steps above 0"),
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
    assert set(choosing_metrics(config)) == set(user_metrics(ranks, np.array([1]), config.evaluate.k))
    clicks = {"kind": "synthetic_clicks", "rows": 1000}
    document = {k: v for k, v in best().items() if k in ("train", "output")}
    document |= {"source": clicks, "dataset": {"path": "/d"}, "model": {"kind": "ranking"}}
    config = parse_config(document, "test")
    evaluated = {*OF_SUMS["bce"], *OF_ORDER["bce"]} - {"calibration"}
    own = {name for name in choosing_metrics(config) if "/" not in name}
    assert own - {"grouped_auc"} == evaluated
    assert ("grouped_auc" in own) == (config.source.roles.user is not None)
    assert {f"{config.model.tasks[0].name}/{name}" for name in own} < set(choosing_metrics(config))
    errors = {*OF_SUMS["mse"], *OF_ORDER["mse"]}
    assert {name for name in (*evaluated, *errors) if not is_better(name, 2, 1)} == set(LOWER_IS_BETTER)


def test_how_much_worse():
    assert loss_against("ndcg@5", 0.09, 0.1) == pytest.approx(0.1)
    assert loss_against("auc", 0.9, 0.6) == pytest.approx(-0.5)
    assert loss_against("click/log_loss", 0.33, 0.3) == pytest.approx(0.1)
    assert loss_against("r2", -0.2, -0.1) == pytest.approx(1)
    assert loss_against("mrr", 0.0, 0.0) == 0 and loss_against("mrr", 0.1, 0.0) == -np.inf

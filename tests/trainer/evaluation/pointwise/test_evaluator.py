"""The evaluation of a ranking model on a split."""

import numpy as np
import pytest

from configs.errors import DataError, UserError
from configs.load import parse_config
from configs.manifest import load_dataset
from configs.sections.roles import PLANTED_LABEL
from tests.support.naive_metrics import naive_auc, naive_average_precision, naive_grouped_auc
from tests.support.ranking_dataset import click_log, click_rows, ranking_document
from trainer.data.catalog import Items
from trainer.evaluation.pointwise import evaluator
from trainer.evaluation.scorer import evaluate_recommender
from trainer.models.recommender import Recommender

pytestmark = pytest.mark.any_python

ROWS = 700
MODEL = {
    "tasks": [
        {"name": "click"},
        {"name": "buy", "label": "buy", "where": "label"},
        {"name": "amount", "label": "buy", "loss": "mse"},
    ]
}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """(recommender, dataset, items) of a log with users and items."""
    directory = str(tmp_path_factory.mktemp("log"))
    evaluate = {"by": ["c2", "tags"], "by_values": 3, "slice_rows": 10, "bootstrap": 50}
    config = click_log(directory, ROWS, owners=True, model=MODEL, evaluate=evaluate)
    return _opened(config)


def _opened(config):
    dataset = load_dataset(config.dataset.path)
    items = Items.load(dataset)
    recommender = Recommender(config, dataset, items.table_counts, 40)
    recommender.initialize()
    return recommender, dataset, items


class Given:
    """Predictions that are known: of each row by its time."""

    def __init__(self, predictions: dict[str, np.ndarray], averaged: bool):
        self.name, self._predictions = "average" if averaged else "raw", predictions

    def predictions(self, batch):
        return {task: values[batch["timestamp"]] for task, values in self._predictions.items()}


def evaluated(monkeypatch, untrained, predictions: dict[str, np.ndarray], **changes) -> list[dict]:
    """Lines of a model that predicts these."""
    recommender, dataset, items = untrained
    monkeypatch.setattr(
        evaluator, "TrainedPredictor", lambda recommender, averaged, step: Given(predictions, averaged)
    )
    if "batch" in changes:
        monkeypatch.setattr(evaluator, "_SMALLEST_BATCH", changes.pop("batch"))
    for name, value in changes.items():
        monkeypatch.setattr(evaluator, name, value)
    return evaluate_recommender(recommender, dataset, items, 0, "test")


@pytest.fixture(scope="module")
def predictions():
    draw = np.random.default_rng(0)
    click = np.round(draw.random(ROWS), 2).astype(np.float32)
    return {"click": click, "buy": draw.random(ROWS).astype(np.float32), "amount": click - 1}


def test_figures_equal_naive_ones(monkeypatch, untrained, predictions):
    lines = {(line["task"], line["scorer"]): line for line in evaluated(monkeypatch, untrained, predictions)}
    rows = click_rows(ROWS, True)[ROWS * 9 // 10 :]
    times = np.array([row["timestamp"] for row in rows])
    clicks, buys = (np.array([row[name] for row in rows]) for name in ("label", "label/buy"))
    users = np.array([row["user"] for row in rows])
    one, click = np.ones(len(rows)), lines["click", "model"]
    assert click["auc"] == pytest.approx(naive_auc(clicks, predictions["click"][times], one), abs=1e-9)
    expected = naive_average_precision(clicks, predictions["click"][times], one)
    assert click["pr_auc"] == pytest.approx(expected, abs=1e-9)
    expected, without = naive_grouped_auc(users, clicks, predictions["click"][times], one)
    assert click["grouped_auc"] == pytest.approx(expected, abs=1e-9)
    assert click["one_class_groups"] == without and click["rows"] == len(rows)
    kept = (clicks > 0) & ~np.isnan(buys)
    buy = lines["buy", "model"]
    assert buy["rows"] == kept.sum() < np.isfinite(buys).sum() < len(rows)
    expected = naive_auc(buys[kept], predictions["buy"][times][kept], one[kept])
    assert buy["auc"] == pytest.approx(expected, abs=1e-9)
    kept, amount = np.isfinite(buys), lines["amount", "model"]
    error = buys[kept] - predictions["amount"][times][kept]
    assert amount["rmse"] == pytest.approx(np.sqrt((error**2).mean())) and "auc" not in amount
    assert {scorer for _, scorer in lines} == {"model", "constant", "item_rate"}


def test_slices_equal_an_evaluation_of_their_rows(monkeypatch, untrained, predictions):
    [click] = [
        line
        for line in evaluated(monkeypatch, untrained, predictions)
        if line["task"] == "click" and line["scorer"] == "model" and "by" in line
    ]
    rows = click_rows(ROWS, True)[ROWS * 9 // 10 :]
    times, clicks = (np.array([row[name] for row in rows]) for name in ("timestamp", "label"))
    site = np.array([row["c2"] for row in rows])
    counts = np.bincount(site)
    for slot, value in enumerate(np.argsort(-counts, kind="stable")[:3]):
        mine = site == value
        found = click["by"]["c2"][slot]
        assert found["rows"] == mine.sum() and found["base_rate"] == pytest.approx(clicks[mine].mean())
        expected = naive_auc(clicks[mine], predictions["click"][times][mine], np.ones(mine.sum()))
        assert found["auc"] == pytest.approx(expected, abs=1e-9)
    assert click["by"]["c2"][3]["value"] == "all others"
    assert click["by"]["c2"][3]["rows"] == len(rows) - np.sort(counts)[::-1][:3].sum()
    tagged = [sum(tag in row["tags"] for row in rows) for tag in range(7)]
    assert [one["rows"] for one in click["by"]["tags"][:3]] == sorted(tagged, reverse=True)[:3]
    assert click["worst"]["features"] == ["c2", "tags"]


def test_neither_batches_nor_memory_change_figures(monkeypatch, untrained, predictions):
    lines = evaluated(monkeypatch, untrained, predictions)
    small = {"batch": 16, "_LARGEST_BATCH": 16, "SPILL_BYTES": 1}
    for one, two in zip(lines, evaluated(monkeypatch, untrained, predictions, **small), strict=True):
        assert one["protocol"] == two["protocol"]
        for name, value in one["intervals"].items():
            assert one[name] == pytest.approx(two[name], abs=1e-9)
            assert value == pytest.approx(two["intervals"][name], abs=1e-7)


def test_the_model_itself_averaged_and_raw(untrained):
    recommender, dataset, items = untrained
    lines = evaluate_recommender(recommender, dataset, items, 0, "valid", detail=False)
    scorers = [(line["scorer"], line["weights"]) for line in lines if line["task"] == "click"]
    assert scorers == [
        ("model", "average"),
        ("model", "raw"),
        ("constant", "average"),
        ("item_rate", "average"),
    ]
    assert not any("by" in line or "worst" in line for line in lines)


def test_a_prediction_that_is_not_finite_is_an_error(monkeypatch, untrained, predictions):
    bad = predictions["click"].copy()
    bad[-1] = np.nan
    with pytest.raises(UserError, match="average: a prediction of task click is not finite"):
        evaluated(monkeypatch, untrained, predictions | {"click": bad})


def test_a_task_without_rows_has_no_figures(monkeypatch, untrained, predictions, caplog):
    reading = evaluator.TaskReader.labels

    def labels(self, batch):
        if self.task.name in without:
            return np.zeros(len(batch["label"]), bool), np.zeros(0)
        return reading(self, batch)

    monkeypatch.setattr(evaluator.TaskReader, "labels", labels)
    without = {"buy"}
    lines = evaluated(monkeypatch, untrained, predictions)
    assert {line["task"] for line in lines} == {"click", "amount"}
    assert "no row of split test counts for task buy" in caplog.text
    without = {"click", "buy", "amount"}
    with pytest.raises(DataError, match="no row of split test counts for any task"):
        evaluated(monkeypatch, untrained, predictions)


def test_the_best_reachable_stands_beside_a_model_of_planted_data(monkeypatch, untrained, predictions):
    recommender, dataset, items = untrained
    planted = dataset.model_copy(update={"labels": ["buy", PLANTED_LABEL]})
    reading = evaluator.split_rows

    def with_probability(*arguments):
        for batch in reading(dataset, *arguments[1:]):
            yield batch | {"label/planted_probability": np.float32(batch["timestamp"] % 7) / 7}

    monkeypatch.setattr(evaluator, "split_rows", with_probability)
    lines = evaluate_recommender(recommender, planted, items, 0, "test", detail=False)
    assert [line["task"] for line in lines if line["scorer"] == "best_reachable"] == ["click"]


def test_groups_by_a_feature_without_users(tmp_path, monkeypatch):
    document = ranking_document(str(tmp_path), evaluate={"group_by": "c1", "bootstrap": 10, "by": []})
    config = parse_config(document, "clicks")
    assert config.evaluate.group_by == "c1"
    config = click_log(str(tmp_path), 300, evaluate={"group_by": "c1", "bootstrap": 10})
    lines = evaluate_recommender(*_opened(config), 0, "test")
    sites = {row["c1"] for row in click_rows(300)[270:]}
    assert lines[0]["groups"] == len(sites) and "grouped AUC by c1" in lines[0]["protocol"]
    assert "blocks of rows" in lines[0]["protocol"]
    assert [line["scorer"] for line in lines] == ["model", "model", "constant"]

"""Baselines, and what is best reachable."""

import numpy as np
import pytest

from configs.load import parse_config
from tests.support.ranking_dataset import click_log, click_rows, ranking_document, write_clicks
from trainer.data.split_rows import split_rows
from trainer.evaluation.pointwise.predictors import (
    PRIOR_ROWS,
    ConstantRate,
    ItemRate,
    PlantedProbability,
    TrainRates,
)

TASKS = {"tasks": [{"name": "click"}, {"name": "buy", "label": "buy", "where": "label"}]}


def test_rates_of_train(tmp_path):
    config = click_log(str(tmp_path), 500, owners=True, model=TASKS)
    from configs.manifest import load_dataset

    dataset = load_dataset(config.dataset.path)
    rates = TrainRates(dataset, config)
    train = click_rows(500, True)[:400]
    clicks = np.array([row["label"] for row in train])
    items = np.minimum([row["item"] for row in train], 13)
    buys = [row["label/buy"] for row in train if row["label"] and not np.isnan(row["label/buy"])]
    assert rates.overall == pytest.approx({"click": clicks.mean(), "buy": np.mean(buys)})
    mine = clicks[items == 3]
    expected = (mine.sum() + PRIOR_ROWS * clicks.mean()) / (len(mine) + PRIOR_ROWS)
    assert rates.of_items["click"][3] == pytest.approx(expected)
    [batch] = split_rows(dataset, "test", [], {}, 1000)
    assert set(ConstantRate(rates).predictions(batch)["click"]) == {np.float32(clicks.mean())}
    of_items = ItemRate(rates).predictions(batch)["click"]
    np.testing.assert_allclose(of_items, rates.of_items["click"][batch["item"]], rtol=1e-6)


def test_thinned_negatives_count_for_those_left_out(tmp_path):
    config = parse_config(
        ranking_document(str(tmp_path), model=TASKS, dataset={"keep_negatives": 0.25}), "clicks"
    )
    dataset = write_clicks(config, click_rows(400))
    rates = TrainRates(dataset, config)
    clicks = np.array([row["label"] for row in click_rows(400)[:320]])
    assert rates.overall["click"] == pytest.approx(clicks.sum() / (clicks.sum() + 4 * (1 - clicks).sum()))
    assert ItemRate.name == "item_rate" and rates.of_items == {}


def test_the_planted_probability_is_that_of_the_main_label():
    config = parse_config(ranking_document("d", model=TASKS), "clicks")
    best = PlantedProbability(config.model.tasks)
    found = best.predictions({"label/planted_probability": np.float32([0.25])})
    assert list(found) == ["click"] and found["click"].tolist() == [0.25]

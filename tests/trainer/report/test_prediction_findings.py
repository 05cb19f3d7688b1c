"""Findings about ranking models."""

import pytest

from trainer.report.findings import compared_weights, evaluation_findings


def evaluation(average=0.4, raw=0.4, constant=0.5, item=0.45, task="click", metric="log_loss", **model):
    known = [("model", "average", average), ("model", "raw", raw), ("constant", "average", constant)]
    known.append(("item_rate", "average", item))
    return [
        {"scorer": scorer, "weights": weights, "split": "test", "task": task, metric: value}
        | (model if scorer == "model" else {})
        for scorer, weights, value in known
    ]


def test_a_healthy_model_has_none():
    assert evaluation_findings(evaluation(calibration=1.04)) == []
    assert evaluation_findings(evaluation(average=0.4005)) == [], "noise"


@pytest.mark.parametrize("metric", ["log_loss", "rmse"])
def test_an_average_that_is_worse(metric):
    [text] = evaluation_findings(evaluation(average=0.41, metric=metric))
    assert text.startswith(
        f"Task click: the averaged weights are worse than the raw weights ({metric} 0.4100"
    )


def test_a_model_that_is_no_better_than_a_baseline():
    [text] = evaluation_findings(evaluation(item=0.4))
    assert "no better than the rate of each item in train (log_loss 0.4000 against 0.4000)" in text
    [text] = evaluation_findings(evaluation(constant=0.38, item=0.39))
    assert "no better than the mean label of train" in text


def test_predictions_that_are_off():
    [text] = evaluation_findings(evaluation(calibration=1.2, intervals={"calibration": [1.1, 1.3]}))
    assert "predictions are above the labels by 20.0% in sum (interval 1.100 to 1.300)" in text
    assert evaluation_findings(evaluation(calibration=0.8, intervals={"calibration": [0.6, 1.1]})) == []
    [text] = evaluation_findings(evaluation(calibration=0.8))
    assert "below the labels by 20.0%" in text
    assert evaluation_findings(evaluation(calibration=None)) == []


def test_tasks_are_judged_one_by_one():
    lines = [*evaluation(calibration=2.0), *evaluation(task="buy", average=0.6)]
    assert [text.split(":")[0] for text in evaluation_findings(lines)] == ["Task click", *["Task buy"] * 2]


def test_compared_weights():
    assert compared_weights(evaluation()) == "test log_loss: average 0.4000, raw weights 0.4000"

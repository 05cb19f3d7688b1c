"""Sentences about figures: present for what went wrong, absent for healthy runs."""

import math
import random

import pytest

from trainer.report.findings import compared_weights, evaluation_findings, loss_findings


def evaluation(average, raw, popularity, metric="recall@20"):
    line = {"split": "test", "ndcg@10": 0.5, "hr@10": 0.5}
    weights = {"average": average, "raw": raw}
    lines = [
        line | {"scorer": "model", "weights": name, metric: value}
        for name, value in weights.items()
        if value is not None
    ]
    return [*lines, line | {"scorer": "popularity", "weights": "average", metric: popularity}]


@pytest.mark.parametrize("metric", ["recall@20", "hr@10"])
def test_a_good_model_has_no_findings(metric):
    assert evaluation_findings(evaluation(0.25, 0.25, 0.12, metric)) == []
    assert evaluation_findings(evaluation(0.249, 0.25, 0.12, metric)) == [], "noise"
    assert evaluation_findings(evaluation(None, 0.25, 0.12, metric)) == []
    assert evaluation_findings([]) == []


def test_a_worse_average_is_said_with_its_figures_and_the_fix():
    [text] = evaluation_findings(evaluation(0.049, 0.130, 0.034))
    assert (
        "recall@20 0.0490 against 0.1300" in text and "polyak.decay" in text and "export.weights: raw" in text
    )


def test_no_better_than_popularity_names_what_to_look_at():
    [text] = evaluation_findings(evaluation(None, 0.034, 0.034))
    assert "no better than popularity (recall@20 0.0340 against 0.0340)" in text
    for hint in ("labels", "learning rates", "polyak", "temperature", "num_epochs", "model.negatives"):
        assert hint in text


def test_a_bad_average_of_a_good_model_points_at_the_average():
    worse, popularity = evaluation_findings(evaluation(0.03, 0.130, 0.034))
    assert "worse than the raw weights" in worse
    assert "The raw weights are better (0.1300), so check polyak first" in popularity


def test_raw_beside_average_in_one_line():
    assert (
        compared_weights(evaluation(0.2, 0.1, 0.05)) == "test recall@20: average 0.2000, raw weights 0.1000"
    )
    assert compared_weights(evaluation(None, 0.1, 0.05)) is None


def losses(curve, steps=1000, every=100, noise=0.0):
    """Train lines as a run writes them: after a hundredth of the steps, then after every loop."""
    draw = random.Random(0)
    marks = [steps // 100, *range(every, steps + 1, every)]
    return [{"step": s, "loss": curve(s / steps) * (1 + noise * draw.uniform(-1, 1))} for s in marks]


@pytest.mark.parametrize(
    "curve",
    [
        lambda t: 5 + 3 * math.exp(-5 * t),
        lambda t: 0.5 + 0.19 * math.exp(-2 * t),
        lambda t: 7.3 - 0.4 * t,
        lambda t: 0.68 + 0.013 * math.exp(-9 * t),
        lambda t: 6 - 3 * t + 0.2 * math.sin(40 * t),
    ],
)
@pytest.mark.parametrize("every", [10, 100])
def test_a_loss_that_falls_has_no_findings(curve, every):
    assert loss_findings(losses(curve, every=every)) == []


@pytest.mark.parametrize("every", [10, 100])
def test_a_loss_that_hardly_moves(every):
    [text] = loss_findings(losses(lambda t: 8.4 - 0.02 * t, every=every, noise=0.002))
    assert (
        text.startswith("The loss barely changed, from 8.4")
        and "Raise tables.*.optimizer.learning_rate" in text
    )


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (lambda t: 8 + 4 * t, "no lower than its initial"),
        (lambda t: 8 - 20 * t if t < 0.2 else 4 + 3 * (t - 0.2), "The loss rose from 4"),
    ],
)
def test_a_loss_that_runs_away(curve, words):
    [text] = loss_findings(losses(curve, every=10))
    assert words in text and "Lower tables.*.optimizer.learning_rate" in text


def test_what_cannot_be_told_is_not_said():
    assert loss_findings([]) == []
    assert loss_findings(losses(lambda t: 8.0)[:2]) == []
    late = [line for line in losses(lambda t: 8.0) if line["step"] > 300]
    assert loss_findings(late) == [], "the beginning was not recorded"
    assert loss_findings([{"step": s, "loss": None} for s in range(9)]) == []

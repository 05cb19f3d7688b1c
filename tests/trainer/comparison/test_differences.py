"""Paired intervals: equal to a bootstrap written out, and as often right as they claim to be."""

import math

import numpy as np
import pytest

from configs.sections.evaluation import EvaluateConfig
from trainer.comparison.differences import differences, verdict_of
from trainer.comparison.groups import EVERYONE, UserGroups
from trainer.comparison.measured import MeasuredRun, sampled_means
from trainer.evaluation.pointwise.figures import Bootstrap
from trainer.evaluation.pointwise.resampling import blocks_of, sample_weights

pytestmark = pytest.mark.any_python


def run_of(values: np.ndarray, options: EvaluateConfig, codes: np.ndarray | None = None) -> MeasuredRun:
    """A run whose users have these values of ndcg@10."""
    ids, weights = np.arange(len(values)), np.ones(len(values))
    blocks, bootstrap = blocks_of(options.seed, ids), Bootstrap(options)
    codes = np.zeros(len(values), np.int64) if codes is None else codes
    groups = UserGroups("half", [f"part {code}" for code in range(codes.max() + 1)], ids, codes)
    figures = {("", EVERYONE): sampled_means(weights, {"ndcg@10": values}, blocks, bootstrap)}
    for code, text in enumerate(groups.texts):
        mine = codes == code
        own = sampled_means(weights[mine], {"ndcg@10": values[mine]}, blocks[mine], bootstrap)
        figures["", text] = own
    return MeasuredRun(1, "newest", "full", "users", figures, groups, {"ndcg@10": values})


def test_intervals_equal_a_bootstrap_written_out():
    options = EvaluateConfig(bootstrap=200, seed=5, confidence=0.9)
    draw = np.random.default_rng(0)
    one, two = draw.random(3000), draw.random(3000)
    codes = (np.arange(3000) % 3 == 0).astype(np.int64)
    found = differences(run_of(one, options, codes), run_of(two, options, codes), 0.9)
    assert [difference.group for difference in found] == [EVERYONE, "part 0", "part 1"]
    weights, blocks = sample_weights(5, 200), blocks_of(5, np.arange(3000))
    for difference, inside in zip(found, (np.ones(3000, bool), codes == 0, codes == 1), strict=True):
        samples = []
        for sample in weights:  # each user as often as its block
            times = sample[blocks] * inside
            samples.append((times * two).sum() / times.sum() - (times * one).sum() / times.sum())
        low, high = np.quantile(samples, [0.05, 0.95])
        np.testing.assert_allclose(difference.interval, [low, high], rtol=1e-9)
        assert difference.by == pytest.approx(two[inside].mean() - one[inside].mean())
        assert difference.number == inside.sum()
        assert difference.won == np.mean(two[inside] > one[inside])
        assert difference.lost == np.mean(two[inside] < one[inside])


def test_intervals_contain_the_truth_as_often_as_they_say():
    """Users' values have much in common, and their difference a known mean."""
    options, draw, inside, widths = EvaluateConfig(bootstrap=400), np.random.default_rng(2), 0, []
    for _ in range(200):
        common = draw.random(2000)
        one, two = common + draw.normal(0, 0.1, 2000), common + draw.normal(0.01, 0.1, 2000)
        [found, _] = differences(run_of(one, options), run_of(two, options), 0.95)
        inside += found.interval[0] <= 0.01 <= found.interval[1]
        widths.append(found.interval[1] - found.interval[0])
    assert 0.92 * 200 <= inside <= 0.98 * 200
    exact = 2 * 1.96 * math.sqrt(2 * 0.1**2 / 2000)  # what they have in common cancels
    assert np.mean(widths) == pytest.approx(exact, rel=0.1)


def test_verdicts():
    assert verdict_of("ndcg@10", [0.1, 0.2]) == verdict_of("log_loss", [-0.2, -0.1]) == "better"
    assert verdict_of("ndcg@10", [-0.2, -0.1]) == verdict_of("log_loss", [0.1, 0.2]) == "worse"
    assert verdict_of("auc", [-0.1, 0.2]) == verdict_of("auc", [0.0, 0.0]) == "noise"
    assert verdict_of("auc", None) == verdict_of("calibration", [0.1, 0.2]) == ""


def test_a_run_does_not_differ_from_itself():
    values, options = np.random.default_rng(1).random(500), EvaluateConfig(bootstrap=50)
    [found, _] = differences(run_of(values, options), run_of(values, options), 0.95)
    assert (found.by, found.interval, found.verdict, found.won) == (0.0, [0.0, 0.0], "noise", 0.0)


def test_few_users_have_no_interval():
    values, options = np.arange(8.0), EvaluateConfig(bootstrap=50)
    [found, _] = differences(run_of(values, options), run_of(values + 1, options), 0.95)
    assert (found.by, found.interval, found.verdict) == (1.0, None, "")

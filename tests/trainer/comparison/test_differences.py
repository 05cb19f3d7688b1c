"""Paired intervals: equal to a bootstrap written out, and as often right as they claim to be."""

import math

import numpy as np
import pytest

from configs.sections.evaluation import EvaluateConfig
from trainer.comparison.differences import differences, verdict_of
from trainer.comparison.groups import EVERYONE, Group, GroupTable
from trainer.comparison.measured import MeasuredRun
from trainer.evaluation.pointwise.figures import Bootstrap
from trainer.evaluation.pointwise.resampling import blocks_of, sample_weights
from trainer.evaluation.segments.sums import SegmentSums

pytestmark = pytest.mark.any_python


def run_of(values: np.ndarray, options: EvaluateConfig, codes: np.ndarray | None = None) -> MeasuredRun:
    """A run whose users have these values of ndcg@10."""
    blocks, weights = blocks_of(options.seed, np.arange(len(values))), np.ones(len(values))
    whole = np.zeros(len(values), np.int64)
    codes = whole if codes is None else codes
    everyone, parts = SegmentSums(1), SegmentSums(codes.max() + 1)
    for sums, segments in ((everyone, whole), (parts, codes)):
        sums.add(segments, blocks, weights, {"ndcg@10": values})
    figures = {Group("", "", EVERYONE): everyone.sampled(Bootstrap(options))[0]}
    members = {}
    for code, own in enumerate(parts.sampled(Bootstrap(options))):
        figures[Group("", "half", f"part {code}")] = own
        members["half", f"part {code}"] = np.flatnonzero(codes == code)
    tables = {"half": GroupTable("half", "users")}
    return MeasuredRun(1, "newest", "full", "users", figures, tables, {"ndcg@10": values}, members)


def test_intervals_equal_a_bootstrap_written_out():
    options = EvaluateConfig(bootstrap=200, seed=5, confidence=0.9)
    draw = np.random.default_rng(0)
    one, two = draw.random(3000), draw.random(3000)
    codes = (np.arange(3000) % 3 == 0).astype(np.int64)
    found = differences(run_of(one, options, codes), run_of(two, options, codes), 0.9)
    groups = [("", "", EVERYONE), ("", "half", "part 0"), ("", "half", "part 1")]
    assert [difference[:3] for difference in found] == groups
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

"""Means by segment, and how often their intervals hold the truth."""

import numpy as np
import pytest

from configs.sections.evaluation import EvaluateConfig
from trainer.evaluation.pointwise.figures import Bootstrap
from trainer.evaluation.pointwise.resampling import blocks_of
from trainer.evaluation.segments.sums import SegmentSums

pytestmark = pytest.mark.any_python


def test_means_are_weighted_and_leave_unknown_values_out():
    draw = np.random.default_rng(0)
    segments, weights = draw.integers(0, 3, 500), draw.random(500)
    values = {"a": draw.random(500), "b": np.where(draw.random(500) < 0.3, np.nan, draw.random(500))}
    sums, blocks = SegmentSums(4), blocks_of(0, np.arange(500))
    for part in np.array_split(np.arange(500), 7):
        columns = {name: column[part] for name, column in values.items()}
        sums.add(segments[part], blocks[part], weights[part], columns)
    results, sampled = sums.results(Bootstrap(EvaluateConfig())), sums.sampled(Bootstrap(EvaluateConfig()))
    for segment, (weight, metrics, intervals) in enumerate(results):
        mine = segments == segment
        assert weight == pytest.approx(weights[mine].sum()) and sampled[segment].rows == round(weight)
        for name, column in values.items():
            known = mine & np.isfinite(column)
            if not known.any():
                assert metrics[name] is None and intervals[name] is None
                continue
            assert metrics[name] == pytest.approx(
                np.average(column[known], weights=weights[known]), abs=1e-12
            )
            assert intervals[name][0] < metrics[name] < intervals[name][1]
            assert sampled[segment].values[name] == metrics[name]
            limits = np.quantile(sampled[segment].samples[name], [0.025, 0.975])
            assert intervals[name] == pytest.approx(limits.tolist(), abs=1e-12)


def test_no_interval_where_users_do_not_differ_or_are_few():
    sums = SegmentSums(2)
    sums.add(np.zeros(50, np.int64), np.arange(50), np.ones(50), {"hr@10": np.zeros(50)})
    sums.add(np.ones(9, np.int64), np.arange(9), np.ones(9), {"hr@10": np.arange(9) / 9})
    for _, _, intervals in sums.results(Bootstrap(EvaluateConfig())):
        assert intervals == {"hr@10": None}


@pytest.mark.parametrize("users", [300, 2000])
def test_intervals_hold_the_truth(users):
    """Of 200 planted repetitions: hits, a skewed figure such as NDCG, and a third of the users by itself."""
    draw, held = np.random.default_rng(users), []
    truth = np.array([0.2, 0.25, 0.25])
    for seed in range(200):
        segments = draw.integers(0, 3, users)
        values = {"hr": (draw.random(users) < 0.2).astype(float), "ndcg": draw.beta(0.5, 1.5, users)}
        whole, parts, blocks = SegmentSums(1), SegmentSums(3), blocks_of(seed, np.arange(users))
        whole.add(np.zeros(users, np.int64), blocks, np.ones(users), values)
        parts.add(segments, blocks, np.ones(users), values)
        bootstrap = Bootstrap(EvaluateConfig(bootstrap=400, seed=seed))
        [(_, _, found)], of_parts = whole.results(bootstrap), parts.results(bootstrap)
        limits = np.array([found["hr"], found["ndcg"], of_parts[0][2]["ndcg"]])
        held.append((limits[:, 0] <= truth) & (truth <= limits[:, 1]))
    shares = np.mean(held, axis=0)
    assert (0.92 <= shares).all() and (shares <= 0.98).all(), shares

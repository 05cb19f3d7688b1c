"""Coverage and Gini index of lists as they come, and how often their intervals hold the truth."""

import collections

import numpy as np
import pytest

from configs.sections.evaluation import EvaluateConfig
from tests.trainer.evaluation.lists.test_metrics import padded, recbole_coverage, recbole_gini
from trainer.evaluation.lists import exposure
from trainer.evaluation.lists.exposure import Exposure, t_quantile
from trainer.evaluation.pointwise.resampling import blocks_of

pytestmark = pytest.mark.any_python

RANKED = np.arange(3, 90, 2)


def drawn(seed: int, users: int, wide: int = 6) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    chances = 1 / np.arange(1, len(RANKED) + 1) ** 1.3
    chances /= chances.sum()
    return [
        RANKED[draw.choice(len(RANKED), draw.integers(wide + 1), replace=False, p=chances)].tolist()
        for _ in range(users)
    ]


@pytest.mark.parametrize("pending", [1, 50, 1 << 20])
def test_figures_equal_the_definitions_however_lists_arrive(monkeypatch, pending):
    monkeypatch.setattr(exposure, "_PENDING", pending)
    lists, ids = drawn(1, 200), np.random.default_rng(2).permutation(5000)[:200]
    found = Exposure(RANKED, EvaluateConfig(k=[5, 1, 30]))
    for start in range(0, 200, 17):
        found.add(ids[start : start + 17], padded(lists[start : start + 17], 6))
    metrics, intervals = found.figures()
    for k in (5, 1, 30):
        cut = [one[:k] for one in lists]
        assert metrics[f"coverage@{k}"] == pytest.approx(recbole_coverage(cut, len(RANKED)), abs=1e-12)
        assert metrics[f"gini@{k}"] == pytest.approx(recbole_gini(cut, len(RANKED)), abs=1e-12)
        for name, (low, high) in intervals.items():
            assert low < metrics[name] < high


def test_the_error_of_the_gini_index_is_that_of_leaving_blocks_out():
    lists, ids = drawn(3, 300), np.arange(300)
    config = EvaluateConfig(k=[2, 6], seed=7, confidence=0.9)
    found = Exposure(RANKED, config)
    found.add(ids, padded(lists, 6))
    blocks = blocks_of(7, ids)
    for k in (2, 6):
        left = [
            recbole_gini(
                [one[:k] for one, block in zip(lists, blocks, strict=True) if block != b], len(RANKED)
            )
            for b in {int(b) for b, one in zip(blocks, lists, strict=True) if one}
        ]
        error = np.sqrt((len(left) - 1) * np.var(left))
        metrics, intervals = found.figures()
        reach = t_quantile(0.95, len(left) - 1) * error
        value = metrics[f"gini@{k}"]
        assert intervals[f"gini@{k}"] == pytest.approx([value - reach, min(value + reach, 1.0)], rel=1e-9)


def test_the_error_of_the_coverage_is_the_series_over_sets_of_users():
    lists = drawn(5, 150, wide=4)
    config = EvaluateConfig(k=[4], seed=1)
    found = Exposure(RANKED, config)
    found.add(np.arange(150), padded(lists, 4))
    owners = collections.defaultdict(set)
    for user, one in enumerate(lists):
        for item in one:
            owners[item].add(user)
    together = collections.Counter(frozenset(users) for users in owners.values())
    smooth = [31 / 32, 26 / 32, 16 / 32, 6 / 32, 1 / 32]
    terms = [
        smooth[len(users) - 1] * (-1) ** (len(users) + 1) * number**2
        for users, number in together.items()
        if len(users) <= 5
    ]
    squares = [
        smooth[len(users) - 1] ** 2 * number**2 for users, number in together.items() if len(users) <= 5
    ]
    alone = sum(number for users, number in together.items() if len(users) == 1)
    least = (sum(n**2 for users, n in together.items() if len(users) == 1) - alone**2 / 150) / 4
    variance = max(sum(terms) - alone**2 / 150, least)
    freedom = max(3.0, 2 * variance**2 / sum(squares))
    metrics, intervals = found.figures()
    reach = t_quantile(0.975, freedom) * np.sqrt(variance) / len(RANKED)
    value = metrics["coverage@4"]
    assert intervals["coverage@4"] == pytest.approx([value - reach, min(value + reach, 1.0)], rel=1e-9)


def test_a_user_with_several_lists_counts_once_for_an_item():
    lists = drawn(6, 60, wide=4)
    once, twice = Exposure(RANKED, EvaluateConfig(k=[4])), Exposure(RANKED, EvaluateConfig(k=[4]))
    once.add(np.arange(60), padded(lists, 4))
    twice.add(np.repeat(np.arange(60), 2), padded([one for one in lists for _ in range(2)], 4))
    assert (once._users == twice._users).all() and (once._signatures == twice._signatures).all()
    assert once.figures()[0] == pytest.approx(twice.figures()[0])


def test_no_interval_for_too_few_users_or_without_a_bootstrap():
    few = Exposure(RANKED, EvaluateConfig(k=[4]))
    few.add(np.arange(5), padded(drawn(1, 5, wide=4), 4))
    none = Exposure(RANKED, EvaluateConfig(k=[4], bootstrap=0))
    none.add(np.arange(50), padded(drawn(1, 50, wide=4), 4))
    for found in (few, none):
        metrics, intervals = found.figures()
        assert set(intervals) == set(metrics) == {"coverage@4", "gini@4"}
        assert list(intervals.values()) == [None, None]


def test_quantiles_of_students_t():
    for freedom, expected in ((3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (255, 1.969)):
        assert t_quantile(0.975, freedom) == pytest.approx(expected, rel=0.01)
    assert t_quantile(0.95, 20) == pytest.approx(1.725, rel=1e-3)


@pytest.mark.parametrize(("users", "items", "k", "spread"), [(150, 600, 10, 1.0), (400, 300, 5, 0.5)])
def test_intervals_hold_what_other_users_give(users, items, k, spread):
    """Of 200 draws of users from five tastes: about 95 % of the intervals hold the mean of all draws."""
    chances = np.stack([np.random.default_rng(t).permutation(1 / np.arange(1, items + 1)) for t in range(5)])
    draw, values, limits = np.random.default_rng(0), [], []
    for seed in range(200):
        keys = np.log(chances[draw.integers(5, size=users)]) + spread * draw.gumbel(size=(users, items))
        lists = np.argpartition(-keys, k, axis=1)[:, :k]
        found = Exposure(np.arange(items), EvaluateConfig(k=[k], seed=seed))
        found.add(np.arange(users), lists)
        metrics, intervals = found.figures()
        values.append(list(metrics.values()))
        limits.append(list(intervals.values()))
    truth, limits = np.mean(values, axis=0), np.array(limits)
    held = ((limits[:, :, 0] <= truth) & (truth <= limits[:, :, 1])).mean(axis=0)
    assert (0.92 <= held).all() and (held <= 0.98).all(), held

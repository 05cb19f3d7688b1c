"""The population stability index against a plain reference, and how often chance alone exceeds `chance`."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.dataset_parts import DistributionInfo
from pipelines.statistics.drift import LEAST_SHARE, chance, compare, stability_index

pytestmark = pytest.mark.any_python


def reference(before, now) -> float:
    """Bin by bin, as the definition says."""
    total = 0.0
    for one, other in zip(before, now, strict=True):
        p, q = max(one / sum(before), LEAST_SHARE), max(other / sum(now), LEAST_SHARE)
        total += (p - q) * math.log(p / q)
    return total


counts = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=30)


@given(counts)
@settings(max_examples=200, deadline=None)
def test_it_equals_the_definition(pairs):
    before, now = zip(*pairs, strict=True)
    if sum(before) and sum(now):
        assert stability_index(before, now) == pytest.approx(reference(before, now), rel=1e-12, abs=1e-15)
        assert stability_index(before, now) == pytest.approx(stability_index(now, before), rel=1e-12)
    else:
        assert stability_index(before, now) == chance(before, now) == 0


def test_a_textbook_case():
    """Shares 50/50 against 75/25: 0.25 ln 1.5 + 0.25 ln 2."""
    assert stability_index([10, 10], [300, 100]) == pytest.approx(0.25 * math.log(1.5) + 0.25 * math.log(2))
    assert stability_index([10, 10], [7, 7]) == 0


def test_chance_is_exceeded_once_in_20_times():
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.full(12, 5.0))
    pairs = [(rng.multinomial(4000, shares), rng.multinomial(1500, shares)) for _ in range(4000)]
    exceeded = np.mean([stability_index(one, other) > chance(one, other) for one, other in pairs])
    assert 0.03 < exceeded < 0.07


def test_numbers_are_compared_with_their_empty_values():
    before = DistributionInfo(values=100, empty=20, boundaries=[2.0, 5.0], counts=[30, 30, 20])
    now = DistributionInfo(values=50, empty=5, boundaries=[3.0], counts=[5, 40])
    found = compare("age", now, before, {"bin/age/0": 5, "bin/age/2": 40, "empty/age": 5}, of_owners=False)
    assert (found.before, found.now) == ([30, 30, 20, 20], [5, 0, 40, 5])
    assert found.bins == ["below 2", "2 to 5", "5 or more", "empty"]
    assert found.psi == pytest.approx(reference(found.before, found.now), rel=1e-5)
    assert found.level == "shift" and found.largest == ("2 to 5", 0.3, 0.0)


def test_keys_that_came_and_went_are_named():
    before = DistributionInfo(values=100, unknown=10, keys=[0, 1], names=["a", ""], counts=[50, 30, 10])
    now = DistributionInfo(values=40, unknown=0, keys=[7, 0], names=["new", "a"], counts=[20, 19, 1])
    found = compare(
        "genre",
        now,
        before,
        {"bin/genre/0": 19, "bin/genre/2": 1, "strange/genre": 20, "new/genre/7": 1},
        False,
    )
    assert found.bins == ["a", "(empty key)", "other keys", "unknown keys", "empty"]
    assert found.now == [19, 0, 1, 20, 0] and found.before == [50, 30, 10, 10, 0]
    assert found.vanished == ["(empty key)"] and found.appeared == ["new"]
    assert (found.unknown_share, found.unknown_share_before) == (0.5, 0.1)


def test_newcomers_among_users_are_no_drift_of_the_others():
    before = DistributionInfo(values=1000, boundaries=[2.0], counts=[500, 500])
    now = DistributionInfo(values=1000, boundaries=[2.0], counts=[200, 800])
    found = compare("user", now, before, {"bin/user/0": 200, "bin/user/1": 200, "strange/user": 600}, True)
    assert found.psi == 0 and found.level == "none" and found.unknown_share == 0.6


def test_a_difference_that_chance_explains_has_no_level():
    before = DistributionInfo(values=8, boundaries=[1.0], counts=[5, 3])
    now = DistributionInfo(values=8, boundaries=[1.0], counts=[3, 5])
    found = compare("label", now, before, {"bin/label/0": 3, "bin/label/1": 5}, False)
    assert found.psi > 0.25 and found.level == "none"

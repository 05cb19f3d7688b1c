"""Overlap, rank-biased overlap and coverage, against their definitions."""

import json

import numpy as np
import pyarrow as pa
import pytest

from trainer.batch.comparison import Comparison, common_at_depths, rank_biased_overlap
from trainer.batch.lists import ItemNumbers, UserLists

pytestmark = pytest.mark.any_python


def lists_of(*rows: list[int]) -> UserLists:
    users = pa.array([f"u{i}" for i in range(len(rows))])
    return UserLists(users, np.array([len(r) for r in rows], np.int64), np.array(sum(rows, []), np.int64))


def random_lists(seed: int, users: int, k: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(12)[: rng.integers(0, k + 1)].tolist() for _ in range(users)]


def test_overlaps_at_all_depths_are_those_of_sets():
    one, other = random_lists(1, 30, 8), random_lists(2, 30, 8)
    found = common_at_depths(lists_of(*one), lists_of(*other), 8)
    expected = [[len(set(a[:d]) & set(b[:d])) for d in range(1, 9)] for a, b in zip(one, other, strict=True)]
    np.testing.assert_array_equal(found, expected)


def biased(one: list[int], other: list[int], p: float, k: int = 10) -> float:
    common = common_at_depths(lists_of(one), lists_of(other), k)
    shorter, longer = (np.array([f(len(one), len(other))]) for f in (min, max))
    return float(rank_biased_overlap(common, shorter, longer, p)[0])


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
def test_rank_biased_overlap_is_the_mean_over_readers_who_read_on_with_probability_p(p):
    """Beyond the end of two equally long lists, the overlap stays what it was there."""
    one, other = [0, 1, 2, 3, 4], [1, 0, 7, 3, 8]
    depths = np.arange(1, 3000)
    agreement = [len(set(one[:d]) & set(other[:d])) / min(d, 5) for d in depths]
    assert biased(one, other, p) == pytest.approx((1 - p) * (p ** (depths - 1) * agreement).sum())


def test_rank_biased_overlap_of_equal_disjoint_and_cut_lists():
    assert biased([3, 1, 2], [3, 1, 2], 0.9) == pytest.approx(1)
    assert biased([3, 1, 2], [4, 5, 6], 0.9) == 0
    assert biased([3, 1], [3, 1, 2, 5], 0.9) == pytest.approx(1)  # the short one is extrapolated
    assert biased([], [4, 5, 6], 0.9) == 0
    top, end = biased([1, 2, 3], [9, 2, 3], 0.9), biased([1, 2, 3], [1, 2, 9], 0.9)
    assert top < end


def test_sums_do_not_depend_on_the_blocks():
    one, other = random_lists(3, 40, 6), random_lists(4, 40, 6)
    one[5], other[5], one[20] = [], [], other[20]
    numbers = ItemNumbers()
    numbers.of(pa.array([str(i) for i in range(12)]))
    documents = []
    for size in (40, 7):
        found = Comparison(6, [1, 3, 6], 0.9)
        for start in range(0, 40, size):
            found.add(lists_of(*one[start : start + size]), lists_of(*other[start : start + size]))
        documents.append(found.document(numbers))
    first, second = (json.loads(json.dumps(d), parse_float=lambda t: round(float(t), 12)) for d in documents)
    assert first == second
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a or b]
    assert documents[0]["users"] == 40 and documents[0]["users_without_items"] == 40 - len(pairs)
    third = [len(set(a[:3]) & set(b[:3])) / min(3, max(len(a), len(b))) for a, b in pairs]
    assert documents[0]["overlap"]["3"] == pytest.approx(np.mean(third))
    assert documents[0]["identical"] == pytest.approx(np.mean([a == b for a, b in pairs]))
    assert documents[0]["items"] == [len(set(sum(one, []))), len(set(sum(other, [])))]
    assert documents[0]["items_of_both"] == len(set(sum(one, [])) & set(sum(other, [])))

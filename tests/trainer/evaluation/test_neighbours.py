"""Nearest neighbours in item features against a dictionary implementation."""

import collections
import math

import numpy as np
import pytest

from configs.dataset_parts import FeatureInfo
from trainer.data.catalog import Items
from trainer.data.features import ListColumn
from trainer.data.ragged import Ragged
from trainer.evaluation import neighbours
from trainer.evaluation.baselines import Random
from trainer.evaluation.protocols import UserBatch

pytestmark = pytest.mark.any_python

TAGS = [[1, 2, 2], [2], [], [0, 1], [1, 3], [2, 0]]  # the last two are cold; tag 3 is theirs alone
BRANDS = [0, 1, 1, 0, 1, 0]
SEEN = [[0, 1], [], [3]]


def ragged(lists) -> Ragged:
    return Ragged(np.array(sum(lists, []), np.int64), np.array([len(x) for x in lists]))


@pytest.fixture
def items() -> Items:
    infos = {
        "tags": FeatureInfo(of="item", kind="list", table="tags", max_length=3),
        "brand": FeatureInfo(of="item", kind="categorical", table="brand"),
        "price": FeatureInfo(of="item", kind="numeric"),
    }
    columns = {"tags": ListColumn(ragged(TAGS)), "brand": np.array(BRANDS), "price": np.zeros(6, np.float32)}
    counts = np.array([3, 2, 1, 1, 0, 0])
    return Items(6, np.arange(4), np.array([b"x"] * 6, object), counts, columns, infos=infos)


def users(number: int = 3) -> UserBatch:
    ids = np.arange(number)
    return UserBatch(ids, ids.astype(object), np.zeros([number, 0], np.int64), {}, ragged(SEEN[:number]))


def by_hand() -> np.ndarray:
    terms = [{("t", t) for t in tags} | {("b", b)} for tags, b in zip(TAGS, BRANDS, strict=True)]
    frequency = collections.Counter(term for own in terms[:4] for term in own)

    def vector(item: int) -> dict:
        weights = {term: math.log(4 / max(frequency[term], 1)) for term in terms[item]}
        norm = math.sqrt(sum(w * w for w in weights.values())) or 1.0
        return {term: w / norm for term, w in weights.items()}

    scores = np.zeros((3, 6))
    for u, seen in enumerate(SEEN):
        for item in (4, 5):
            scores[u, item] = sum(w * vector(s).get(t, 0) for s in seen for t, w in vector(item).items())
    return scores


@pytest.mark.parametrize("cells", [1, 1 << 23])
def test_scores_are_cosines_weighted_by_rarity(items, cells, monkeypatch):
    monkeypatch.setattr(neighbours, "_CELLS", cells)
    names = neighbours.FeatureNeighbours.comparable(items)
    assert names == ["tags", "brand"]
    scorer = neighbours.FeatureNeighbours(items, names)
    np.testing.assert_allclose(scorer.scores(users(), None), by_hand(), atol=1e-6)
    some = np.array([[4, 0], [5, 4], [5, 5]])
    np.testing.assert_allclose(
        scorer.scores(users(), some), np.take_along_axis(by_hand(), some, axis=1), atol=1e-6
    )


def test_random_order_differs_by_user_and_is_the_same_for_candidates(items):
    scorer = Random(items, 7)
    scores = scorer.scores(users(), None)
    assert scores.shape == (3, 6) and len(np.unique(scores)) == scores.size
    some = np.array([[4, 0], [5, 4], [5, 5]])
    np.testing.assert_array_equal(scorer.scores(users(), some), np.take_along_axis(scores, some, axis=1))
    np.testing.assert_array_equal(scores[:2], Random(items, 7).scores(users(2), None))
    assert not np.array_equal(scores, Random(items, 8).scores(users(), None))

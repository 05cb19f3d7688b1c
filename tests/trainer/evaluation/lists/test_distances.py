"""Diversity within lists equals loops over all pairs."""

import itertools
import math

import numpy as np
import pytest

from configs.dataset_parts import FeatureInfo
from tests.trainer.evaluation.lists.test_metrics import ITEMS, lists_of, padded
from trainer.data.catalog import Items
from trainer.data.features import ListColumn
from trainer.data.ragged import Ragged
from trainer.evaluation.lists import distances
from trainer.evaluation.lists.distances import FeatureDistance, VectorDistance, distances_of

pytestmark = pytest.mark.any_python

CUTOFFS = [1, 2, 5, 7, 60]


@pytest.fixture(scope="module")
def items() -> Items:
    draw = np.random.default_rng(3)
    lengths = draw.integers(0, 4, ITEMS)
    features = {
        "tags": ListColumn(
            Ragged(draw.integers(0, 5, lengths.sum()), lengths)
        ),  # keys repeat, and are absent
        "brand": draw.integers(0, 3, ITEMS),
        "price": draw.choice([1.0, 5.0, 9.0, np.nan], ITEMS).astype(np.float32),
    }
    infos = {
        "tags": FeatureInfo(of="item", kind="list", table="tags", max_length=4),
        "brand": FeatureInfo(of="item", kind="categorical", table="brand"),
        "price": FeatureInfo(of="item", kind="numeric", table="price", boundaries=[2.0, 6.0]),
    }
    counts = np.ones(ITEMS, np.int64)
    return Items(ITEMS, np.arange(ITEMS), np.full(ITEMS, b"x"), counts, features, infos=infos)


def check(distance, of_pair) -> None:
    for seed, size in ((0, 1 << 22), (1, 300)):  # all lists at once, and a few at a time
        lists = lists_of(seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distances, "_CELLS", size)
            found = distance.diversity(padded(lists, 7), CUTOFFS)
        for k, column in found.items():
            for one, value in zip(lists, column, strict=True):
                pairs = list(itertools.combinations(one[:k], 2))
                if pairs:
                    expected = sum(of_pair(a, b) for a, b in pairs) / len(pairs)
                    assert value == pytest.approx(expected, abs=1e-9)
                else:
                    assert math.isnan(value)


def test_lists_of_keys_by_their_jaccard_index(items):
    column = items.features["tags"].ids
    keys = [set(column.take(np.array([item])).values.tolist()) for item in range(ITEMS)]
    assert any(not one for one in keys)

    def of_pair(a: int, b: int) -> float:
        either = keys[a] | keys[b]
        return 1 - len(keys[a] & keys[b]) / len(either) if either else 0.0

    check(FeatureDistance(items, "tags"), of_pair)


def test_single_values_by_equality(items):
    brand, price = items.features["brand"], items.features["price"]
    check(FeatureDistance(items, "brand"), lambda a, b: float(brand[a] != brand[b]))
    bucket = [3 if math.isnan(p) else (p >= 2) + (p >= 6) for p in price.tolist()]
    check(FeatureDistance(items, "price"), lambda a, b: float(bucket[a] != bucket[b]))


def test_vectors_by_their_cosine():
    vectors = np.random.default_rng(1).normal(size=(ITEMS, 5)).astype(np.float32)
    vectors[2] = 0

    def of_pair(a: int, b: int) -> float:
        x, y = vectors[a].astype(float), vectors[b].astype(float)
        length = np.linalg.norm(x) * np.linalg.norm(y)
        return 1 - (x @ y / length if length else 0.0)

    check(VectorDistance(vectors), of_pair)


def test_names_choose_distances(items):
    found = distances_of(["vectors", "tags"], items, np.ones((ITEMS, 2), np.float32))
    assert [distance.name for distance in found] == ["vectors", "tags"]
    assert [distance.name for distance in distances_of(["vectors", "tags"], items, None)] == ["tags"]

"""The planted model: its probabilities are those of its draws, and any range of rows can be made anywhere."""

import numpy as np
import pytest

from configs.planted import interactions
from configs.planted.interactions import FIRST_TIMESTAMP, Planted, index_of_key, item_key, user_key
from configs.sections.source_kinds.synthetic import SyntheticSourceConfig


def planted(**keys) -> Planted:
    source = {"kind": "synthetic", "rows": 20000, "users": 300, "items": 101, "clusters": 8, "seed": 3}
    return Planted(SyntheticSourceConfig(**{**source, **keys}))


# Fewer items than clusters; groups of unequal size; one group; no taste; no popularity.
SHAPES = [
    {},
    {"items": 5},
    {"items": 64},
    {"clusters": 1},
    {"sharpness": 0},
    {"item_zipf": 0},
    {"user_zipf": 1},
]


@pytest.mark.parametrize("keys", SHAPES, ids=str)
def test_probabilities_sum_to_one(keys):
    model = planted(**keys)
    scores = model.scores(np.arange(50), np.arange(model.source.items))
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.exp(model.taste(np.arange(50))).sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("keys", SHAPES, ids=str)
def test_draws_follow_the_probabilities(keys):
    model, number = planted(**keys), 200_000
    for user in (0, 7):
        items = model.items(np.arange(number), np.full(number, user))
        counts = np.bincount(items, minlength=model.source.items)
        expected = number * np.exp(model.scores(np.array([user]), np.arange(model.source.items))[0])
        assert len(counts) == len(expected)
        usual = expected >= 5  # where chi-square holds; the rest as one cell
        counts = np.append(counts[usual], counts[~usual].sum())
        expected = np.append(expected[usual], expected[~usual].sum() + 1e-9)
        chi_square = np.sum((counts - expected) ** 2 / expected)
        freedom = len(counts) - 1
        assert chi_square < freedom + 5 * np.sqrt(2 * freedom) + 5


@pytest.mark.parametrize("keys", [{}, {"rows": 200}, {"users": 20000, "rows": 20000}], ids=str)
def test_any_chunking_gives_the_same_rows(keys):
    model = planted(**keys)
    whole = model.rows(0, model.source.rows)
    for size in (1, 7, 4096):
        stop = 50 if size == 1 else model.source.rows
        other = planted(**keys)
        chunks = [other.rows(a, min(a + size, stop)) for a in range(0, stop, size)]
        for column, parts in zip(whole, zip(*chunks, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), column[:stop])


@pytest.mark.parametrize(
    "keys", [*SHAPES, {"clusters": 77}, {"factors": 1}, {"sharpness": 80}, {"sharpness": 4000}], ids=str
)
def test_rows_do_not_depend_on_the_cache(keys, monkeypatch):
    kept = planted(**keys).rows(0, 20000)
    monkeypatch.setattr(interactions, "_CACHED_VALUES", 0)
    drawn = planted(**keys)
    chunks = [drawn.rows(start, start + 2500) for start in range(0, 20000, 2500)]
    for column, parts in zip(kept, zip(*chunks, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), column)


@pytest.mark.parametrize("clusters", [1, 2, 8, 77, 101])
def test_draws_at_the_bounds_of_groups_are_exact(clusters, monkeypatch):
    monkeypatch.setattr(interactions, "_CACHED_VALUES", 0)
    model = planted(clusters=clusters)
    users = np.repeat(np.arange(40), clusters)
    bounds = model._cumulate(np.arange(40))
    for draw in (bounds, np.nextafter(bounds, np.float32(0)), np.nextafter(bounds, np.float32(2))):
        pairs = zip(bounds, draw, strict=True)
        expected = [np.searchsorted(own[:-1], each) for own, each in pairs]  # the last group takes the rest
        np.testing.assert_array_equal(model._groups(users, draw.reshape(-1)), np.concatenate(expected))


def test_most_draws_are_decided_by_matrix_products(monkeypatch):
    """Otherwise a source of many users would take several times as long."""
    model, exact = planted(rows=200_000, users=150_000, clusters=101), []
    monkeypatch.setattr(interactions, "_CACHED_VALUES", 0)
    cumulate = model._cumulate
    monkeypatch.setattr(model, "_cumulate", lambda users: exact.append(len(users)) or cumulate(users))
    model.rows(0, 100_000)
    assert 0 < sum(exact) < 200


@pytest.mark.parametrize("users", [1, 300, 6667, 19999, 20000])
def test_every_user_appears(users):
    drawn, items, times = planted(users=users).rows(0, 20000)
    assert np.array_equal(np.unique(drawn), np.arange(users))
    assert items.min() >= 0 and items.max() < 101
    np.testing.assert_array_equal(times, FIRST_TIMESTAMP + np.arange(20000))


def test_fewer_rows_than_users_stay_in_range():
    drawn = planted(rows=100, users=5000).rows(0, 100)[0]
    assert drawn.min() >= 0 and drawn.max() < 5000


def test_activity_falls_with_the_user_index_and_seeds_differ():
    counts = np.bincount(planted(user_zipf=1.2, rows=100_000).rows(0, 100_000)[0], minlength=300)
    assert counts[0] > 3 * counts[10] > 3 * counts[200]
    assert not np.array_equal(planted(seed=1).rows(0, 99)[1], planted(seed=2).rows(0, 99)[1])


def test_keys_carry_their_index():
    index = np.array([0, 9, 10, 123456])
    assert user_key(index).tolist() == [b"u0", b"u9", b"u10", b"u123456"]
    np.testing.assert_array_equal(index_of_key(item_key(index)), index)

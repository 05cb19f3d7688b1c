"""Restrictions of requests against Python sets."""

import random

import numpy as np
import pytest
import tensorflow as tf

from configs.dataset_parts import TableInfo
from trainer.data.features import ListColumn
from trainer.data.ragged import Ragged
from trainer.serving.filters import AllowedItems, FeatureFilter
from trainer.serving.keys import KeyTable

ITEMS = 30
VALUES = [b"a", b"b", "ц".encode(), b"d"]


def _filter(name, ids):
    """A feature whose values are VALUES; id 4 is that of rare ones."""
    info = TableInfo(ids="vocab", rows=5, oov=4, keys=4)
    keys = KeyTable(info, lambda f: f.add(np.arange(4), np.array(VALUES, object)), name)
    return FeatureFilter(name, keys, np.array(ids, np.int64))


def _padded(lists):
    width = max(map(len, lists))
    return tf.constant([row + [b""] * (width - len(row)) for row in lists], tf.string, [len(lists), width])


def _expected(named, wheres, ids):
    """None: not restricted; else rising places."""
    sets = [{i for i in named if i < ITEMS}] if named else []
    for values, of_items in zip(wheres, ids, strict=True):
        if values:
            sets.append({i for i, v in enumerate(of_items) if v < 4 and VALUES[v] in values})
    return sorted(set.intersection(*sets)) if sets else None


@pytest.mark.parametrize("seed", range(40))
def test_random_requests_equal_sets(seed):
    draw = random.Random(seed)
    ids = [[draw.randrange(5) for _ in range(ITEMS)] for _ in range(2)]
    filters = [_filter(f"f{n}", column) for n, column in enumerate(ids)]
    batch = draw.choice([1, 1, 4])

    def lists(choices, most):
        rows = draw.choice([1, batch])
        return [
            [draw.choice(choices) for _ in range(draw.choice([0, draw.randint(0, most)]))]
            for _ in range(rows)
        ]

    # Places from ITEMS on are keys of no item.
    named = lists([str(i).encode() for i in range(ITEMS + 5)], 12)
    wheres = [lists([*VALUES, b"unknown"], 3) for _ in filters]
    allowed = AllowedItems(
        (_padded(named), lambda keys: tf.strings.to_number(keys, tf.int64)),
        list(zip(map(_padded, wheres), filters, strict=True)),
        ITEMS,
    )
    rows = max(map(len, [named, *wheres]))
    assert allowed.restricted.shape == [rows]
    for i in range(rows):
        pick = lambda lists, i=i: lists[0] if len(lists) == 1 else lists[i]  # noqa: E731
        expected = _expected([int(key) for key in pick(named)], [pick(where) for where in wheres], ids)
        assert bool(allowed.restricted[i]) == (expected is not None)
        if expected is not None:
            assert allowed.rows(i).numpy().tolist() == expected
            assert np.flatnonzero(allowed.mask(i)).tolist() == expected


@pytest.mark.parametrize("large", [0.0, 0.25, 1.0], ids="masks above {}".format)
def test_lists_with_repeated_keys_and_values_of_most_items(monkeypatch, large):
    """Of few and of many items, with a mask of each value, of the frequent ones and of none."""
    monkeypatch.setattr("trainer.serving.filters._MASKED_SHARE", large)
    random = np.random.default_rng(1)
    tags = [random.choice(5, random.integers(0, 7), p=[0.7, 0.15, 0.1, 0.04, 0.01]) for _ in range(10_000)]
    column = ListColumn(Ragged(np.concatenate(tags), np.array([len(row) for row in tags])), None)
    info = TableInfo(ids="vocab", rows=5, oov=4, keys=4)
    keys = KeyTable(info, lambda f: f.add(np.arange(4), np.array(VALUES, object)), "tags")
    feature = FeatureFilter("tags", keys, column)
    nothing = tf.zeros([1, 0], tf.string), lambda keys: tf.zeros([0], tf.int64)
    for values in ([0], [3], [1, 2], [0, 3], [4]):
        wanted = tf.constant([[VALUES[v] if v < 4 else b"unknown" for v in values]])
        expected = [place for place, row in enumerate(tags) if {*values} - {4} & {*row.tolist()}]
        allowed = AllowedItems(nothing, [(wanted, feature)], len(tags))
        assert allowed.rows(0).numpy().tolist() == expected
        assert np.flatnonzero(allowed.mask(0)).tolist() == expected
        assert bool(allowed.are_few(0)) == (values == [4])

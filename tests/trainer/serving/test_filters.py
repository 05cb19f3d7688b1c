"""Restrictions of requests against Python sets."""

import random

import numpy as np
import pytest
import tensorflow as tf

from configs.manifest import TableInfo
from trainer.serving.filters import FeatureFilter, allowed_places
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
    restricted, allowed = allowed_places(
        (_padded(named), lambda keys: tf.strings.to_number(keys, tf.int64)),
        list(zip(map(_padded, wheres), filters, strict=True)),
        ITEMS,
    )
    rows = max(map(len, [named, *wheres]))
    assert restricted.shape == [rows] and allowed.nrows() == rows
    for i in range(rows):
        pick = lambda lists, i=i: lists[0] if len(lists) == 1 else lists[i]  # noqa: E731
        expected = _expected([int(key) for key in pick(named)], [pick(where) for where in wheres], ids)
        assert bool(restricted[i]) == (expected is not None)
        if expected is not None:
            assert allowed[i].numpy().tolist() == expected

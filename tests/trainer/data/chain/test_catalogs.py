"""Users and items of a chain, against the raw rows of all of its days."""

import numpy as np
import pytest

from tests.support.day_worlds import DayWorld, write_world
from trainer.data.catalog import Items, Users
from trainer.data.chain.catalogs import COUNT, KEY, catalog_blocks, load_features
from trainer.data.features import ListColumn

pytestmark = pytest.mark.any_python

WORLDS = {
    "one base": {"days": 2, "leaves": False},
    "keys leave": {"days": 3},
    "rare keys": {"days": 4, "min_count": 2},
    "hashed": {"days": 3, "leaves": False, "hashed": {"user": 50021, "item": 40009}},
    "alone": {"days": 1},
}


@pytest.fixture(scope="module", params=WORLDS)
def world(request, tmp_path_factory) -> DayWorld:
    return write_world(str(tmp_path_factory.mktemp("world")), **WORLDS[request.param])


def test_items_have_the_counts_of_all_days(world):
    items = Items.load(world.top.dataset)
    found = {items.keys[i]: (i, items.counts[i]) for i in np.flatnonzero(items.keys != b"")}
    expected = {key: (world.id("item", key), world.count("item", key)) for key in world.keys("item")}
    assert found == expected
    ids = world.top.ids["item"]
    assert {items.keys[i] for i in items.ids} == {
        key for key, (_, count) in expected.items() if ids.has_row(key) and count
    }


def test_users_have_the_rows_of_all_days(world):
    users, found = Users(world.top.dataset, Items.load(world.top.dataset)), {}
    for block in users.blocks():
        ends = np.cumsum(block.sequence.lengths)
        for i, end in enumerate(ends):
            part = slice(end - block.sequence.lengths[i], end)
            pairs = zip(block.sequence.values[part], block.splits.values[part], strict=True)
            assert block.keys[i] not in found
            found[block.keys[i]] = int(block.ids[i]), int(block.counts[i]), [*pairs]
    expected = {
        key: (world.id("user", key), world.count("user", key), world.sequence(key))
        for key in world.keys("user")
    }
    assert found == expected


def known_values(world, side: str, key: bytes, name: str, split: str | None):
    """(day, value) of the newest known one that evaluation of a split may know; None: there is none."""
    last, found = len(world.days) - 1, None
    for day, row in world.rows(side, key):
        if split and day == last:
            if side == "item" and row.split not in ("train", "valid")[: 1 + (split == "test")]:
                continue
            if side == "user" and found_first(world, key, split, row):
                break
        value = getattr(row, name)
        if value == value and value not in (b"", ()):
            found = day, value
    return found


def found_first(world, user: bytes, split: str, row) -> bool:
    """Whether a row comes after the user's first positive one in the split of the newest day."""
    mine = [r for r in world.days[-1] if r.user == user]
    first = [n for n, r in enumerate(mine) if r.split == split and r.label > 0]
    return bool(first) and mine.index(row) > first[0]


@pytest.mark.parametrize("split", [None, "valid", "test"])
def test_features_are_the_newest_known_ones(world, split):
    """Ids of values whose key has left are those of unknown keys."""
    dataset = world.top.dataset
    at = "" if split is None else f"@{split}"
    items = load_features(dataset, "item", [f"price{at}", f"tags{at}"], world.top.ids["item"].top)
    users = load_features(dataset, "user", [f"country{at}"], world.top.ids["user"].top)
    for key in world.keys("item"):
        i = np.array([world.id("item", key)])
        price = known_values(world, "item", key, "price", split)
        np.testing.assert_equal(items[f"price{at}"][i][0], np.nan if price is None else price[1])
        day, tags = known_values(world, "item", key, "tags", split) or (0, ())
        lists: ListColumn = items[f"tags{at}"][i]
        assert [*lists.ids.values] == [world.id("tags", tag, day) for tag in tags]
        assert [*lists.weights] == [0.5 + number for number in range(len(tags))]
    for key in world.keys("user"):
        day, country = known_values(world, "user", key, "country", split) or (None, b"")
        found = users[f"country{at}"][world.id("user", key)]
        assert found == world.id("country", country, day)


def test_catalogs_can_be_read_in_small_parts(world):
    """The same users, each once, whatever is asked of them."""
    ids = np.concatenate([block.ids for block in catalog_blocks(world.top.dataset, "user", [])])
    assert len(set(ids)) == len(ids)
    keys = {
        key: count
        for block in catalog_blocks(world.top.dataset, "user", [COUNT, KEY])
        for key, count in zip(block.columns[KEY], block.columns[COUNT], strict=True)
    }
    assert keys == {key: world.count("user", key) for key in world.keys("user")} and len(keys) == len(ids)

"""What trains of a chain of days, with the ids of the newest one."""

import collections
import functools
import itertools

import numpy as np
import pytest

from tests.support.day_worlds import HOUR, START, DayWorld, write_world
from trainer.data.batches import TrainData
from trainer.data.catalog import Items
from trainer.data.chain.item_counts import item_counts
from trainer.data.lookups import catalog_lookups
from trainer.data.train_rows import DAY, TrainRows

pytestmark = pytest.mark.any_python

WORLDS = {
    "one base": {"days": 2, "leaves": False},
    "keys leave": {"days": 4},
    "rare keys": {"days": 3, "min_count": 2},
    "hashed": {"days": 3, "leaves": False, "hashed": {"user": 50021, "item": 40009}},
}
WINDOWS = {"no window": None, "half a day": 12.5, "two days": 49.0, "all": 1000.0}


CASES = [
    ("one base", "no window"),
    ("keys leave", "no window"),
    ("keys leave", "half a day"),
    ("rare keys", "two days"),
    ("hashed", "all"),
]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    return functools.cache(lambda name: write_world(str(tmp_path_factory.mktemp("world")), **WORLDS[name]))


@pytest.fixture(params=CASES, ids=": ".join)
def case(request, worlds) -> tuple[DayWorld, float | None]:
    """A world, and the hours of a window."""
    world, window = request.param
    return worlds(world), WINDOWS[window]


def window_of(world: DayWorld, hours: float | None) -> tuple[float | None, int | None]:
    """(train.window_days, timestamp of its oldest row)."""
    if hours is None:
        return None, None
    newest = max(row.time for row in world.days[-1] if row.split == "train")
    return hours / 24, newest - round(hours * HOUR) + 1


def row_of(world: DayWorld, table: str, key: bytes, day: int) -> int:
    """Row of the table in the newest dataset."""
    ids = world.top.ids[table]
    return min(world.id(table, key, day), ids.rows - 1)


def expected_batch(world: DayWorld, row) -> dict:
    """What a model reads of a row, but its history."""
    day = (row.time - START) // (24 * HOUR)
    tags = [world.id("tags", tag, day) for tag in row.tags]
    return {
        "user": row_of(world, "user", row.user, day),
        "item": row_of(world, "item", row.item, day),
        "label": row.label,
        "country": world.id("country", row.country, day),
        "price": row.price if row.price == row.price else 0.0,
        "tags": tags + [-1] * (4 - len(tags)),
    }


@pytest.mark.parametrize("positives_only", [True, False])
def test_an_epoch_has_each_row_once(case, positives_only):
    world, hours = case
    days, since = window_of(world, hours)
    expected = {row.time: row for row in world.trained(positives_only, since)}
    rows = TrainRows(world.top.dataset, positives_only, days)
    assert rows.rows == len(expected)
    data = TrainData(world.top.dataset, 1, 7, positives_only, rows=rows)
    found = {}
    for batch in itertools.islice(data.batches(0).as_numpy_iterator(), len(expected)):
        assert int(batch["timestamp"][0]) not in found
        found[int(batch["timestamp"][0])] = {name: value[0].tolist() for name, value in batch.items()}
    assert set(found) == set(expected)
    for time, row in expected.items():
        wanted = expected_batch(world, row)
        assert {name: found[time][name] for name in wanted} == wanted, row


@pytest.mark.parametrize("name", ["keys leave", "rare keys"])
def test_histories_have_the_ids_of_the_newest_dataset(worlds, name):
    """Items that have left since are not in them; those that had no row then are not, either."""
    world = worlds(name)
    rows = TrainRows(world.top.dataset, window_days=1000.0)
    data, checked = TrainData(world.top.dataset, 1, 7, rows=rows), 0
    for batch in itertools.islice(data.batches(0).as_numpy_iterator(), rows.rows):
        day = int(batch["timestamp"][0] - START) // (24 * HOUR)
        row = next(row for row in world.days[day] if row.time == batch["timestamp"][0])
        stored = history_then(world, day, row)
        kept = [world.id("item", key) for key in stored if day >= world.since("item", key)]
        assert batch["history"][0].tolist() == kept + [-1] * (3 - len(kept))
        checked += len(kept)
    assert checked > 50


def history_then(world: DayWorld, day: int, row) -> list[bytes]:
    """Keys of the history that the row's own dataset stores."""
    visible = ("train", "valid") if row.split == "test" else ("train",)
    earlier = [(d, r) for d in range(day) for r in world.days[d]]
    earlier += [(day, r) for r in world.days[day] if r.time < row.time and r.split in visible]
    mine = [r.item for _, r in earlier if r.user == row.user and r.label > 0]
    return [item for item in mine if world.written[day].ids["item"].has_row(item)][-3:]


@pytest.mark.parametrize("hours", [None, 49.0])
def test_any_step_can_be_the_start(worlds, hours):
    world = worlds("keys leave")
    days, _ = window_of(world, hours)
    dataset, items = world.top.dataset, Items.load(world.top.dataset)
    lookups = catalog_lookups(dataset, dataset.features, items)

    def read(start, number):
        rows = TrainRows(dataset, True, days)
        data = TrainData(dataset, 7, 3, True, lookups=lookups, rows=rows, half_life_days=0.5)
        return list(itertools.islice(data.batches(start).as_numpy_iterator(), number)), data

    steps = TrainRows(dataset, True, days).steps_per_epoch(7)
    whole, data = read(0, steps + 3)
    for start in (2, steps - 1, steps + 2):
        for got, wanted in zip(read(start, 1)[0], whole[start:], strict=False):
            for name, value in wanted.items():
                np.testing.assert_array_equal(got[name], value)
    newest = max(row.time for row in world.days[-1] if row.split == "train")
    age = np.maximum(newest - whole[1]["timestamp"], 0) / DAY
    np.testing.assert_allclose(whole[1]["weight"], 0.5 ** (age / 0.5), rtol=1e-6)
    assert [row.tolist() for row in data.origin(2)] and len(data.origin(2)) == 7


def test_items_are_counted_in_the_rows_that_train(case):
    world, hours = case
    days, since = window_of(world, hours)
    items = Items.load(world.top.dataset)
    found = item_counts(TrainRows(world.top.dataset, True, days), items, exact=True)
    expected = np.zeros(world.top.ids["item"].rows, np.int64)
    trained = world.trained(True, since)
    for row in trained:
        expected[row_of(world, "item", row.item, (row.time - START) // (24 * HOUR))] += 1
    known = np.isin(np.arange(len(expected)), items.ids)
    np.testing.assert_array_equal(found, np.maximum(expected, known))
    assert collections.Counter(expected > 0)[True] > 5

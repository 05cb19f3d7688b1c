"""Days prepared one on the other say what all days prepared at once do, but for ids."""

import argparse
import itertools

import numpy as np
import pytest

from configs.manifest import load_dataset
from pipelines.prepare import prepare
from tests.support.day_sources import day_config, write_days
from tests.support.replays import export_here
from trainer.commands import inspect
from trainer.data.batches import TrainData
from trainer.data.catalog import Items, Users, load_vocabulary
from trainer.data.features import ListColumn
from trainer.data.train_rows import TrainRows
from trainer.evaluation.scorer import evaluate_recommender
from trainer.evaluation.trained import open_trained
from trainer.preflight.plan import make_plan
from trainer.serving.client import find_version, recommend
from trainer.serving.requests import Request
from trainer.training.run import train

pytestmark = pytest.mark.any_python
DAYS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("days"))
    write_days(directory, DAYS)
    for day in range(DAYS):
        config = day_config(directory, [day], f"day{day}", f"day{day - 1}" if day else None)
        prepare(config.source, config.dataset)
    config = day_config(directory, list(range(DAYS)), "whole")
    prepare(config.source, config.dataset)
    return directory


class World:
    """A dataset with raw keys in place of ids."""

    def __init__(self, path: str):
        self.dataset = load_dataset(path)
        self.items = Items.load(self.dataset)
        infos = self.dataset.features.items()
        named = [name for name, info in infos if info.table and self.dataset.tables[info.table].files]
        self._names = {name: load_vocabulary(self.dataset, name) for name in named}

    def value(self, name: str, column, row: int):
        """A feature with keys; what models read of other features."""
        one = column[np.array([row])] if isinstance(column, ListColumn) else column[row]
        if isinstance(one, ListColumn):
            return [*self._names[name][one.ids.values]], [*one.weights]
        if name in self._names:
            return [self._names[name][i] for i in np.atleast_1d(one) if i >= 0]
        return np.asarray(one).tolist()

    def items_by_key(self) -> dict:
        return {
            key: (
                int(self.items.counts[i]),
                i in self.items.ids,
                {
                    (name, split): self.value(name, column, i)
                    for split in (None, "valid", "test")
                    for name, column in self.items.as_of(split or "").features.items()
                },
            )
            for i, key in enumerate(self.items.keys)
            if key
        }

    def users_by_key(self, split: str | None) -> dict:
        users, found = Users(self.dataset, self.items), {}
        for block in users.blocks(split):
            view = users.view(block, split or "test")
            for i, key in enumerate(block.keys):
                one = block.take(np.array([i]))
                found[key] = (
                    int(one.counts[0]),
                    [self.items.keys[j] for j in one.sequence.values],
                    [*one.splits.values],
                    {name: self.value(name, column, i) for name, column in block.features.items()},
                    *(
                        {*self.items.keys[part.take(np.array([i])).values]}
                        for part in (view.targets, view.cold, view.seen, view.touched)
                    ),
                    [self.items.keys[j] for j in view.history[i] if j >= 0],
                )
        return found

    def training_rows(self, window_days: float) -> dict:
        """By instant, user and item."""
        rows = TrainRows(self.dataset, positives_only=True, window_days=window_days)
        data, found = TrainData(self.dataset, 1, 5, True, rows=rows), {}
        users = {
            int(b.ids[i]): key
            for b in Users(self.dataset, self.items).blocks()
            for i, key in enumerate(b.keys)
        }
        for batch in itertools.islice(data.batches(0).as_numpy_iterator(), rows.rows):
            row = {name: self.value(name, values, 0) for name, values in batch.items()}
            key = row.pop("timestamp"), users[row.pop("user")], self.items.keys[row.pop("item")]
            # Days keep the statistics of the first one, by which models read numbers.
            price = self.dataset.features["price"]
            row["price"] = round(row["price"] * price.stddev + price.mean, 4)
            row["history"] = [self.items.keys[i] for i in row["history"] if i >= 0]
            assert key not in found
            found[key] = row
        return found


@pytest.fixture(scope="module")
def worlds(place):
    return [World(f"{place}/{name}") for name in (f"day{DAYS - 1}", "whole")]


def test_items_are_the_same(worlds):
    chain, whole = (world.items_by_key() for world in worlds)
    assert chain.keys() == whole.keys() and len(chain) > 20
    for key, expected in whole.items():
        assert chain[key] == expected, key


@pytest.mark.parametrize("split", [None, "valid", "test"])
def test_users_are_the_same(worlds, split):
    """With what they did, and what evaluation of a split makes of it."""
    chain, whole = (world.users_by_key(split) for world in worlds)
    assert chain.keys() == whole.keys() and len(chain) > 30
    for key, expected in whole.items():
        np.testing.assert_equal(chain[key], expected, err_msg=str(key))


@pytest.mark.parametrize("days", [0.4, 1.5, 100.0])
def test_rows_of_a_window_are_the_same(worlds, days):
    chain, whole = (world.training_rows(days) for world in worlds)
    assert chain.keys() == whole.keys() and len(chain) > 20
    for key, expected in whole.items():
        np.testing.assert_equal(chain[key], expected, err_msg=str(key))


@pytest.mark.slow
def test_days_are_trained_evaluated_planned_and_served(place, worlds):
    """By default on the newest day alone, because nothing is held out below it."""
    config = day_config(place, [DAYS - 1], f"day{DAYS - 1}", f"day{DAYS - 2}")
    rows = TrainRows.of(config, load_dataset(config.dataset.path)).rows
    train(config)
    trained = open_trained(config)
    lines = evaluate_recommender(trained.recommender, trained.dataset, trained.items, 20, "test")
    assert {line["scorer"] for line in lines} >= {"model", "popularity"} and lines[0]["users"] > 5
    assert make_plan(config, [], 0)["steps_per_epoch"] == rows // 32
    window = day_config(
        place, [DAYS - 1], f"day{DAYS - 1}", f"day{DAYS - 2}", train={"window_days": 2 * DAYS}
    )
    assert make_plan(window, [], 0)["steps_per_epoch"] > rows // 32
    asked = {key: items for key, (_, items, *_) in list(worlds[0].users_by_key(None).items())[::7]}
    requests = [Request(user=key.decode()) for key in asked]
    served = {worlds[0].items.keys[i] for i in worlds[0].items.ids}
    answers = recommend(find_version(export_here(config)), requests, 30, exclude_seen=True)
    for answer, seen in zip(answers, asked.values(), strict=True):
        assert {entry["item"].encode() for entry in answer["items"]} == served - set(seen)


def test_inspect_shows_the_whole_chain(place, worlds, capsys):
    assert inspect.run(argparse.Namespace(dataset=worlds[0].dataset.path, rows=3, feature=None)) == 0
    text = capsys.readouterr().out
    assert f"of {len(worlds[0].items_by_key())} items" in text
    assert all(f"{place}/day{day} " in text for day in range(DAYS - 1)) and "stands on" in text

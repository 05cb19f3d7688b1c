"""Rows that train, in the order of their files."""

import numpy as np
import pytest

from tests.support.day_worlds import write_world
from trainer.data.batches import TrainData
from trainer.data.split_rows import split_rows, trained_rows
from trainer.data.train_rows import TrainRows

pytestmark = pytest.mark.any_python


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(str(tmp_path_factory.mktemp("world")), days=3)


@pytest.mark.parametrize("days", [None, 1.3, 100.0])
def test_they_are_those_of_an_epoch(world, days):
    """In batches of equal size, and with what tells thinned splits from others."""
    rows = TrainRows(world.top.dataset, window_days=days)
    batches = list(trained_rows(rows, 16))
    assert {len(batch["label"]) for batch in batches[:-1]} == {16} and len(batches[-1]["label"]) <= 16
    found = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    [epoch] = TrainData(world.top.dataset, rows.rows, 3, rows=rows).batches(0).take(1).as_numpy_iterator()
    orders = [np.argsort(columns["timestamp"]) for columns in (found, epoch)]
    for name in ("timestamp", "user", "item", "label", "history"):
        np.testing.assert_array_equal(found[name][orders[0]], epoch[name][orders[1]])
    splits = {row.time: row.split for rows in world.days for row in rows}
    np.testing.assert_array_equal(found["thinned"], [splits[t] == "train" for t in found["timestamp"]])


def test_negative_rows_that_were_held_out_weigh_what_train_has_left_of_them(world):
    """A model corrects its probabilities for the share of negative rows that is kept."""
    dataset = world.top.dataset.model_copy(update={"keep_negatives": 0.25})
    rows = TrainRows(dataset)
    [batch] = TrainData(dataset, rows.rows, 3, rows=rows).batches(0).take(1).as_numpy_iterator()
    splits = {row.time: row.split for rows in world.days for row in rows}
    held_out = np.array([splits[time] != "train" for time in batch["timestamp"]])
    negative = batch["label"] == 0
    assert (held_out & negative).any() and (~held_out & negative).any()
    np.testing.assert_array_equal(batch["weight"], np.where(held_out & negative, 0.25, 1.0))


def test_small_files_and_others_are_read_alike(world, monkeypatch):
    dataset = world.top.dataset

    def every_row() -> list[dict]:
        of_split = split_rows(dataset, "train", dataset.features, {}, 7)
        return [*of_split, *trained_rows(TrainRows(dataset, window_days=1.3), 16)]

    at_once = every_row()
    monkeypatch.setattr("trainer.data.split_rows.PIPELINED_BYTES", 0)
    pipelined = every_row()
    assert len(at_once) == len(pipelined) > 2
    for one, other in zip(at_once, pipelined, strict=True):
        assert one.keys() == other.keys() >= {"user", "item", "history"}
        for name, values in one.items():
            assert values.dtype == other[name].dtype
            np.testing.assert_array_equal(values, other[name], err_msg=name)

"""Rows that train if histories are read in their order: each event of a user is a target once."""

import collections
import itertools
import random

import numpy as np
import pytest

from configs.errors import DataError
from tests.support.tiny_dataset import Row, write_dataset
from trainer.data.batches import TrainData
from trainer.data.train_rows import TrainRows, window_ends

pytestmark = pytest.mark.any_python

LENGTH = 3


def test_windows_end_with_the_newest_row():
    users = np.array([7, 5, 7, 7, 7, 5, 7, 9])
    times = np.array([3, 1, 1, 4, 2, 2, 4, 8])
    lengths = np.array([2, 0, 0, 4, 1, 1, 3, 0])  # two rows of user 7 at one time
    found = window_ends(users, times, lengths, 4)
    np.testing.assert_array_equal(found, [False, False, False, True, False, True, False, False])
    found = window_ends(users, times, lengths, 3)
    np.testing.assert_array_equal(np.flatnonzero(found), [3, 4, 5])
    assert not len(window_ends(users[:0], times[:0], lengths[:0], 3))


@pytest.fixture(scope="module")
def events() -> list[Row]:
    draw = random.Random(2)
    rows = [
        Row(b"u%d" % draw.randrange(12), b"i%d" % draw.randrange(9), "train", float(draw.random() < 0.8))
        for _ in range(150)
    ]
    return rows + [Row(b"u1", b"i1", "train"), Row(b"alone", b"i1", "train"), Row(b"u1", b"i2", "test")]


@pytest.fixture(scope="module")
def dataset(events, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("sequences"))
    return write_dataset(path, events, history_length=LENGTH, block_rows=7, num_files=3)


def read(dataset, batch_size, start, count):
    data = TrainData(dataset, batch_size, 4, True, rows=TrainRows(dataset, True, sequences=True))
    return data, list(itertools.islice(data.batches(start).as_numpy_iterator(), count))


def test_an_epoch_holds_each_target_once(dataset, events):
    rows = TrainRows(dataset, True, sequences=True)
    data, batches = read(dataset, 1, 0, rows.rows)
    assert rows.rows == data.steps_per_epoch and not rows.is_whole
    found = collections.Counter()
    for batch in batches:
        history = [item for item in batch["history"][0] if item >= 0]
        items = [*history, batch["item"][0]]
        found.update((batch["user"][0], item) for item in items[1:])
    ids = _ids(dataset, batches, events)
    expected, seen = collections.Counter(), set()
    for row in events:
        if row.split == "train" and row.label > 0:
            if row.user in seen:
                expected[ids[row.user], ids[row.item]] += 1
            seen.add(row.user)
    assert found == expected


def _ids(dataset, batches, events) -> dict[bytes, int]:
    """Table rows by key, from the times of rows."""
    first = 1_600_000_000_000_000_000
    found = {}
    for batch in TrainData(dataset, 1, 0).batches(0).take(len(events) - 1).as_numpy_iterator():
        row = events[batch["timestamp"][0] - first]
        found |= {row.user: batch["user"][0], row.item: batch["item"][0]}
    return found


def test_any_step_can_be_the_start_and_says_where_its_rows_are(dataset):
    data, expected = read(dataset, 5, 0, 2 * TrainRows(dataset, True, sequences=True).rows // 5)
    for start in range(0, len(expected) - 1, 3):
        _, [got] = read(dataset, 5, start, 1)
        for name, value in expected[start].items():
            np.testing.assert_array_equal(got[name], value, name)
        places = data.origin(start)
        times = [_times(dataset)[file][block][row] for file, block, row in places]
        np.testing.assert_array_equal(times, got["timestamp"])


def _times(dataset) -> list[list[np.ndarray]]:
    from trainer.data.blocks import read_blocks

    files = dataset.training_split(True).files
    return [[block["timestamp"] for block in read_blocks(dataset, [file], ["timestamp"])] for file in files]


def test_too_few_histories_are_refused(dataset):
    rows = TrainRows(dataset, True, sequences=True)
    with pytest.raises(DataError, match=f"{rows.rows} histories that train are fewer than train.batch_size"):
        rows.steps_per_epoch(rows.rows + 1)

"""The reader: every row once an epoch, and any step equal to the one reached by reading on."""

import functools
import itertools

import numpy as np
import pytest

from configs.errors import DataError
from tests.support.tiny_dataset import Row, write_dataset
from trainer.data.batches import FILES_AT_ONCE, WINDOW_BLOCKS, TrainData
from trainer.data.train_rows import DAY, TrainRows

pytestmark = pytest.mark.any_python

ROWS = 3001


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """3,001 train rows in 11 files of uneven blocks: more than one group of files, more than one window."""
    rows = [Row(b"u%d" % (i % 97), b"i%d" % (i % 53), "train") for i in range(ROWS)]
    path = str(tmp_path_factory.mktemp("dataset"))
    dataset = write_dataset(path, rows, history_length=3, block_rows=16, num_files=11)
    assert len(dataset.splits["train"].files) > FILES_AT_ONCE
    assert ROWS / 16 > 2 * WINDOW_BLOCKS
    return dataset


def read(dataset, batch_size, seed, start, count, window=None, **options):
    """Batches; `window`: only rows of the last so many nanoseconds."""
    rows = window and TrainRows(dataset, window_days=window / DAY)
    batches = TrainData(dataset, batch_size, seed, rows=rows, **options).batches(start)
    return list(itertools.islice(batches.as_numpy_iterator(), count))


@pytest.fixture(scope="module")
def read_on(dataset):
    """The first 139 batches from step 0 on, by batch_size, window and group; each is read once."""
    return functools.cache(
        lambda size, window=None, group=None: read(dataset, size, 9, 0, 139, window, group=group)
    )


def test_an_epoch_holds_every_row_once(dataset):
    batches = read(dataset, 50, seed=1, start=0, count=2 * (ROWS // 50))
    for epoch in range(2):
        times = np.concatenate(
            [batch["timestamp"] for batch in batches[epoch * (ROWS // 50) : (epoch + 1) * (ROWS // 50)]]
        )
        assert len(np.unique(times)) == len(times) == ROWS // 50 * 50
    assert not np.array_equal(batches[0]["timestamp"], batches[ROWS // 50]["timestamp"])


def test_columns_belong_to_their_row(dataset):
    rows = [Row(b"u%d" % (i % 97), b"i%d" % (i % 53), "train") for i in range(ROWS)]
    batch = read(dataset, 64, seed=5, start=7, count=1)[0]
    base = min(file["timestamp"].min() for file in read(dataset, 50, 1, 0, ROWS // 50))
    keys = {}
    for time, user, item in zip(batch["timestamp"], batch["user"], batch["item"], strict=True):
        row = rows[time - base]
        assert keys.setdefault(row.user, user) == user and keys.setdefault(row.item, item) == item
    assert batch["history"].shape == (64, 3) and batch["label"].dtype == np.float32


@pytest.mark.parametrize("start", [0, 1, 5, 30, 58, 59, 60, 61, 100, 119, 120, 137])
def test_any_step_can_be_the_start(dataset, read_on, start):
    expected = read_on(50)[start : start + 2]
    for got, wanted in zip(read(dataset, 50, 9, start, 2), expected, strict=True):
        for name, value in wanted.items():
            np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize("window", [1203, 77])
def test_an_epoch_of_a_window_holds_each_of_its_rows_once(dataset, window):
    steps = window // 11
    batches = read(dataset, 11, seed=1, start=0, count=2 * steps, window=window)
    newest = 1_600_000_000_000_000_000 + ROWS - 1
    for epoch in range(2):
        mine = batches[epoch * steps : (epoch + 1) * steps]
        ages = newest - np.concatenate([batch["timestamp"] for batch in mine])
        assert len(np.unique(ages)) == len(ages) == steps * 11 and ages.max() < window


@pytest.mark.parametrize(
    ("window", "start"),
    [(1203, start) for start in (0, 29, 109, 110)] + [(77, start) for start in (0, 1, 6, 7, 8, 14, 111)],
)
def test_any_step_of_a_window_can_be_the_start(dataset, read_on, window, start):
    expected = read_on(11, window)[start : start + 2]
    for got, wanted in zip(read(dataset, 11, 9, start, 2, window), expected, strict=True):
        for name, value in wanted.items():
            np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize(("size", "group"), [(11, None), (12, 4)])
def test_rows_of_a_window_are_found_where_they_are_stored(dataset, size, group):
    data = TrainData(dataset, size, 4, rows=TrainRows(dataset, window_days=500 / DAY), group=group)
    for step in (0, 3, 44, 45, 60):
        [batch] = itertools.islice(data.batches(step).as_numpy_iterator(), 1)
        # Row i of the data is row i // 11 of file i mod 11, which has blocks of 16 rows.
        number = batch["timestamp"] - 1_600_000_000_000_000_000
        expected = np.stack([number % 11, number // 11 // 16, number // 11 % 16], axis=1)
        np.testing.assert_array_equal(data.origin(step), expected)


@pytest.mark.parametrize("start", [0, 5, 59, 60, 61, 100])
def test_groups_permute_each_batch_whatever_the_first_step(dataset, read_on, start):
    plain, whole = (read_on(50, group=group)[start : start + 2] for group in (None, 10))
    mixed = read(dataset, 50, 9, start, 2, group=10)
    orders = []
    for before, after, again in zip(plain, mixed, whole, strict=True):
        order = np.argsort(before["timestamp"])[np.argsort(np.argsort(after["timestamp"]))]
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value[order])
            np.testing.assert_array_equal(after[name], again[name])
        orders.append(order)
    assert not np.array_equal(*orders) and not np.array_equal(orders[0], np.arange(50))


def test_a_group_of_the_whole_batch_leaves_it_as_it_is(dataset):
    plain, whole = (read(dataset, 50, 9, 0, 1, group=group)[0] for group in (None, 50))
    np.testing.assert_array_equal(plain["timestamp"], whole["timestamp"])


def test_rows_weigh_less_the_older_they_are(dataset):
    plain = read(dataset, 50, 3, 2, 1, window=900)[0]
    batch = read(dataset, 50, 3, 2, 1, window=900, half_life_days=300 / DAY)[0]
    age = 1_600_000_000_000_000_000 + ROWS - 1 - batch["timestamp"]
    assert "weight" not in plain and batch["weight"].dtype == np.float32
    np.testing.assert_array_equal(batch["timestamp"], plain["timestamp"])
    np.testing.assert_allclose(batch["weight"], 0.5 ** (age / 300), rtol=1e-6)


def test_age_multiplies_weights_of_the_data(tmp_path):
    rows = [Row(b"u", b"i%d" % (i % 3), "train", 1.0, 1.0 + i) for i in range(40)]
    dataset = write_dataset(str(tmp_path), rows)
    batch = read(dataset, 40, 3, 0, 1, half_life_days=10 / DAY)[0]
    number = batch["timestamp"] - 1_600_000_000_000_000_000
    np.testing.assert_allclose(batch["weight"], (1 + number) * 0.5 ** ((39 - number) / 10), rtol=1e-6)


def test_the_seed_chooses_the_order(dataset):
    a, b = (read(dataset, 50, seed, 0, 1)[0]["timestamp"] for seed in (1, 2))
    assert not np.array_equal(a, b)


def test_a_batch_larger_than_the_split_is_refused(dataset):
    with pytest.raises(DataError, match="3,001 train rows are fewer than train.batch_size 4,000"):
        TrainData(dataset, 4000, 0)


def test_rare_users_and_items_train_the_shared_row(tmp_path):
    """Records hold catalog ids, which tell them apart; batches hold rows of the tables."""
    rows = [Row(b"u%d" % (i % 3), b"i%d" % (i % 3), "train") for i in range(6)]
    rows += [Row(b"once", b"i0", "train"), Row(b"u0", b"rare", "train"), Row(b"u1", b"odd", "train")]
    dataset = write_dataset(str(tmp_path), rows, min_count=2)
    assert (dataset.tables["item"].rows, dataset.tables["item"].catalog_rows) == (4, 6)
    batch = read(dataset, 9, 0, 0, 1)[0]
    assert sorted(batch["item"]) == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert sorted(batch["user"]) == [0, 0, 0, 1, 1, 1, 2, 2, 3]

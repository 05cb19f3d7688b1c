"""The catalogs as read equal the interactions they were written from."""

import collections
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.dataset_parts import FeatureInfo
from configs.errors import DataError
from configs.manifest import SPLITS
from configs.splitmix import hash_ids
from tests.support.set_histories import other_items
from tests.support.tiny_dataset import Feature, Row, write_dataset
from trainer.data.blocks import read_blocks
from trainer.data.catalog import Items, Users
from trainer.data.ragged import Ragged

pytestmark = pytest.mark.any_python


def random_rows(seed: int, users: int = 30, items: int = 20, number: int = 400) -> list[Row]:
    """Interactions with repeats, cold users and cold items."""
    random = np.random.default_rng(seed)
    splits = random.choice(SPLITS, number, p=[0.6, 0.2, 0.2])
    user = random.integers(users, size=number)
    item = np.minimum(random.geometric(3 / items, number), items) - 1
    return [Row(b"u%d" % u, b"i%d" % i, str(s)) for u, i, s in zip(user, item, splits, strict=True)]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    new = [Row(b"new", b"i1", "test"), Row(b"u1", b"fresh", "test"), Row(b"u1", b"fresh", "test")]
    return random_rows(0) + new


@pytest.fixture(scope="module")
def dataset(rows, tmp_path_factory):
    features = {
        "country": Feature("user", "categorical", {row.user: row.user[-1:] for row in rows}),
        "price": Feature("item", "numeric", {row.item: float(len(row.item)) for row in rows}),
        "brand": Feature("item", "categorical", {row.item: row.item[:2] for row in rows}),
    }
    path = str(tmp_path_factory.mktemp("catalog"))
    return write_dataset(path, rows, features=features, history_length=5, block_rows=7, num_files=3)


@pytest.mark.parametrize("ids", [[3], [0, 29], [5, 6, 20], []], ids=str)
@pytest.mark.parametrize("pipelined", [False, True])
def test_blocks_of_wanted_users_hold_all_of_these(dataset, ids, pipelined, monkeypatch):
    monkeypatch.setattr("trainer.data.blocks.PIPELINED_BYTES", 0 if pipelined else 1 << 20)
    users = Users(dataset, Items.load(dataset))

    def of_wanted(blocks) -> dict:
        return {
            int(i): (block.keys[place], block.counts[place], block.sequence.take([place]).values.tolist())
            for block in blocks
            for place, i in enumerate(block.ids)
            if i in ids
        }

    every, found = list(users.blocks()), list(users.blocks(ids=np.array(ids, np.int64)))
    assert of_wanted(found) == of_wanted(every) and set(of_wanted(found)) == set(ids)
    if len(ids) < 2 and not pipelined:
        assert len(found) < len(every)


def test_a_column_may_be_asked_for_twice(dataset):
    blocks = list(read_blocks(dataset, dataset.users.files, ["id", "count", "id"]))
    assert sum(len(block["id"]) for block in blocks) == sum(file.rows for file in dataset.users.files) > 0


def test_items_hold_keys_counts_and_features_by_id(dataset, rows):
    items = Items.load(dataset)
    counts = collections.Counter(row.item for row in rows if row.split == "train")
    assert {items.keys[i]: items.counts[i] for i in items.ids} == counts
    others = {row.item for row in rows} - set(counts)
    assert others and [*items.keys[items.table.rows :]] == sorted(others)
    assert not items.counts[items.table.rows :].any()
    assert items.table.rows == len(counts) + 1 and items.rows == len(counts) + 1 + len(others)
    oov = items.shared_row
    assert (items.keys[oov], items.counts[oov], items.known[oov]) == (b"", 0, False)
    assert [items.features["price"][i] for i in items.ids] == [len(items.keys[i]) for i in items.ids]
    assert items.features["price"].dtype == np.float32
    assert items.features["brand"][oov] == dataset.tables["brand"].oov


def test_users_hold_every_row_in_order(dataset, rows):
    items = Items.load(dataset)
    number = {key: i for i, key in enumerate(items.keys)}
    expected = collections.defaultdict(list)
    for row in rows:
        expected[row.user].append((number[row.item], SPLITS.index(row.split)))
    found = {}
    for block in Users(dataset, items).blocks():
        ends = np.cumsum(block.sequence.lengths)
        for i, end in enumerate(ends):
            part = slice(end - block.sequence.lengths[i], end)
            pairs = zip(block.sequence.values[part], block.splits.values[part], strict=True)
            found[block.keys[i]] = [(int(item), int(split)) for item, split in pairs]
        assert block.features["country"].shape == block.ids.shape
    assert found == expected


@pytest.mark.parametrize("split", ["valid", "test"])
def test_views_agree_with_loops(dataset, split):
    items, code = Items.load(dataset), SPLITS.index(split)
    users, oov = Users(dataset, items, history_length=3), items.shared_row
    for block in users.blocks():
        view = users.view(block, split)
        for i, end in enumerate(np.cumsum(block.sequence.lengths)):
            part = slice(end - block.sequence.lengths[i], end)
            pairs = list(zip(block.sequence.values[part], block.splits.values[part], strict=True))
            past = [item for item, s in pairs if s < code and item < oov]
            one = np.array([i])
            now = [item for item, s in pairs if s == code]
            assert list(view.targets.take(one).values) == sorted({item for item in now if item < oov})
            assert list(view.cold.take(one).values) == sorted({item for item in now if item >= oov})
            assert view.rows[i] == len(now)
            assert list(view.seen.take(one).values) == sorted(set(past))
            before = {item for item, s in pairs if s < code}
            assert list(view.cold_seen.take(one).values) == sorted(before - set(past))
            assert list(view.touched.take(one).values) == sorted({item for item, _ in pairs if item < oov})
            assert list(view.history[i]) == (past[-3:] + [-1] * 3)[:3]


@pytest.mark.parametrize("length", [3, 50])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_histories_of_rows_without_an_order_hold_train_items_alone(rows, tmp_path, split, length):
    dataset = write_dataset(str(tmp_path), rows, history_length=length, history_of="others", block_rows=7)
    items = Items.load(dataset)
    users, oov, lengths = Users(dataset, items), items.shared_row, set()
    for block in users.blocks():
        history = users.view(block, split).history
        for i, user in enumerate(block.ids):
            one = np.array([i])
            pairs = zip(block.sequence.take(one).values, block.splits.take(one).values, strict=True)
            train = [int(item) for item, s in pairs if s == 0 and item < oov]
            expected = other_items(train, None, int(user), length)
            assert list(history[i]) == (expected + [-1] * length)[:length]
            lengths.add(len(expected))
    assert len(lengths) > 1 and (length in lengths) == (length == 3)


def test_users_of_a_split_have_train_rows_and_targets(dataset, rows):
    users = Users(dataset, Items.load(dataset))
    source = users.of_split("test")
    found = {key for block in source for key in block.keys}
    train, test = ({row.user for row in rows if row.split == split} for split in ("train", "test"))
    assert found == train & test
    assert (source.users_found, source.users_taken) == (len(found), len(found))
    assert source.rows_taken == sum(row.split == "test" and row.user in train for row in rows)
    missed = dataset.splits["test"]
    assert missed.cold_user_rows == sum(row.split == "test" and row.user not in train for row in rows) >= 1


def test_hashed_ids_show_cold_users(tmp_path):
    rows = [
        Row(b"a", b"x", "train"),
        Row(b"a", b"y", "test"),
        Row(b"b", b"x", "test"),
        Row(b"b", b"y", "test"),
    ]
    dataset = write_dataset(str(tmp_path), rows, hashed={"user": 1000, "item": 1000})
    items = Items.load(dataset)
    source = Users(dataset, items).of_split("test")
    assert [list(block.keys) for block in source] == [[b"a"]]
    assert (dataset.splits["test"].cold_users, dataset.splits["test"].cold_user_rows) == (1, 2)
    assert len(items.ids) == 1 and items.known.sum() == 1 and items.rows == 1000  # y was never trained


@pytest.mark.parametrize("max_users", [1, 3, 8, 1000])
def test_sample_is_the_smallest_hashes(dataset, max_users):
    users = Users(dataset, Items.load(dataset))
    everyone = np.concatenate([block.ids for block in users.of_split("test")])
    for seed in (0, 1):
        blocks = list(users.of_split("test", max_users, seed))
        expected = sorted(everyone, key=lambda i: hash_ids(seed, np.array([i]))[0])[:max_users]
        assert len(blocks) == 1 and sorted(blocks[0].ids) == sorted(expected)


def test_a_sample_says_whom_it_leaves_out(dataset, rows):
    whole, sample = (Users(dataset, Items.load(dataset)).of_split("test", most) for most in (None, 3))
    assert list(whole) and list(sample)
    assert (whole.users_found, whole.rows_found) == (sample.users_found, sample.rows_found)
    assert sample.users_taken == 3 and 3 <= sample.rows_taken < whole.rows_taken == whole.rows_found


def test_train_is_no_split_to_evaluate(dataset):
    with pytest.raises(ValueError, match="valid or test"):
        Users(dataset, Items.load(dataset)).of_split("train")


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_catalog_is_refused_in_one_line(tmp_path, damage):
    dataset = write_dataset(str(tmp_path), random_rows(1))
    path = dataset.file_path(dataset.items.files[1])
    with open(path, "rb") as file:
        data = bytearray(file.read())
    data[len(data) // 2] ^= 1
    os.remove(path)
    if damage != "gone":
        with open(path, "wb") as file:
            file.write(data if damage == "flip" else data[:-1])
    with pytest.raises(DataError) as caught:
        Items.load(dataset)
    message = {"flip": "checksum differs", "cut": "bytes", "gone": "missing"}[damage]
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and message in text and "prepare` again" in text and "\n" not in text


@pytest.mark.parametrize("pipelined", [False, True])
def test_wrong_row_count_and_wrong_type_are_refused(tmp_path, pipelined, monkeypatch):
    """Of small files, which are read at once, and of others."""
    dataset = write_dataset(str(tmp_path), random_rows(1))
    info = dataset.items.files[0]
    at_once = list(read_blocks(dataset, [info], ["id", "key", "count"]))
    if pipelined:
        monkeypatch.setattr("trainer.data.blocks.PIPELINED_BYTES", 0)
    found = list(read_blocks(dataset, [info], ["id", "key", "count"]))
    for one, other in zip(at_once, found, strict=True):
        for name, values in one.items():
            assert values.dtype == other[name].dtype
            np.testing.assert_array_equal(values, other[name])
    with pytest.raises(DataError, match="rows, but dataset.json says"):
        list(read_blocks(dataset, [info.model_copy(update={"rows": info.rows + 1})], ["id"]))
    text_as_number = dataset.model_copy(update={"features": {"key": FeatureInfo(of="item", kind="numeric")}})
    with pytest.raises(DataError, match="cannot be read"):
        list(read_blocks(text_as_number, [info], ["key"]))


_rows = st.lists(st.lists(st.integers(0, 6), max_size=6), min_size=1, max_size=6)


def ragged(rows: list[list[int]]) -> Ragged:
    return Ragged(np.array(sum(rows, []), np.int64), np.array([len(row) for row in rows]))


def listed(values: Ragged) -> list[list[int]]:
    return [list(values.take(np.array([i])).values) for i in range(len(values))]


@settings(max_examples=60, deadline=None)
@given(_rows, _rows, st.integers(0, 7))
def test_ragged_operations_agree_with_loops(rows, others, number):
    others = (others + [[]] * len(rows))[: len(rows)]
    values = ragged(rows)
    assert listed(values) == rows
    assert listed(values.distinct(7)) == [sorted(set(row)) for row in rows]
    assert listed(values.without(ragged(others), 7)) == [
        [v for v in row if v not in other] for row, other in zip(rows, others, strict=True)
    ]
    assert listed(values.first(number)) == [row[:number] for row in rows]
    padded = [(row[-number:] if number else []) + [-1] * (number - len(row)) for row in rows]
    assert values.last(number).tolist() == padded
    backwards = np.arange(len(rows))[::-1]
    assert listed(values.take(backwards)) == rows[::-1]
    assert listed(Ragged.join([values, values])) == rows + rows


def test_lengths_must_fit():
    with pytest.raises(ValueError, match="lengths"):
        Ragged(np.arange(3), np.array([1, 1]))


def test_features_are_read_as_of_each_split(tmp_path):
    """A catalog whose columns differ by time: the newest for serving, others for each evaluation."""
    rows = [Row(b"a", b"x", "train"), Row(b"a", b"y", "train"), Row(b"a", b"x", "test")]
    features = {
        "age": Feature("user", "numeric", {b"a": 7.0}),
        "price": Feature("item", "numeric", {b"x": 1.0, b"y": 2.0}),
    }
    values = {b"a": {"@valid": 5.0, "@test": 6.0}, b"x": {"@valid": 8.0, "@test": 9.0}}
    dataset = write_dataset(str(tmp_path), rows, features=features, as_of=values)
    items = Items.load(dataset)
    prices = [items.features["price"], *(items.as_of(s).features["price"] for s in ("valid", "test"))]
    assert [list(p[items.ids]) for p in prices] == [[1.0, 2.0], [8.0, 2.0], [9.0, 2.0]]
    users = Users(dataset, items)
    blocks = [next(users.blocks()), *(next(users.blocks(split)) for split in ("valid", "test"))]
    assert [list(block.features["age"]) for block in blocks] == [[7.0], [5.0], [6.0]]
    [block] = users.of_split("test")
    assert list(block.features["age"]) == [6.0]

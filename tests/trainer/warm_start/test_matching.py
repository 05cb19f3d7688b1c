"""Rows of two runs' tables: along chains of datasets, by hash, bucket and vocabulary file."""

import types

import google_crc32c
import numpy as np
import pytest

from configs.dataset_parts import BaseInfo, FeatureInfo, FileInfo, FoldInfo, TableInfo
from configs.errors import DataError
from configs.manifest import Dataset
from tests.support.day_worlds import write_world
from tests.support.tiny_dataset import Row, write_dataset
from trainer.data.bare_dataset import bare_dataset
from trainer.warm_start.matching import TableMatch, match_tables
from trainer.warm_start.placement import Placement

pytestmark = pytest.mark.any_python


def written(path, fingerprint: str, base: Dataset | None = None, **tables) -> Dataset:
    """A dataset without rows; tables are dicts, which may hold `pairs` of moved ids."""
    path.mkdir()
    found = {}
    for name, facts in tables.items():
        pairs = facts.pop("pairs", [])
        content = np.array(pairs, "<i8").tobytes()
        (path / f"{name}.moved").write_bytes(content)
        checksum = f"{google_crc32c.value(content):08x}"
        file = FileInfo(path=f"{name}.moved", rows=len(pairs), bytes=len(content), crc32c=checksum)
        found[name] = TableInfo(**{"ids": "vocab", "keys": 0, "oov": None} | facts, moved=[file])
    below = base and BaseInfo(path=base.path, fingerprint=base.fingerprint, depth=1)
    changes = {"fingerprint": fingerprint, "tables": found, "base": below, "path": str(path)}
    dataset = bare_dataset({}).model_copy(update=changes)
    (path / "dataset.json").write_text(dataset.model_dump_json())
    return dataset


def source_of(dataset: Dataset, *tables: str):
    """A run that was trained on a dataset."""
    return types.SimpleNamespace(
        path="first",
        fingerprint=dataset.fingerprint,
        layouts=dict.fromkeys(tables or dataset.tables),
        config=types.SimpleNamespace(dataset=types.SimpleNamespace(path=dataset.path)),
    )


def config_of(*tables: str, kind: str = "table"):
    """A run with these tables."""
    return types.SimpleNamespace(
        table_of_input={name: name for name in tables}, table=lambda name: types.SimpleNamespace(kind=kind)
    )


def matched(dataset: Dataset, source, *tables: str) -> dict[str, TableMatch]:
    return match_tables(config_of(*(tables or dataset.tables)), dataset, source)


def test_the_same_dataset(tmp_path):
    day = written(tmp_path / "day", "a", user={"rows": 5, "oov": 4})
    match = matched(day, source_of(day))["user"]
    assert match.rows is None and match.counts() == {
        "matched": "same ids",
        "kept": 5,
        "new": 0,
        "dropped": 0,
    }


def test_rows_follow_keys_through_a_chain(tmp_path):
    """Day 1: keys 0..3, unknown 4. Day 2: key 1 leaves, a new key takes its row, two more come. Day 3: key 2
    leaves for good, and a cold user of day 2 (id 9) is admitted."""
    first = written(tmp_path / "1", "a", user={"rows": 5, "oov": 4})
    second = written(
        tmp_path / "2",
        "b",
        first,
        user={"rows": 7, "oov": 6, "base_rows": 5, "base_oov": 4, "pairs": [(1, -1)]},
    )
    third = written(
        tmp_path / "3",
        "c",
        second,
        user={"rows": 8, "oov": 7, "base_rows": 7, "base_oov": 6, "pairs": [(2, -1), (9, 6)]},
    )
    match = matched(third, source_of(first))["user"]
    assert match.rows.tolist() == [0, -1, -1, 3, -1, -1, -1, 4]
    assert match.counts() == {"matched": "base", "kept": 3, "new": 5, "dropped": 2}
    match = matched(third, source_of(second))["user"]
    assert match.rows.tolist() == [0, 1, -1, 3, 4, 5, -1, 6]


@pytest.mark.parametrize(("same_ids", "how"), [(True, "base"), (False, "key")])
def test_a_run_on_a_dataset_that_was_folded(tmp_path, same_ids, how):
    """Goes on by ids, if these are still the same; else by the keys of its own dataset."""
    old = written(tmp_path / "0", "old", user={"rows": 5, "oov": 4})
    fold = FoldInfo(path=old.path, fingerprint="old", same_ids=same_ids, source_files=[])
    first = written(tmp_path / "1", "folded", user={"rows": 5, "oov": 4})
    first = first.model_copy(update={"folds": [fold]})
    (tmp_path / "1" / "dataset.json").write_text(first.model_dump_json())
    second = written(tmp_path / "2", "b", first, user={"rows": 6, "oov": 5, "base_rows": 5, "base_oov": 4})
    match = matched(second, source_of(old))["user"]
    assert match.counts()["matched"] == how
    assert match.rows.tolist() == ([0, 1, 2, 3, -1, 4] if same_ids else [-1, -1, -1, -1, -1, 4])


def test_a_damaged_file_of_moved_ids_is_refused(tmp_path):
    first = written(tmp_path / "1", "a", user={"rows": 5, "oov": 4})
    second = written(
        tmp_path / "2",
        "b",
        first,
        user={"rows": 5, "oov": 4, "base_rows": 5, "base_oov": 4, "pairs": [(1, -1)]},
    )
    (tmp_path / "2" / "user.moved").write_bytes(b"\0" * 16)
    with pytest.raises(DataError, match="2/user.moved: its checksum differs"):
        matched(second, source_of(first))


@pytest.mark.parametrize("options", [{}, {"min_count": 2}, {"hashed": {"user": 13, "item": 11}}])
def test_rows_of_random_chains_follow_their_keys(tmp_path, options):
    """From each day to the newest: those of keys with a row then, and since without a break."""
    world = write_world(str(tmp_path), days=4, **options)
    newest = world.top
    for number, day in enumerate(world.written):
        found = matched(newest.dataset, source_of(day.dataset))
        for name, ids in newest.ids.items():
            if ids.hash_rows:
                wanted = np.arange(ids.rows)
            else:
                wanted = np.full(ids.rows, -1)
                wanted[-1] = day.ids[name].rows - 1
                gone = set().union(*(leave.get(name, set()) for leave in world.leave[number + 1 :]))
                for key, row in ids.rows_of.items():
                    if key not in gone:
                        wanted[row] = day.ids[name].rows_of.get(key, -1)
            match = found[name]
            rows = np.arange(match.size) if match.rows is None else match.rows
            assert rows.tolist() == wanted.tolist(), (name, number)
            assert match.counts()["matched"] == ("same ids" if day is newest else "base")


def test_keys_of_whole_chains_are_joined(tmp_path):
    """Neither catalog alone has all keys of its table."""
    first = write_world(str(tmp_path / "one"), days=3)
    second = write_world(str(tmp_path / "two"), days=4, leaves=False)
    found = matched(second.top.dataset, source_of(first.top.dataset))
    for name, ids in second.top.ids.items():
        before = first.top.ids[name]
        wanted = np.full(ids.rows, -1)
        wanted[-1] = before.rows - 1
        for key, row in ids.rows_of.items():
            wanted[row] = before.rows_of.get(key, -1)
        assert found[name].rows.tolist() == wanted.tolist(), name
        assert found[name].counts()["matched"] == "key" and (wanted >= 0).sum() > 5


def test_a_table_of_its_own_for_histories_has_the_items_ids(tmp_path):
    first = written(tmp_path / "1", "a", item={"rows": 3, "oov": 2})
    second = written(tmp_path / "2", "b", first, item={"rows": 4, "oov": 3, "base_rows": 3, "base_oov": 2})
    found = matched(second, source_of(first, "item", "history"), "item", "history")
    assert found["history"].rows.tolist() == found["item"].rows.tolist() == [0, 1, -1, 2]
    assert matched(second, source_of(first, "item"), "item", "history")["history"].kept == 0


def other_datasets(tmp_path, here: dict, there: dict) -> TableMatch:
    first = written(tmp_path / "1", "a", age=there)
    second = written(tmp_path / "2", "b", age=here)
    return matched(second, source_of(first))["age"]


def test_hashed_ids(tmp_path):
    hashed = {"ids": "hash", "rows": 7}
    assert other_datasets(tmp_path, dict(hashed), dict(hashed)).rows is None


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ({"ids": "hash", "rows": 8}, "keys are hashed into 8 rows there"),
        ({"ids": "vocab", "rows": 7, "oov": 6}, "ids are vocab there, hash here"),
    ],
)
def test_ids_without_a_common_meaning_are_new_with_a_warning(tmp_path, caplog, there, why):
    caplog.set_level("WARNING", logger="absl")
    match = other_datasets(tmp_path, {"ids": "hash", "rows": 7}, there)
    assert (match.kept, match.new, match.dropped) == (0, 7, there["rows"])
    assert f"init.from: table age: all rows are new ({why})" in caplog.text


def test_crosses_of_other_keys_are_new(tmp_path):
    def crossed(path, fingerprint: str, keys: list[str]) -> Dataset:
        made = written(path, fingerprint, pair={"ids": "hash", "rows": 9})
        info = FeatureInfo(of="user", kind="cross", table="pair", keys=keys)
        made = made.model_copy(update={"features": {"pair": info}})
        (path / "dataset.json").write_text(made.model_dump_json())
        return made

    first = crossed(tmp_path / "1", "a", ["age", "city"])
    assert matched(crossed(tmp_path / "2", "b", ["age", "city"]), source_of(first))["pair"].kept == 9
    assert matched(crossed(tmp_path / "3", "c", ["age", "sex"]), source_of(first))["pair"].kept == 0


def with_buckets(path, fingerprint, boundaries, steps=()) -> Dataset:
    made = written(path, fingerprint, age={"ids": "buckets", "rows": len(boundaries) + 2})
    info = FeatureInfo(of="user", kind="numeric", table="age", boundaries=boundaries, steps=list(steps))
    made = made.model_copy(update={"features": {"years": info}})
    (path / "dataset.json").write_text(made.model_dump_json())
    return made


def test_buckets_with_the_same_bounds(tmp_path):
    first = with_buckets(tmp_path / "1", "a", [10.0, 20.0, 30.0])
    second = with_buckets(tmp_path / "2", "b", [10.0, 20.0, 25.0, 30.0])
    # Below 10, 10 to 20, then two that are new, from 30 on, and the empty value.
    assert matched(second, source_of(first))["age"].rows.tolist() == [0, 1, -1, -1, 3, 4]


def test_buckets_of_other_steps_are_new(tmp_path):
    first = with_buckets(tmp_path / "1", "a", [1.0], ["log1p"])
    second = with_buckets(tmp_path / "2", "b", [1.0])
    assert matched(second, source_of(first))["age"].kept == 0


@pytest.mark.parametrize(("here", "there", "rows"), [(2, 2, [3, 4]), (2, 1, [3, 3]), (1, 2, [-1])])
def test_out_of_vocabulary_rows(tmp_path, here, there, rows):
    """Several divide keys by their hash: they continue as many, or the only one."""
    table = {"ids": "given", "oov": 3}
    match = other_datasets(
        tmp_path, table | {"rows": 3 + here, "oov_rows": here}, table | {"rows": 3 + there, "oov_rows": there}
    )
    assert match.rows[3:].tolist() == rows and match.kept == sum(row >= 0 for row in rows)
    assert match.dropped == 3 + there - len({row for row in rows if row >= 0})


ROWS = [Row(b"u%d" % (i % 5), b"i%d" % (i % 3), "train") for i in range(20)]


def test_a_dataset_that_was_replaced_is_refused(tmp_path):
    first = write_dataset(str(tmp_path / "1"), ROWS)
    second = write_dataset(str(tmp_path / "2"), ROWS[:12])
    source = source_of(first)
    write_dataset(str(tmp_path / "1"), ROWS[:15])
    with pytest.raises(DataError, match=r"first was trained on another dataset \(fingerprint .* holds now"):
        matched(second, source)


def test_a_dataset_that_is_gone_is_refused(tmp_path):
    second = write_dataset(str(tmp_path / "2"), ROWS)
    gone = second.model_copy(update={"path": str(tmp_path / "gone"), "fingerprint": "gone"})
    with pytest.raises(DataError, match="gone: no dataset here"):
        matched(second, source_of(gone))


def test_keys_of_both_datasets(tmp_path):
    """Keys without a row of their own, in either, are new or dropped; also b"" and bytes that are no text."""
    odd = [b"", b"\xff\x00", "ü".encode(), b"x" * 300]
    first = write_dataset(
        str(tmp_path / "1"),
        [*(Row(key, b"i", "train") for key in odd), Row(b"cold", b"i", "test")],
    )
    second = write_dataset(
        str(tmp_path / "2"), [Row(key, b"i", "train") for key in [*odd[1:], b"cold", *odd[1:]]]
    )
    # Ids by count, then by key: x..., ü, \xff\x00, cold, unknown; there "", x..., ü, \xff\x00, unknown.
    assert matched(second, source_of(first))["user"].rows.tolist() == [1, 2, 3, -1, 4]


def test_robe_z_keeps_numbers_or_nothing(tmp_path):
    first = written(tmp_path / "1", "a", user={"rows": 5, "oov": 4})
    second = written(tmp_path / "2", "b", first, user={"rows": 6, "oov": 5, "base_rows": 5, "base_oov": 4})
    plain = match_tables(config_of("user"), second, source_of(first))["user"]
    assert not plain.keeps_numbers
    hashed = plain.without_moved_unknown(5)
    assert hashed.keeps_numbers and hashed.rows.tolist() == [0, 1, 2, 3, -1, -1]


@pytest.mark.parametrize("most", [1, 3, 7, 10, 99])
def test_samples_of_kept_rows_are_evenly_spaced(monkeypatch, most):
    monkeypatch.setattr("trainer.warm_start.placement._RANGE", 4)
    rows = np.array([0, -1, 1, 2, -1, 3, 4, 5, 6, -1, -1, -1, -1, -1, 7, 8, 9])
    kept = np.flatnonzero(rows >= 0)
    every = -(-10 // most)
    assert TableMatch(17, 12, rows, "").kept_sample(most).tolist() == kept[::every].tolist()
    assert len(kept[::every]) <= most
    assert TableMatch(10, 10, None, "").kept_sample(most).tolist() == list(range(0, 10, every))
    assert TableMatch(3, 9, np.full(3, -1), "").kept_sample(most).tolist() == []


def test_placement_in_ranges(monkeypatch):
    """Rows of a source that continue in one row, in several, or in none, in pieces of any size."""
    monkeypatch.setattr("trainer.warm_start.placement._RANGE", 4)
    rows = np.array([5, -1, 3, 4, 0, 9, 9, -1, 6, 7, 9])
    source = np.random.default_rng(0).normal(size=[10, 2]).astype(np.float32)
    places = Placement(rows, len(source))
    assert [places.covers(a, a + 2) for a in (0, 2, 4, 6)] == [False, True, True, False]

    class Kept:
        """A table in NumPy."""

        records = np.zeros([len(rows), 2], np.float32)

        def write_records(self, start, records):
            self.records[start : start + len(records)] = records

        def write_rows(self, ids, records):
            assert ids.dtype == np.int64 and len(set(ids)) == len(ids)
            self.records[ids] = records

    table = Kept()
    for start in range(0, 10, 3):
        places.write(table, start, source[start : start + 3])
    wanted = np.where((rows >= 0)[:, None], source[rows], 0)
    np.testing.assert_array_equal(table.records, wanted)

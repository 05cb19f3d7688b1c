"""Datasets that stand on another: ids that continue, delta catalogs, and what is refused."""

import collections
import csv
import json
import logging
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import pytest

from configs.chain import LEFT, load_chain, translated_to_top
from configs.errors import DataError
from configs.manifest import load_dataset
from pipelines.prepare import prepare
from tests.support.prepared import configure, content, content_of_any_size, read_file, read_rows, rows_of, run

START, DAY = 1_700_000_000, 86_400
SMALL = {"user_shards": 3, "key_shards": 4}


def write_day(path, number: int, rows: int = 150, seed: int = 0) -> list[dict]:
    """Rows of one day: of users and items that come and go, with words of items."""
    rng = random.Random(100 * seed + number)
    found = [
        {
            "user": f"u{rng.randrange(number * 8, number * 8 + 25)}",
            "item": f"i{rng.randrange(number * 3, number * 3 + 20)}",
            "time": START + number * DAY + rng.randrange(DAY // 2),
            "word": rng.choice(["", *(f"w{n}" for n in range(number, number + 5))]),
        }
        for _ in range(rows)
    ]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return found


def sections(directory, number: int, base: int | None = None, **dataset) -> tuple[dict, dict]:
    source = {
        "kind": "delimited",
        "paths": [str(directory / f"day{number}.csv")],
        "roles": {"timestamp": "time"},
        "features": [{"name": "word", "of": "item", "kind": "categorical"}],
    }
    section = {"path": str(directory / f"out{number}"), "num_shards": 2, "history_length": 3, **dataset}
    if base is not None:
        section["base"] = str(directory / f"out{base}")
    return source, section


def prepare_chain(directory, days: int = 3, sizes=SMALL, **dataset) -> list[list[dict]]:
    rows = []
    for number in range(days):
        rows.append(write_day(directory / f"day{number}.csv", number))
        run(*sections(directory, number, number - 1 if number else None, **dataset), **sizes)
    return rows


def catalog(dataset, info) -> list[dict]:
    blocks = [block for file in info.files for block in read_file(dataset.file_path(file))]
    return [row for block in blocks for row in rows_of(block)]


def keys_of_chain(chain, table: str) -> dict[int, str]:
    """Keys by catalog id of the newest dataset, from the catalogs of all."""
    found = {}
    for level, dataset in reversed(list(enumerate(chain))):
        part = catalog(dataset, {"user": dataset.users, "item": dataset.items}[table])
        ids = translated_to_top([row["id"] for row in part], table, chain[:level])
        for i, row in zip(ids.tolist(), part, strict=True):
            if i != LEFT:
                key = row["key"].decode()
                assert found.setdefault(i, key) == key
    return found


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    directory = tmp_path_factory.mktemp("days")
    rows = prepare_chain(
        directory,
        user_ids={"kind": "vocab", "min_count": 2, "max_rows": 30, "expire_days": 1.2},
        feature_ids={"word": {"kind": "vocab", "min_count": 3}},
    )
    return directory, rows


def test_records_say_the_source_again(days):
    """Ids of all rows of all days, as ids of the newest, are the keys of the source."""
    directory, rows = days
    chain = load_chain(load_dataset(str(directory / "out2")))
    names = {table: keys_of_chain(chain, table) for table in ("user", "item")}
    assert [dataset.base.depth if dataset.base else 0 for dataset in chain] == [2, 1, 0]
    forgotten = 0
    for level, dataset in enumerate(chain):
        expected = {(r["user"], r["item"], r["time"] * 10**9) for r in rows[2 - level]}
        found = [row for info in dataset.splits.values() for row in read_rows(dataset, info.files)]
        ids = {t: translated_to_top([r[t] for r in found], t, chain[:level]) for t in names}
        for n, row in enumerate(found):
            user, item = (names[t].get(int(ids[t][n])) for t in ("user", "item"))
            assert item is not None  # items never leave here
            if user is None:
                assert ids["user"][n] == LEFT
                forgotten += 1
            else:
                assert (user, item, row["timestamp"]) in expected
        assert len(found) == len(expected)
    assert forgotten > 10 and chain[0].tables["user"].left > 3


def test_catalogs_hold_the_days_own_keys(days):
    directory, rows = days
    for number in (1, 2):
        dataset = load_dataset(str(directory / f"out{number}"))
        for table, info in (("user", dataset.users), ("item", dataset.items)):
            found = catalog(dataset, info)
            assert {row["key"].decode() for row in found} == {row[table] for row in rows[number]}
            times = [row["time"] * 10**9 for row in rows[number]]
            assert dataset.splits["test"].max_timestamp == max(times)
        trained = read_rows(dataset, dataset.splits["train"].files)
        counts = collections.Counter(row["user"] for row in trained)
        assert {r["id"]: r["count"] for r in catalog(dataset, dataset.users) if r["count"]} == counts


def test_tables_stay_within_max_rows(days):
    directory, _ = days
    for number in range(3):
        dataset = load_dataset(str(directory / f"out{number}"))
        users = dataset.tables["user"]
        assert users.rows <= 30 and users.rows == users.keys + 1 == users.oov + 1
        in_use = {row["id"] for row in catalog(dataset, dataset.users)}
        assert users.oov not in in_use and max(in_use) < users.catalog_rows


def test_vocabularies_are_whole_and_keep_ids(days):
    directory, rows = days
    before: dict[bytes, int] = {}
    for number in range(3):
        dataset = load_dataset(str(directory / f"out{number}"))
        found = {row["key"]: row["id"] for row in catalog(dataset, dataset.tables["word"])}
        assert before.items() <= found.items()
        assert sorted(found.values()) == list(range(dataset.tables["word"].keys))
        before = found
    assert len(before) > 6


def test_the_base_is_untouched_and_sizes_do_not_matter(tmp_path):
    prepare_chain(tmp_path, days=2)
    stats = _stats(tmp_path / "out0")
    files = content(tmp_path / "out0")
    first = content_of_any_size(str(tmp_path / "out1"))
    source, section = sections(tmp_path, 1, 0)
    run(source, section, user_shards=1, chunk_bytes=64, threads=3)
    assert content_of_any_size(str(tmp_path / "out1")) == first
    assert content(tmp_path / "out0") == files and _stats(tmp_path / "out0") == stats


def _stats(directory) -> dict[str, tuple]:
    paths = [os.path.join(where, name) for where, _, names in os.walk(directory) for name in names]
    found = {path: os.stat(path) for path in paths}
    return {path: (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for path, stat in found.items()}


def test_max_rows_without_a_base(tmp_path, caplog):
    rows = write_day(tmp_path / "day0.csv", 0)
    source, section = sections(tmp_path, 0, split={"kind": "random"}, user_ids={"max_rows": 6})
    with caplog.at_level(logging.INFO, logger="absl"):
        run(source, section, **SMALL)
    dataset = load_dataset(str(tmp_path / "out0"))
    users = dataset.tables["user"]
    assert (users.rows, users.keys, users.oov) == (6, 5, 5)
    found = {row["id"]: row for row in catalog(dataset, dataset.users)}
    assert len(found) == len({row["user"] for row in rows}) == users.catalog_rows - 1
    best = sorted(found.values(), key=lambda row: (-row["count"], row["key"]))
    assert [row["id"] for row in best[:5]] == list(range(5))
    others = sorted((row["key"], i) for i, row in found.items() if i > 5)
    assert [i for _, i in others] == list(range(6, users.catalog_rows))
    assert "or beyond max_rows 6, are not evaluated" in caplog.text


def test_hashed_ids_stay(tmp_path):
    hashed = {name: {"kind": "hash", "rows": 64} for name in ("user_ids", "item_ids")}
    rows = prepare_chain(tmp_path, days=2, **hashed)
    top = load_dataset(str(tmp_path / "out1"))
    assert top.tables["user"].base_rows == 64 and top.tables["user"].base_oov is None
    assert not top.tables["user"].index and not top.tables["user"].moved
    source, section = sections(tmp_path, 1, **hashed)
    run(source, section | {"path": str(tmp_path / "alone")})
    alone = load_dataset(str(tmp_path / "alone"))
    names = ("id", "key", "count")
    mine, others = ([[row[n] for n in names] for row in catalog(d, d.items)] for d in (top, alone))
    assert mine == others and len(mine) <= len({row["item"] for row in rows[1]})


def test_a_base_in_an_object_store(tmp_path):
    """memory:// stands for gs://: index files and catalogs are read without a disk."""
    prepare_chain(tmp_path, days=2)
    base = configure(*sections(tmp_path, 0))
    remote = base.dataset.model_copy(update={"path": "memory://days/out0"})  # configs refuse it
    prepare(base.source, remote, overwrite=True, **SMALL)
    day = configure(*sections(tmp_path, 1, 0))
    section = day.dataset.model_copy(update={"base": "memory://days/out0", "path": str(tmp_path / "far")})
    found = prepare(day.source, section, **SMALL)
    near = load_dataset(str(tmp_path / "out1"))
    assert found.fingerprint == near.fingerprint and found.base.path == "memory://days/out0"
    assert [file.crc32c for file in found.all_files] == [file.crc32c for file in near.all_files]


def test_already_prepared_and_rebuilt_bases(tmp_path, caplog):
    prepare_chain(tmp_path, days=2)
    config = configure(*sections(tmp_path, 1, 0))
    with caplog.at_level(logging.INFO, logger="absl"):
        assert prepare(config.source, config.dataset).base is not None
    assert "already prepared" in caplog.text
    write_day(tmp_path / "day0.csv", 0, seed=1)
    run(*sections(tmp_path, 0), **SMALL)
    rebuilt = f"{tmp_path}/out1: was prepared on {tmp_path}/out0 .dataset.base. before that was rebuilt"
    with pytest.raises(DataError, match=rebuilt + ".*pass --overwrite"):
        prepare(config.source, config.dataset)
    with pytest.raises(DataError, match=f"out0: has been rebuilt since {tmp_path}/out1 was prepared"):
        load_chain(load_dataset(str(tmp_path / "out1")))
    write_day(tmp_path / "day2.csv", 2)
    with pytest.raises(DataError, match="out0: has been rebuilt since .*out1 was prepared.*oldest first"):
        run(*sections(tmp_path, 2, 1))
    assert not (tmp_path / "out2").exists()
    prepare(config.source, config.dataset, overwrite=True)
    assert len(load_chain(load_dataset(str(tmp_path / "out1")))) == 2


def test_a_day_counts_once(tmp_path, caplog):
    prepare_chain(tmp_path, days=2)
    source, section = sections(tmp_path, 1, 1)
    section["path"] = str(tmp_path / "again")
    message = f"{tmp_path}/day1.csv: {tmp_path}/out1, which dataset.base leads to, has read it; leave it out"
    with pytest.raises(DataError, match=message):
        run(source, section)
    source["paths"] = [str(tmp_path / "day0.csv")]
    with pytest.raises(DataError, match=f"{tmp_path}/day0.csv: {tmp_path}/out0, which dataset.base"):
        run(source, section)
    assert not (tmp_path / "again").exists()
    (tmp_path / "copy.csv").write_bytes((tmp_path / "day0.csv").read_bytes())
    source["paths"] = [str(tmp_path / "copy.csv")]
    with caplog.at_level(logging.INFO, logger="absl"):
        late = run(source, section)
    assert f"copy.csv: has the content of {tmp_path}/day0.csv, which {tmp_path}/out0 has read" in caplog.text
    rows = sum(info.rows for info in late.splits.values())
    assert late.base.late == rows and f"late: {rows} of {rows} rows are older than the newest" in caplog.text


def test_a_gap_is_logged(tmp_path, caplog):
    prepare_chain(tmp_path, days=2)
    write_day(tmp_path / "day6.csv", 6)
    with caplog.at_level(logging.INFO, logger="absl"):
        found = run(*sections(tmp_path, 6, 1))
    assert "gap: no rows for 4.5 days after those of the base; check that no day is missing" in caplog.text
    kept = load_dataset(str(tmp_path / "out1")).tables["user"].keys
    new = found.tables["user"].keys - kept
    assert f"table user: {kept} keys of the base kept their rows, 0 left, {new} are new" in caplog.text
    assert found.base.late == 0 and "late:" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dataset": {"item_ids": {"kind": "hash", "rows": 9}}},
            "dataset.item_ids.kind is hash here, vocab there",
        ),
        ({"dataset": {"history_length": 5}}, "dataset.history_length is 5 here, 3 there"),
        ({"dataset": {"positive": "all"}}, 'dataset.positive is "all" here, "above_zero" there'),
        (
            {"source": {"roles": {}}, "dataset": {"history_of": "earlier"}},
            "source.roles.timestamp is null here, there it is not",
        ),
        ({"source": {"clean_keys": False}}, "source.clean_keys is false here, true there"),
        ({"source": {"features": []}}, "feature word is only there"),
        (
            {"source": {"features": [{"name": "word", "of": "item", "kind": "list", "separator": "|"}]}},
            'feature word: kind is "list" here, "categorical" there',
        ),
    ],
)
def test_rows_must_mean_the_same(tmp_path, changes, message):
    prepare_chain(tmp_path, days=1)
    write_day(tmp_path / "day1.csv", 1)
    source, section = sections(tmp_path, 1, 0)
    section |= {"split": {"kind": "random"}} | changes.get("dataset", {})
    with pytest.raises(DataError) as error:
        run(source | changes.get("source", {}), section)
    assert str(error.value) == (
        f"dataset.base: {tmp_path}/out0 was prepared otherwise: {message}. Set it as there, or prepare all "
        "rows anew without dataset.base"
    )


def test_bases_that_cannot_be_opened(tmp_path):
    write_day(tmp_path / "day1.csv", 1)
    with pytest.raises(DataError, match=f"dataset.base: {tmp_path}/out0: no dataset here"):
        run(*sections(tmp_path, 1, 0))
    prepare_chain(tmp_path, days=1)
    document = json.loads((tmp_path / "out0" / "dataset.json").read_text())
    for table in document["tables"].values():
        table.pop("index")
    kept = (tmp_path / "out0" / "dataset.json").read_text()
    (tmp_path / "out0" / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=f"{tmp_path}/out0: has no index of its keys, .* prepare --overwrite"):
        run(*sections(tmp_path, 1, 0))
    (tmp_path / "out0" / "dataset.json").write_text(kept)
    index = load_dataset(str(tmp_path / "out0")).tables["user"].index[0]
    (tmp_path / "out0" / index.path).write_bytes(b"torn")
    with pytest.raises(DataError, match=f"{index.path}: the index of dataset.base cannot be read"):
        run(*sections(tmp_path, 1, 0))


def test_a_dataset_does_not_replace_what_it_stands_on(tmp_path):
    prepare_chain(tmp_path, days=2)
    write_day(tmp_path / "day2.csv", 2)
    files = content(tmp_path / "out0")
    source, section = sections(tmp_path, 2, 1)
    with pytest.raises(DataError, match=f"dataset.path: {tmp_path}/out0/ is one of the datasets"):
        run(source, section | {"path": f"{tmp_path}/out0/"})
    assert content(tmp_path / "out0") == files


def test_errors_leave_the_base_and_no_dataset(tmp_path, monkeypatch):
    from pipelines.stages import ids

    prepare_chain(tmp_path, days=1)
    files = content(tmp_path / "out0")
    write_day(tmp_path / "day1.csv", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "index")

    monkeypatch.setattr(ids, "write_index", full)
    with pytest.raises(DataError, match="Nothing is published"):
        run(*sections(tmp_path, 1, 0))
    assert content(tmp_path / "out0") == files and not (tmp_path / "out1").exists()


_KILLED = """
import os, signal, sys
from configs.system import storage
from pipelines import publish
from pipelines.stages import ids
from tests.pipelines.test_prepare_base import sections
from tests.support.prepared import run
import pathlib

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

places = {"index": (ids, "write_index"), "moving": (publish.os, "replace"), "last": (storage, "write_bytes")}
module, name = places[sys.argv[2]]
setattr(module, name, kill)
run(*sections(pathlib.Path(sys.argv[1]), 1, 0))
"""


@pytest.mark.slow
def test_a_killed_day_leaves_the_base_and_is_prepared_again(tmp_path):
    prepare_chain(tmp_path, days=2)
    expected, files = content(tmp_path / "out1"), content(tmp_path / "out0")
    for moment in ("index", "moving", "last"):
        shutil.rmtree(tmp_path / "out1", ignore_errors=True)
        command = [sys.executable, "-c", _KILLED, str(tmp_path), moment]
        killed = subprocess.run(
            command, cwd=pathlib.Path(__file__).parents[2], capture_output=True, timeout=300
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert content(tmp_path / "out0") == files
        assert not (tmp_path / "out1" / "dataset.json").exists()
    run(*sections(tmp_path, 1, 0), **SMALL)
    assert content(tmp_path / "out1") == expected and content(tmp_path / "out0") == files

"""A folded chain: the same ids, rows, catalogs and next days as the chain, and nothing below it."""

import collections
import json
import random
import shutil

import numpy as np
import pytest

from configs.chain import translated_to_top
from configs.errors import DataError
from configs.manifest import SPLITS, load_dataset
from pipelines import compact as module
from pipelines.compact import compact
from pipelines.prepare import prepare
from tests.pipelines.test_prepare_ranking import LABELS, configured, draw
from tests.support.days import DAY, SMALL, keys_of, prepare_days
from tests.support.prepared import configure, content, read_rows, run
from trainer import cli

pytestmark = pytest.mark.any_python

FEATURES = [
    {"name": "price", "of": "item", "kind": "numeric"},
    {"name": "genre", "of": "item", "kind": "categorical"},
    {"name": "tags", "of": "user", "kind": "list", "weights": "strength", "table": "words"},
    {"name": "device", "of": "context", "kind": "categorical"},
    {"name": "mix", "of": "context", "kind": "cross", "keys": ["device", "genre"], "rows": 50},
]
SOURCE = {"roles": {"label": "label", "timestamp": "time"}, "features": FEATURES}
DATASET = {
    "split": {"kind": "temporal"},
    "history_length": 5,
    "user_ids": {"kind": "vocab", "max_rows": 40, "expire_days": 2.0},
    "item_ids": {"kind": "vocab", "min_count": 3},
    "num_shards": 2,
}


def world(day: int, rows: int = 220) -> list[dict]:
    rng = random.Random(day)
    found = []
    for time in sorted(rng.sample(range(DAY), rows)):
        tags = rng.sample(["a", "b", "c", f"new{day}"], rng.randrange(4))
        found.append(
            {
                "user": f"u{rng.randrange(25) + 9 * day}", "item": f"i{rng.randrange(30) + 5 * day}",
                "label": rng.choice([0.0, 1.0, 1.0]), "time": DAY * day + time,
                "price": rng.uniform(1, 9),
                "genre": rng.choice(["", "rock", "pop", f"genre{day}"]), "tags": tags,
                "strength": [rng.choice([0.5, 1.0, 2.0]) for _ in tags],
                "device": rng.choice(["web", "app", f"tv{day % 3}"]),
            }
        )  # fmt: skip
    return found


def side_tables(directory, day: int) -> dict:
    """Items that appear, change their year, lose a value, and have vectors."""
    rng = random.Random(day)
    rows = [
        {"id": f"i{i}", "year": rng.choice([None, 1990.0 + day]), "maker": rng.choice(["", "x", f"y{day}"]),
         "image": [float(day + 1), float(i)]}
        for i in range(5 * day, 5 * day + 20)
    ]  # fmt: skip
    path = directory / f"items{day}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    features = [
        {"name": "year", "kind": "numeric"},
        {"name": "maker", "kind": "categorical"},
        {"name": "image", "kind": "vector", "dim": 2},
    ]
    return {"kind": "jsonl", "of": "item", "key": "id", "paths": [str(path)], "features": features}


def sections(directory, day: int, base=None) -> tuple[dict, dict]:
    path = directory / f"day{day}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in world(day)))
    source = {"kind": "jsonl", "paths": [str(path)], "sides": [side_tables(directory, day)]} | SOURCE
    return source, DATASET | {"path": str(directory / f"data{day}")} | ({"base": base.path} if base else {})


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """(chain oldest first, the folded dataset, directory); the chain is a copy that stays."""
    directory = tmp_path_factory.mktemp("fold")
    chain = []
    for day in range(4):
        source, dataset = sections(directory, day, chain[-1] if chain else None)
        run(source, dataset, **SMALL)
        chain.append(load_dataset(dataset["path"]))
    copy = directory / "copy"
    shutil.copytree(chain[-1].path, copy)
    config = configure(source, dataset)
    before = content(chain[0].path)
    found = compact(config.source, config.dataset, **SMALL)
    assert content(chain[0].path) == before
    return [*chain[:-1], load_dataset(str(copy))], found, directory


def text(dataset, keys, row, level=0, chain=()):
    """A row by raw keys; None: a key without a row, whose id is that of all such keys."""

    def key(owner, number):
        found = int(translated_to_top(np.array([number]), owner, chain[:level])[0])
        return keys[owner].get(found)

    def word(table, number):
        found = int(translated_to_top(np.array([number]), table, chain[:level])[0])
        return keys[table].get(found)

    top = chain[0] if chain else dataset
    history = [key("item", i) for i in row["history"] if _has_row(top, chain[:level], i)]
    return (
        key("user", row["user"]), key("item", row["item"]), row["label"], row["timestamp"],
        row["price"],
        word("genre", row["genre"]), tuple(word("words", i) for i in row["tags"]), row["tags/weight"],
        word("device", row["device"]), row["mix"], tuple(history),
    )  # fmt: skip


def _has_row(top, above, item) -> bool:
    found = int(translated_to_top(np.array([item]), "item", above)[0])
    return found >= 0 and bool(top.tables["item"].has_row(np.array(found)))


def all_keys(dataset, chain):
    keys = {owner: keys_of(chain, owner) for owner in ("user", "item")}
    for table in ("genre", "words", "device"):
        rows = read_rows(dataset, dataset.tables[table].files)
        keys[table] = {row["id"]: row["key"].decode() for row in rows}
    return keys


def rows_of(dataset, split):
    return read_rows(_at(dataset), dataset.splits[split].files)


def _at(dataset):
    """read_rows looks for files where the dataset was prepared."""
    return dataset.model_copy(update={"dataset": dataset.dataset | {"path": dataset.path}})


@pytest.mark.slow
def test_rows_of_earlier_datasets_are_train_rows(folded):
    days, found, _ = folded
    chain = days[::-1]
    keys = all_keys(_at(chain[0]), [_at(day) for day in days])
    expected = [text(chain[0], keys, row, 0, chain) for row in rows_of(chain[0], "train")]
    for level, dataset in enumerate(chain[1:], 1):
        for split in SPLITS:
            expected += [text(dataset, keys, row, level, chain) for row in rows_of(dataset, split)]
    rows = [text(found, keys, row) for row in rows_of(found, "train")]
    assert collections.Counter(rows) == collections.Counter(expected)
    assert any(row[0] is None for row in rows) and any(row[-1] for row in rows)
    assert found.splits["train"].rows == len(rows) == 4 * 220 - sum(
        chain[0].splits[split].rows for split in SPLITS[1:]
    )  # fmt: skip
    positive = [row for row in rows if row[2] > 0]
    again = [text(found, keys, row) for row in read_rows(found, found.positives.files)]
    assert collections.Counter(again) == collections.Counter(positive)
    for split in SPLITS[1:]:
        assert [f.crc32c for f in found.splits[split].files] == [
            f.crc32c for f in chain[0].splits[split].files
        ]


def test_catalogs_are_whole(folded):
    days, found, _ = folded
    users = keys_of([_at(day) for day in days], "user")
    items = keys_of([_at(day) for day in days], "item")
    rows = [row for day in range(4) for row in world(day)]
    held = {r["timestamp"] for split in SPLITS[1:] for r in rows_of(days[-1], split)}
    train = [row for row in rows if row["time"] * 10**9 not in held and row["label"] > 0]
    users_found = {row["key"].decode(): row for row in read_rows(found, found.users.files)}
    assert users_found.keys() == set(users.values())
    for key, row in users_found.items():
        mine = [r for r in rows if r["user"] == key and r["label"] > 0]
        if len(row["sequence"]) == len(mine):  # others have left in between, and come again
            splits = [0 if r["time"] * 10**9 not in held else None for r in mine]
            assert [users and items.get(i) for i in row["sequence"]] == [r["item"] for r in mine]
            assert all(s == 0 for s, kind in zip(row["sequence_split"], splits, strict=True) if kind == 0)
            assert row["count"] == sum(r["user"] == key for r in train)
    assert sum(row["count"] > 3 for row in users_found.values()) > 5
    items_found = {row["key"].decode(): row for row in read_rows(found, found.items.files)}
    counts = collections.Counter(row["item"] for row in train)
    assert {key: row["count"] for key, row in items_found.items() if row["count"]} == counts
    for key, row in items_found.items():
        price = [r["price"] for r in rows if r["item"] == key]
        assert np.isnan(row["price"]) if not price else row["price"] == np.float32(price[-1])


def test_side_tables_keep_the_newest_known_values(folded):
    _, found, directory = folded
    newest: dict[str, dict] = collections.defaultdict(dict)
    for day in range(4):
        for line in open(side_tables(directory, day)["paths"][0], encoding="utf-8"):
            row = json.loads(line)
            newest[row["id"]] |= {name: value for name, value in row.items() if value not in (None, "")}
    makers = {row["id"]: row["key"].decode() for row in read_rows(found, found.tables["maker"].files)}
    data = b"".join(open(found.file_path(f), "rb").read() for f in found.features["image"].files)
    images = np.frombuffer(data, "<f4").reshape(-1, 2)
    assert len(images) == found.tables["item"].catalog_rows
    for row in read_rows(found, found.items.files):
        side = newest[row["key"].decode()]
        assert row["year"] == side["year"] if "year" in side else np.isnan(row["year"])
        assert makers.get(row["maker"]) in (side.get("maker", ""), None)
        assert images[row["id"]].tolist() == side.get("image", [0, 0])


def test_the_next_day_is_the_same_on_the_chain_and_on_the_folded_dataset(folded):
    days, found, directory = folded
    results = []
    for name, base in (("chain", days[-1]), ("folded", found)):
        source, dataset = sections(directory, 4, base)
        dataset["path"] = str(directory / name)
        results.append(run(source, dataset, **SMALL))
    one, other = results
    assert [(f.rows, f.crc32c) for f in one.all_files] == [(f.rows, f.crc32c) for f in other.all_files]
    names = ("tables", "features", "distributions", "drift", "splits")
    for name in names:
        both = [json.dumps(r.model_dump(mode="json")[name]).replace(r.fingerprint[:8], "") for r in results]
        assert both[0] == both[1]


def test_it_stands_alone(folded):
    days, found, _ = folded
    assert found.base is None and not any(info.moved for info in found.tables.values())
    assert found.fingerprints == {found.fingerprint, days[-1].fingerprint}
    assert len(found.all_source_files) == sum(len(day.source_files) for day in days)
    assert found.source_rows == 4 * 220


def test_preparing_it_again_says_that_it_is_there(folded, tmp_path, caplog):
    days, found, directory = folded
    source, dataset = sections(directory, 3, days[2])
    config = configure(source, dataset | {"base": days[2].path})
    assert prepare(config.source, config.dataset).fingerprint == found.fingerprint


def test_nothing_to_fold_and_other_settings_are_refused(folded):
    days, found, directory = folded
    source, dataset = sections(directory, 0)
    config = configure(source, dataset)
    with pytest.raises(DataError, match="stands on no other dataset"):
        compact(config.source, config.dataset)
    config = configure(source, dataset | {"seed": 7})
    with pytest.raises(DataError, match="was prepared from other dataset settings"):
        compact(config.source, config.dataset)


def test_the_command_folds_and_refuses_to_overwrite(tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(module, "compact", lambda source, dataset, options: called.append(dataset.path))
    path = tmp_path / "run.yaml"
    source = {"kind": "jsonl", "paths": ["/x"], "roles": {"timestamp": "t"}}
    sections_ = {"source": source, "dataset": {"path": "/data"}, "train": {"num_steps": 1}}
    path.write_text(json.dumps(sections_ | {"output": {"path": "/run"}}))
    arguments = ["lazytower", "prepare", "--config", str(path), "--compact"]
    assert cli.run(cli.parse(arguments)) == 0 and called == ["/data"]
    assert cli.run(cli.parse([*arguments, "--overwrite"])) != 0
    assert "give one of them" in capsys.readouterr().err


def test_an_interrupted_fold_leaves_the_chain(tmp_path, monkeypatch):
    days = [
        [{"user": f"u{i % 5}", "item": f"i{i % 7}", "time": DAY * d + i} for i in range(30)] for d in (0, 1)
    ]
    source, dataset = {"roles": {"timestamp": "time"}}, {"split": {"kind": "temporal"}}
    chain = prepare_days(tmp_path, days, source, dataset)
    before = content(chain[1].path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "publish", killed)
    config = configure(chain[1].source, chain[1].dataset)
    with pytest.raises(KeyboardInterrupt):
        compact(config.source, config.dataset, **SMALL)
    assert content(chain[1].path) == before


@pytest.mark.parametrize("owners", [True, False])
def test_further_labels_and_rows_without_users_are_folded(tmp_path, owners):
    roles = {"label": "click", "labels": LABELS, "timestamp": "time"}
    roles |= {"user": "user", "item": "item"} if owners else {}
    chain = []
    for day in range(2):
        (tmp_path / f"{day}").mkdir()
        rows = [row | {"time": row["time"] + 500 * day} for row in draw(150, seed=day)]
        base = {"base": chain[-1].path} if chain else {}
        config = configured(
            tmp_path / f"{day}", rows, roles, path=str(tmp_path / f"{day}" / "data"), history_length=0, **base
        )
        prepare(config.source, config.dataset, **SMALL)
        chain.append(load_dataset(config.dataset.path))
    expected = [row for d in chain for row in read_rows(d, d.splits["train"].files)]
    expected += [row for name in SPLITS[1:] for row in read_rows(chain[0], chain[0].splits[name].files)]
    found = compact(config.source, config.dataset, **SMALL)
    rows = read_rows(found, found.splits["train"].files)
    names = ("timestamp", "label", "label/buy", "label/rating", "price")
    one, other = (
        collections.Counter(str([row[name] for name in names]) for row in mine) for mine in (rows, expected)
    )
    assert one == other and found.labels == list(LABELS)
    assert found.splits["train"].labels["buy"].ones == sum(row["label/buy"] == 1 for row in expected)

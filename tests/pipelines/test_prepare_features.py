"""Features of columns of the interactions: every kind beside what row-by-row Python makes of it."""

import collections
import csv
import math
import random

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import DataError
from configs.transforms import before_standardize, buckets, thresholds
from pipelines.prepare import prepare
from pipelines.report import feature_lines
from tests.support.prepared import configure, content, read_rows, run

pytestmark = pytest.mark.any_python

FEATURES = [
    {"name": "tags", "of": "item", "kind": "list", "separator": "|", "weights": "w", "table": "words",
     "max_length": 3},
    {"name": "genre", "of": "item", "kind": "categorical", "table": "words"},
    {"name": "likes", "of": "user", "kind": "list", "separator": "; "},
    {"name": "device", "of": "context", "kind": "categorical"},
    {"name": "seen", "of": "context", "kind": "list", "separator": "|", "table": "device"},
    {"name": "pair", "of": "context", "kind": "cross", "keys": ["genre", "device"], "rows": 40},
    {"name": "mix", "of": "item", "kind": "cross", "keys": ["genre", "mood"], "rows": 10**10},
    {"name": "mood", "of": "item", "kind": "categorical"},
    {"name": "price", "of": "item", "kind": "numeric", "transform": ["log1p", {"clip": [0, 2]}],
     "buckets": {"quantiles": 4}},
    {"name": "age", "of": "user", "kind": "numeric", "buckets": {"boundaries": [18, 25.1, 40]}},
    {"name": "hour", "of": "context", "kind": "numeric", "transform": ["log1p", "standardize"],
     "missing": 12},
]  # fmt: skip
IDS = {"words": {"kind": "vocab", "min_count": 3}, "likes": {"kind": "hash", "rows": 7}}
DEVICES = ["tv", "phone", "é", "unused"]


def draw(rng: random.Random, n: int) -> list[dict]:
    """Rows of text, as in a CSV; no two of one user, item and time."""
    rows = []
    for row in range(n):
        tags = [rng.choice("abcdefgh") for _ in range(rng.choice([0, 1, 2, 5]))]
        rows.append(
            {
                "user": f"u{rng.randrange(9)}", "item": f"i{rng.randrange(12)}", "ts": row,
                "label": rng.choice("001111"),
                "tags": "|".join(tags), "w": "|".join(rng.choice(["1", "0.25", "3e-3", "0"]) for _ in tags),
                "genre": rng.choice(["a", "b", "x", "", " a ", "NULL"]), "mood": rng.choice(["", "m", "n"]),
                "likes": "; ".join(rng.sample(["p", "q", "p", "", "nan", "r;"], rng.randrange(4))),
                "device": rng.choice(["tv", "phone", "é", "", "watch", "radio"]),
                "seen": rng.choice(["", "tv|tv", "watch|phone", "|tv|"]),
                "price": rng.choice(["", "0", "1.5", "7", "19.99", "1e3"]),
                "age": rng.choice(["", "17", "18", "25.1", "99"]), "hour": rng.choice(["", "0", "3", "23"]),
            }
        )  # fmt: skip
    return rows


def key(text: str) -> str:
    text = text.strip()
    return "" if text in ("NULL", "nan") else text


class Expected:
    """What each row has in records, and what each user and item has in the catalog."""

    def __init__(self, rows: list[dict], valid: int, test: int):
        self.rows = [dict(row) for row in rows]
        for row in self.rows:
            row["split"] = 0 if row["ts"] < valid else 1 if row["ts"] < test else 2
            row["genre"], row["mood"], row["device"] = (
                key(row[name]) for name in ("genre", "mood", "device")
            )
            pairs = zip(row["tags"].split("|"), row["w"].split("|"), strict=True)
            row["tags"] = [(tag, float(np.float32(weight))) for tag, weight in pairs if tag][:3]
            row["likes"] = [k for k in map(key, row["likes"].split("; ")) if k]
            row["seen"] = [k for k in row["seen"].split("|") if k]
            row["pair"], row["mix"] = (row["genre"], row["device"]), (row["genre"], row["mood"])
            row["price"] = float(np.float32(row["price"] or "nan"))
            row["age"] = float(np.float32(row["age"] or "nan"))
            row["no_hour"], row["hour"] = not row["hour"], float(row["hour"] or 12)
        self.train = [row for row in self.rows if row["split"] == 0 and row["label"] == "1"]
        words, likes = collections.Counter(), collections.Counter()
        devices = collections.Counter()
        for row in self.train:
            words.update([row["genre"], *(tag for tag, _ in row["tags"])])
            devices.update([row["device"], *row["seen"]])
            likes.update(row["likes"])
        self.counts = {"words": words, "device": devices, "likes": likes}
        self.words = sorted((w for w in words if words[w] >= 3), key=lambda w: (-words[w], w))
        moods = collections.Counter(row["mood"] for row in self.train)
        self.moods = sorted(moods, key=lambda m: (-moods[m], m))

    def value(self, name: str, raw):
        """A value as records have it."""
        if name == "tags":
            return tuple(self.value("genre", tag) for tag, _ in raw)
        if name == "genre":
            return self.words.index(raw) if raw in self.words else len(self.words)
        if name == "mood":
            return self.moods.index(raw) if raw in self.moods else len(self.moods)
        if name == "likes":
            return tuple(hashed(k, 7) for k in raw)
        if name == "device":
            return DEVICES.index(raw) if raw in DEVICES else len(DEVICES) + hashed(raw, 3)
        if name == "seen":
            return tuple(self.value("device", k) for k in raw)
        if name in ("pair", "mix"):
            return hashed("\x01".join(raw), 40 if name == "pair" else 10**10)
        return raw

    def is_known(self, name: str, row: dict) -> bool:
        if name == "pair":
            return bool(row["genre"] and row["device"])
        if name == "mix":
            return bool(row["genre"] and row["mood"])
        if name == "hour":
            return not row["no_hour"]
        if isinstance(row[name], float):
            return not math.isnan(row[name])
        return bool(row[name])

    def newest(self, name: str, of: str, owner: str, split: int | None) -> dict:
        """The row whose value a catalog has."""
        own = [row for row in self.rows if row[of] == owner]
        if split is not None and of == "item":
            own = [row for row in own if row["split"] < split] or own
        if split is not None and of == "user":
            first = [i for i, r in enumerate(own) if r["split"] == split and r["label"] == "1"]
            own = own[: first[0] + 1] if first else own
        return ([row for row in own if self.is_known(name, row)] or own)[-1]


def hashed(text: str, rows: int) -> int:
    return int(tf.strings.to_hash_bucket_fast(text, rows))


def write(path, rows: list[dict]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def source(directory) -> dict:
    return {
        "kind": "delimited", "paths": [f"{directory}/rows.csv"], "features": FEATURES,
        "roles": {"label": "label", "timestamp": "ts"},
    }  # fmt: skip


def sections(directory, out="out", **ids) -> tuple[dict, dict]:
    split = {"kind": "temporal", "valid_fraction": 0.2, "test_fraction": 0.2}
    given = {"device": {"kind": "given", "path": f"{directory}/devices.txt", "oov_rows": 3}}
    dataset = {"path": f"{directory}/{out}", "split": split, "feature_ids": IDS | given, "num_shards": 2}
    return source(directory), dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Rows, where they are, and their dataset."""
    directory = tmp_path_factory.mktemp("features")
    rows = draw(random.Random(5), 120)
    write(directory / "rows.csv", rows)
    (directory / "devices.txt").write_text("\n".join(DEVICES) + "\n", encoding="utf-8")
    dataset = run(*sections(directory), user_shards=3, key_shards=2, chunk_bytes=700)
    test = dataset.splits["test"].min_timestamp // 10**9
    return directory, Expected(rows, dataset.splits["valid"].min_timestamp // 10**9, test), dataset


def same(found, expected, column) -> None:
    if isinstance(expected, float):
        assert np.array_equal(np.float32(found), np.float32(expected), equal_nan=True), column
    else:
        assert found == expected, column


def test_records_hold_every_feature(world):
    _, expected, dataset = world
    by_time = {row["ts"]: row for row in expected.rows}
    splits = [*dataset.splits.values(), dataset.positives]
    found = [row for info in splits for row in read_rows(dataset, info.files)]
    assert len(found) == len(expected.rows) + len(expected.train)
    for row in found:
        raw = by_time[row["timestamp"] // 10**9]
        for feature in FEATURES:
            name = feature["name"]
            same(row[name], expected.value(name, raw[name]), name)
        assert row["tags/weight"] == tuple(weight for _, weight in raw["tags"])
        assert "likes/weight" not in row


def test_catalogs_hold_values_as_of_three_times(world):
    _, expected, dataset = world
    checked = 0
    for of, files in (("user", dataset.users.files), ("item", dataset.items.files)):
        names = [feature["name"] for feature in FEATURES if feature["of"] == of]
        for row in read_rows(dataset, files):
            found = {column.partition("@")[0].partition("/")[0] for column in row}
            assert set(names) == found - {"id", "key", "count", "sequence", "sequence_split"}
            for name in names:
                for column, split in ((name, None), (f"{name}@valid", 1), (f"{name}@test", 2)):
                    raw = expected.newest(name, of, row["key"].decode(), split)[name]
                    same(row[column], expected.value(name, raw), column)
                    if name == "tags":
                        assert row[f"{column}/weight"] == tuple(weight for _, weight in raw)
                    checked += 1
    assert checked > 150


def test_a_table_shared_by_features_has_one_vocabulary(world):
    _, expected, dataset = world
    words = [(i, w.encode(), expected.counts["words"][w]) for i, w in enumerate(expected.words)]
    found = read_rows(dataset, dataset.tables["words"].files)
    assert [(row["id"], row["key"], row["count"]) for row in found] == words
    table = dataset.tables["words"]
    assert (table.ids, table.rows, table.oov, table.keys) == ("vocab", len(words) + 1, len(words), len(words))
    all_words = {row["genre"] for row in expected.rows} | {t for row in expected.rows for t, _ in row["tags"]}
    assert table.oov_keys == len(all_words) - len(words)


def test_a_given_vocabulary_is_kept_whole_and_in_order(world):
    _, expected, dataset = world
    found = read_rows(dataset, dataset.tables["device"].files)
    counts = expected.counts["device"]
    assert [(r["id"], r["key"].decode(), r["count"]) for r in found] == [
        (i, name, counts[name]) for i, name in enumerate(DEVICES)
    ]
    table = dataset.tables["device"]
    assert (table.ids, table.rows, table.oov, table.oov_rows, table.keys) == ("given", 7, 4, 3, 4)
    assert table.oov_keys == 3  # watch, radio and the empty key


def test_hashed_and_crossed_tables(world):
    _, expected, dataset = world
    keys = {"likes": {k for row in expected.train for k in row["likes"]}}
    keys |= {name: {row[name] for row in expected.train} for name in ("pair", "mix")}
    for name, rows in (("likes", 7), ("pair", 40), ("mix", 10**10)):
        table = dataset.tables[name]
        assert (table.ids, table.rows, table.oov, table.files) == ("hash", rows, None, [])
        assert table.keys == len(keys[name])
    assert dataset.features["pair"].keys == ["genre", "device"]


def test_numbers_have_statistics_of_positive_train_rows(world):
    _, expected, dataset = world
    hours = np.log1p(np.array([row["hour"] for row in expected.train]))
    info = dataset.features["hour"]
    assert info.mean == pytest.approx(hours.mean(), rel=1e-6)
    assert info.stddev == pytest.approx(hours.std(), rel=1e-6)
    assert info.steps == ["log1p", "standardize"] and info.boundaries is None and info.table is None
    prices = [math.log1p(row["price"]) for row in expected.train if not math.isnan(row["price"])]
    prices = np.sort(np.minimum(np.float32(prices), np.float32(2)))
    cuts = {float(prices[len(prices) * i // 4]) for i in (1, 2, 3)} - {float(prices[0])}
    info = dataset.features["price"]
    assert info.boundaries == pytest.approx(sorted(cuts)) and 1 < len(cuts)
    assert (info.mean, info.stddev) == (0, 1) and info.table == "price"
    table = dataset.tables["price"]
    assert (table.ids, table.rows, table.keys) == ("buckets", len(cuts) + 2, len(cuts) + 1)
    values = np.float32([row["price"] for row in expected.train])
    found = np.bincount(buckets(thresholds(info.steps, info.boundaries), values, np), minlength=len(cuts) + 2)
    assert (found > 0).all() and found[-1] == np.isnan(values).sum()
    after = before_standardize(info.steps, values[~np.isnan(values)], np)
    assert found[0] == (after < info.boundaries[0]).sum()
    age = dataset.features["age"]
    assert age.boundaries == [18, float(np.float32(25.1)), 40] and age.steps == []


def test_coverage_and_words_outside_the_vocabulary_are_counted(world):
    _, expected, dataset = world
    for feature in FEATURES:
        name, of, info = feature["name"], feature["of"], dataset.features[feature["name"]]
        known = [row for row in expected.rows if expected.is_known(name, row)]
        owners = known if of == "context" else {row[of] for row in known}
        assert info.coverage == len(owners), name
        assert (info.of, info.kind, info.lives) == (of, feature["kind"], "records")
    tags = [tag for row in expected.rows for tag, _ in row["tags"]]
    info = dataset.features["tags"]
    assert (info.values, info.oov_values) == (len(tags), sum(tag not in expected.words for tag in tags))
    assert (info.max_length, info.weighted, info.table) == (3, True, "words")
    line = next(line for line in feature_lines(dataset) if line.startswith("feature tags "))
    share = f"{info.oov_values / info.values:.1%}"
    assert line == (
        f"feature tags (list): {len(expected.words)} keys, {share} of values out of vocabulary, known for "
        f"{info.coverage / 12:.1%} of 12 items"
    )
    assert "feature age (numeric): 4 buckets, known for " in "\n".join(feature_lines(dataset))


def test_cut_lists_and_changed_keys_are_counted(world):
    directory, _, dataset = world
    with open(directory / "rows.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert dataset.notes["cut_tags"] == sum(row["tags"].count("|") >= 3 for row in rows)
    assert dataset.notes["outer_blanks_genre"] == sum(row["genre"] == " a " for row in rows)
    assert dataset.notes["null_likes"] == sum("nan" in row["likes"].split("; ") for row in rows)
    assert "cut_likes" not in dataset.notes


def test_the_division_of_work_does_not_matter(world):
    directory, _, dataset = world
    again = run(*sections(directory, "again"), user_shards=1, key_shards=1)
    assert again.fingerprint == dataset.fingerprint
    one, other = (
        {name: table.model_dump(exclude={"index"}) for name, table in found.tables.items()}
        for found in (again, dataset)
    )
    assert again.features == dataset.features and one == other  # indexes are one table in any number of files
    assert again.notes == dataset.notes


def test_another_vocabulary_is_another_dataset(world, tmp_path):
    directory, _, _ = world
    for name in ("rows.csv", "devices.txt"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    config = configure(*sections(tmp_path))
    first = prepare(config.source, config.dataset)
    path = str(tmp_path / "devices.txt")
    assert [file.path for file in first.source_files] == [str(tmp_path / "rows.csv"), path]
    before = content(config.dataset.path)
    assert prepare(config.source, config.dataset).fingerprint == first.fingerprint
    (tmp_path / "devices.txt").write_text("phone\ntv\né\nunused\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"other content of {path}, which has changed since"):
        prepare(config.source, config.dataset)
    assert content(config.dataset.path) == before
    assert prepare(config.source, config.dataset, overwrite=True).fingerprint != first.fingerprint

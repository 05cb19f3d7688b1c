"""Data of ranking models beside what row-by-row Python makes of it: rows without users or items, further
labels, thinned negatives, and what counts in vocabularies, means and quantiles."""

import collections
import csv
import json
import math
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import DataError
from configs.load import parse_config
from configs.planted.clicks import PlantedClicks
from configs.planted.interactions import FIRST_TIMESTAMP
from pipelines.prepare import prepare
from pipelines.report import row_lines
from tests.support.prepared import content_of_any_size, read_rejected, read_rows

SMALL = {"chunk_bytes": 900, "chunk_rows": 37, "user_shards": 5, "key_shards": 3, "bucket_rows": 64}
SITES = [f"s{n}" for n in range(12)]
MASK = 2**64 - 1


def mix(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


def share(row: int, seed: int, stream: int) -> float:
    """A row's number in [0, 1) by SplitMix64, in plain integers."""
    golden = 0x9E3779B97F4A7C15
    key = mix(seed * golden + stream & MASK)
    return (mix(row * golden + key & MASK) >> 11) * 2.0**-53


def draw(n: int = 700, seed: int = 3) -> list[dict]:
    rng = random.Random(seed)
    return [
        {
            "user": f"u{rng.randrange(30)}",
            "item": f"i{int(rng.random() ** 2 * 40)}",
            "time": 1000 + row // 2,
            "click": rng.choice([0, 0, 0, 1]),
            "buy": rng.choice(["yes", "no", "", " yes ", "No"]),
            "rating": rng.choice(["", "0", "1", "4.5", "-2", "NA"]),
            "site": rng.choice(SITES[:3] if rng.random() < 0.7 else SITES),
            "price": round(rng.expovariate(0.1), 2),
        }
        for row in range(n)
    ]


LABELS = {"buy": {"column": "buy", "ones": ["yes"]}, "rating": {"column": "rating"}}
FEATURES = [
    {"name": "site", "of": "context", "kind": "categorical"},
    {"name": "price", "of": "context", "kind": "numeric"},
    {"name": "cost", "column": "price", "of": "context", "kind": "numeric", "buckets": {"quantiles": 4}},
]


def configured(folder, rows: list[dict], roles: dict, features=FEATURES, **dataset):
    source = folder / "log.csv"
    with open(source, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return whole(
        {"kind": "delimited", "paths": [str(source)], "roles": roles, "features": features}, **dataset
    )


def whole(source: dict, **dataset):
    roles = source["roles"]
    if "label" in roles:  # which keep_negatives can correct
        tasks = [{"name": "click"}]
        tasks += [{"name": name, "label": name, "where": "label"} for name in roles.get("labels", {})]
    else:
        tasks = [{"name": name, "label": name} for name in roles["labels"]]
    sections = {
        "source": source,
        "dataset": dataset,
        "model": {"kind": "ranking", "tasks": tasks},
        "train": {"num_steps": 1},
        "output": {"path": "/unused"},
    }
    return parse_config(sections, "test")


def prepared(config, **sizes):
    return prepare(config.source, config.dataset, overwrite=True, **sizes)


def label_of(text: str, ones: list[str] | None) -> float:
    text = text.strip()
    if text in ("", "NA"):
        return math.nan
    return float(text in ones) if ones else float(text)


def split_of(row: int, seed: int) -> int:
    part = share(row, seed, 1)
    return 2 if part < 0.1 else 1 if part < 0.2 else 0


class Reference:
    """What a dataset of `draw` without users and items has, with a random split."""

    def __init__(self, rows, seed=0, keep=1.0, counted="all"):
        self.rows = [dict(row, row=number) for number, row in enumerate(rows)]
        for row in self.rows:
            row["split"] = split_of(row["row"], seed)
            row["labels"] = (label_of(row["buy"], ["yes"]), label_of(row["rating"], None))
            negative = not row["click"] and all(math.isnan(v) or v == 0 for v in row["labels"])
            row["kept"] = row["split"] > 0 or not negative or share(row["row"], seed, 4) < keep
        train = [row for row in self.rows if row["split"] == 0]
        self.thinned = sum(not row["kept"] for row in train)
        self.counted = [row for row in train if counted == "all" or row["click"]]
        counts = collections.Counter(row["site"] for row in self.counted)
        self.vocabulary = sorted(counts, key=lambda key: (-counts[key], key.encode()))
        self.counts = [counts[key] for key in self.vocabulary]

    def id_of(self, site: str) -> int:
        return self.vocabulary.index(site) if site in self.vocabulary else len(self.vocabulary)

    def records(self, split: int) -> list[tuple]:
        return sorted(
            (
                row["row"], float(row["click"]), *(str(value) for value in row["labels"]),
                self.id_of(row["site"]), np.float32(row["price"]),
            )
            for row in self.rows if row["split"] == split and row["kept"]
        )  # fmt: skip

    def moments(self) -> tuple[float, float]:
        values = np.array([row["price"] for row in self.counted], np.float32).astype(np.float64)
        return values.mean(), values.std()

    def quantiles(self) -> list[float]:
        values = np.sort(np.array([row["price"] for row in self.counted], np.float32))
        return [float(values[len(values) * part // 4]) for part in (1, 2, 3)]


def assert_matches(dataset, reference: Reference) -> None:
    assert set(dataset.tables) == {"site", "cost"} and dataset.positives is None
    assert dataset.users.rows == dataset.items.rows == 0 and not dataset.users.files
    assert dataset.labels == ["buy", "rating"] and dataset.thinned == reference.thinned
    for number, info in enumerate(dataset.splits.values()):
        found = read_rows(dataset, info.files)
        assert set(found[0]) == {
            "label", "label/buy", "label/rating", "timestamp", "site", "price", "cost"
        }  # fmt: skip
        names = ("timestamp", "label", "label/buy", "label/rating", "site", "price")
        rows = sorted((*(str(row[n]) if n.startswith("label/") else row[n] for n in names),) for row in found)
        assert rows == reference.records(number)
        assert info.positives == sum(row[1] > 0 for row in rows)
        for place, name in ((2, "buy"), (3, "rating")):
            known = [float(row[place]) for row in rows if row[place] != "nan"]
            assert info.labels[name].known == len(known)
            assert info.labels[name].ones == sum(value > 0 for value in known)
    keys = read_rows(dataset, dataset.tables["site"].files)
    assert [(row["id"], row["key"].decode(), row["count"]) for row in keys] == [
        (i, key, reference.counts[i]) for i, key in enumerate(reference.vocabulary)
    ]
    info = dataset.features["price"]
    np.testing.assert_allclose((info.mean, info.stddev), reference.moments(), rtol=1e-6)
    assert dataset.features["cost"].boundaries == reference.quantiles()
    assert dataset.features["site"].coverage == len(reference.rows)


ROLES = {"label": "click", "labels": LABELS}


@pytest.mark.parametrize("counted", ["all", "positive"])
@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_rows_without_users_and_items_equal_the_reference(tmp_path, counted, keep):
    rows = draw()
    config = configured(
        tmp_path, rows, ROLES, path=str(tmp_path / "out"), counted_rows=counted, keep_negatives=keep
    )
    dataset = prepared(config, **SMALL)
    reference = Reference(rows, keep=keep, counted=counted)
    assert keep == 1 or 0 < reference.thinned
    assert_matches(dataset, reference)


def test_content_does_not_depend_on_sizes(tmp_path):
    found = []
    for name, sizes in {"a": {}, "b": SMALL, "c": SMALL | {"user_shards": 2, "chunk_bytes": 100}}.items():
        config = configured(
            tmp_path, draw(), ROLES, path=str(tmp_path / name), keep_negatives=0.5, seed=7, num_shards=3
        )
        dataset = prepared(config, **sizes)
        files = content_of_any_size(str(tmp_path / name))
        del files["dataset.json"]  # it has the time of the source's file
        left_out = {"dataset": {"path"}, "source_files": True, "tables": {"__all__": {"index"}}}
        found.append((files, dataset.model_dump(exclude=left_out)))
    assert found[0] == found[1] == found[2]


def test_thinning_takes_the_negatives_of_train_alone(tmp_path):
    """What is kept of them does not depend on how many; everything else stays, to the byte."""
    found = {}
    for keep in (1.0, 0.5, 0.2):
        config = configured(tmp_path, draw(), ROLES, path=str(tmp_path / f"out{keep}"), keep_negatives=keep)
        dataset = prepared(config)
        rows = {row["timestamp"]: row for row in read_rows(dataset, dataset.splits["train"].files)}
        held_out = [[info.crc32c for info in dataset.splits[name].files] for name in ("valid", "test")]
        lines = "\n".join(row_lines(dataset, config.dataset))
        found[keep] = rows, held_out, dataset, lines
    assert found[1.0][0].keys() > found[0.5][0].keys() > found[0.2][0].keys()
    assert found[1.0][1] == found[0.5][1] == found[0.2][1]
    for keep in (0.5, 0.2):
        left = [row for time, row in found[1.0][0].items() if time not in found[keep][0]]
        assert {row["label"] for row in left} == {0.0}
        for name in ("label/buy", "label/rating"):
            assert all(math.isnan(row[name]) or row[name] == 0 for row in left)
        dataset = found[keep][2]
        assert dataset.thinned == len(left) and dataset.keep_negatives == keep
        assert f"left out by dataset.keep_negatives {keep:g}: {len(left):,} negative rows" in found[keep][3]
        whole_log = found[1.0][2]
        assert [f.crc32c for f in dataset.tables["site"].files] == [
            f.crc32c for f in whole_log.tables["site"].files
        ]
        assert dataset.features["price"].mean == whole_log.features["price"].mean
    assert "keep_negatives" not in found[1.0][3]


def _ranked(keys) -> dict[str, int]:
    counts = collections.Counter(keys)
    return {key: i for i, key in enumerate(sorted(counts, key=lambda key: (-counts[key], key.encode())))}


@pytest.mark.parametrize("role", ["user", "item"])
def test_one_of_user_and_item(tmp_path, role):
    """It has a table, a catalog and features; there are no pairs, so no duplicates and no sequences."""
    rows = draw()
    rows += rows[:20]
    features = [*FEATURES, {"name": "home", "column": "site", "of": role, "kind": "categorical"}]
    roles = {"label": "click", role: role, "timestamp": "time"}
    config = configured(tmp_path, rows, roles, features, path=str(tmp_path / "out"), split={"kind": "random"})
    dataset = prepared(config, **SMALL)
    train = [row for number, row in enumerate(rows) if split_of(number, 0) == 0]
    ids = _ranked(row[role] for row in train)
    for key in sorted({row[role] for row in rows} - ids.keys(), key=str.encode):
        ids[key] = len(ids) + 1
    found = [row for info in dataset.splits.values() for row in read_rows(dataset, info.files)]
    assert collections.Counter((row[role], row["timestamp"], row["label"]) for row in found) == (
        collections.Counter((ids[row[role]], row["time"] * 10**9, float(row["click"])) for row in rows)
    )
    assert dataset.duplicates == 0 and dataset.positives is None
    other = "item" if role == "user" else "user"
    assert other not in dataset.tables and other not in found[0]
    catalog = {"user": dataset.users, "item": dataset.items}
    assert not catalog[other].files
    counts = collections.Counter(row[role] for row in train)
    sites = {role_: None for role_ in ids}
    for _, row in sorted(enumerate(rows), key=lambda pair: (pair[1]["time"], pair[0])):
        sites[row[role]] = row["site"]
    keys = {row["id"]: row["key"].decode() for row in read_rows(dataset, dataset.tables["home"].files)}
    read = read_rows(dataset, catalog[role].files)
    assert {(row["key"].decode(), row["id"], row["count"], keys.get(row["home"])) for row in read} == {
        (key, i, counts[key], sites[key]) for key, i in ids.items()
    }
    if role == "user":
        assert all(row["sequence"] == row["sequence_split"] == () for row in read)


def test_the_last_event_of_a_user_needs_no_item(tmp_path):
    rows = draw()
    roles = {"label": "click", "user": "user", "timestamp": "time"}
    config = configured(tmp_path, rows, roles, path=str(tmp_path / "out"), split={"kind": "leave_last_out"})
    dataset = prepared(config, **SMALL)
    clicks = collections.defaultdict(list)
    for row in rows:
        if row["click"]:
            clicks[row["user"]].append(row["time"] * 10**9)
    enough = [sorted(times) for times in clicks.values() if len(times) >= 3]
    for place, name in ((-1, "test"), (-2, "valid")):
        found = [row for row in read_rows(dataset, dataset.splits[name].files) if row["label"]]
        assert sorted(row["timestamp"] for row in found) == sorted(times[place] for times in enough)


def test_both_keep_histories_and_what_retrieval_reads(tmp_path):
    roles = {"label": "click", "user": "user", "item": "item", "timestamp": "time"}
    config = configured(
        tmp_path, draw(), roles, path=str(tmp_path / "out"), history_length=4, keep_negatives=0.2
    )
    dataset = prepared(config, **SMALL)
    assert dataset.positives is not None and dataset.positives.rows == dataset.splits["train"].positives
    assert dataset.thinned > 0
    assert any(row["history"] for row in read_rows(dataset, dataset.splits["train"].files))


def test_labels_of_every_kind_of_file_are_equal(tmp_path):
    values = {
        "truth": [True, False, None, True],
        "count": [3, 0, None, 1],
        "text": ["a", "b", None, "c"],
        "price": [0.5, 0.0, None, 2.0],
    }
    labels = {name: {"column": name} for name in ("truth", "count", "price")}
    labels |= {
        "is_true": {"column": "truth", "ones": [True]},
        "is_three": {"column": "count", "ones": [3]},
        "is_ac": {"column": "text", "ones": ["a", "c"]},
        "is_half": {"column": "price", "ones": ["0.5"]},
    }
    rows = [dict(zip(values, row, strict=True), x="k") for row in zip(*values.values(), strict=True)] * 30
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    odd = [{**row, "truth": None if row["truth"] is None else str(row["truth"]).lower()} for row in rows]
    (tmp_path / "odd.jsonl").write_text(
        '{"x": "k", "text": 1.5}\n' + "".join(json.dumps(r) + "\n" for r in odd)
    )
    with open(tmp_path / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(odd[0]))
        writer.writeheader()
        writer.writerows(odd)
    found = {}
    for name, kind in (("log.parquet", "parquet"), ("log.jsonl", "jsonl"), ("odd.jsonl", "jsonl"),
                       ("log.csv", "delimited")):  # fmt: skip
        features = [{"name": "x", "of": "context", "kind": "categorical"}]
        source = {
            "kind": kind, "paths": [str(tmp_path / name)], "roles": {"labels": labels}, "features": features
        }  # fmt: skip
        config = whole(source, path=str(tmp_path / "out"))
        dataset = prepared(config)
        assert not dataset.rejected and not dataset.has_label
        read = [row for info in dataset.splits.values() for row in read_rows(dataset, info.files)]
        names = [f"label/{name}" for name in labels]
        first = int(name == "odd.jsonl")  # a line more, whose labels are empty or 0
        found[name] = sorted(
            [str(row[n]) for n in names] + [row["timestamp"] - first] for row in read
            if row["timestamp"] >= first
        )  # fmt: skip
    expected = {
        0: ["1.0", "3.0", "0.5", "1.0", "1.0", "1.0", "1.0"],
        1: ["0.0"] * 7,
        2: ["nan"] * 7,
        3: ["1.0", "1.0", "2.0", "1.0", "0.0", "1.0", "0.0"],
    }
    every = sorted([*expected[place % 4], place] for place in range(120))
    for name, rows in found.items():
        assert rows == every, name


def test_what_is_no_number_rejects_its_row(tmp_path):
    rows = draw(300)
    rows[5]["rating"], rows[6]["rating"] = "good", "inf"
    config = configured(tmp_path, rows, ROLES, path=str(tmp_path / "out"))
    dataset = prepared(config)
    assert dataset.rejected == {"bad_label_rating": 1, "not_finite_label_rating": 1}
    assert [found["line"] for found in read_rejected(dataset)] == [7, 8]


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        ({"buy": {"column": "by", "ones": ["yes"]}}, {}, "no column 'by'; the header has: "),
        (
            {"buy": {"column": "buy", "ones": ["YES"]}}, {},
            "label buy: no row of 'buy' has 'YES'; correct source.roles.labels.buy.ones; some values are ",
        ),
        ({"rating": {"column": "rating"}}, {"rating": ""},
         "label rating: no row has a value of 'rating'; correct source.roles.labels.rating.column"),
        ({"buy": {"column": "buy"}}, {}, "set source.roles.labels.buy.ones to read text"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_read_are_one_line(tmp_path, labels, changes, message):
    rows = [row | changes for row in draw(200)]
    roles = {"label": "click", "labels": labels}
    config = configured(tmp_path, rows, roles, path=str(tmp_path / "out"))
    with pytest.raises(DataError) as failed:
        prepared(config)
    assert message in str(failed.value) and "\n" not in str(failed.value)


def test_the_values_of_a_label_are_named_where_none_counts(tmp_path):
    roles = {"labels": {"buy": {"column": "buy", "ones": ["bought"]}}}
    config = configured(tmp_path, draw(100), roles, path=str(tmp_path / "out"))
    with pytest.raises(DataError, match="some values are '', ' yes ', 'No', 'no', 'yes'"):
        prepared(config)


def test_the_planted_click_log(tmp_path):
    """Records are its rows. The true probability is beside the click, and makes no row positive."""
    source = {"kind": "synthetic_clicks", "rows": 600, "categorical": [9, 4], "numbers": 2, "users": 20}
    sections = {
        "source": source,
        "dataset": {"path": str(tmp_path / "out"), "keep_negatives": 0.4},
        "model": {"kind": "ranking"},
        "train": {"num_steps": 1},
        "output": {"path": "/unused"},
    }
    config = parse_config(sections, "test")
    dataset = prepared(config, **SMALL)
    planted = PlantedClicks(config.source).rows(0, 600)
    assert dataset.labels == ["planted_probability"] and dataset.has_label
    assert 0 < dataset.thinned == 600 - sum(info.rows for info in dataset.splits.values())
    names = {"c1": 1, "c2": 2}
    keys = {
        name: {row["id"]: row["key"].decode() for row in read_rows(dataset, dataset.tables[name].files)}
        for name in (*names, "tags")
    }
    ends = np.cumsum(planted.lengths)
    for split, info in dataset.splits.items():
        for row in read_rows(dataset, info.files):
            place = row["timestamp"] // 10**9 - FIRST_TIMESTAMP
            assert row["label"] == planted.clicked[place]
            assert row["label/planted_probability"] == np.float32(planted.probability[place])
            for name, column in names.items():
                if split == "train":
                    assert keys[name][row[name]] == f"k{planted.keys[column][place]}"
            assert row["n2"] == planted.numbers[1][place]
            tags = planted.members[ends[place] - planted.lengths[place] : ends[place]]
            assert [keys["tags"].get(i) for i in row["tags"]] == [
                f"t{tag}" for tag in tags
            ] or split != "train"
    assert "planted" not in "\n".join(row_lines(dataset, config.dataset))

"""Data of ranking models beside what row-by-row Python makes of it: rows without users or items, further
labels, thinned negatives, and what counts in vocabularies, means and quantiles."""

import collections
import csv
import math
import random

import numpy as np
import pytest

from configs.load import parse_config
from pipelines.prepare import prepare
from pipelines.report import row_lines
from tests.support.prepared import content_of_any_size, read_rows

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

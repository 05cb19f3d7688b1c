"""Whole runs on the local runner against the plain-Python reference."""

import gzip
import hashlib
import random

import pytest

from pipelines.prepare import prepare
from pipelines.rows import hashes, split
from pipelines.runners.options import beam_options
from tests.support.prepared import (
    Reference,
    assert_matches,
    configure,
    content,
    content_of_any_size,
    read_rows,
    run,
)

COLUMNS = ["user", "item", "rating", "timestamp"]
ROLES = {"label": "rating", "timestamp": "timestamp"}
SMALL = {"chunk_bytes": 700, "user_shards": 5, "key_shards": 3, "bucket_rows": 64}
SPLITS = {
    "temporal": {"kind": "temporal", "valid_fraction": 0.15, "test_fraction": 0.1},
    "leave_last_out": {"kind": "leave_last_out", "min_rows": 4},
    "random": {"kind": "random", "valid_fraction": 0.2, "test_fraction": 0.1},
}


def interactions(n=400, users=40, items=60, seed=1, distinct_times=120) -> list[dict]:
    """Skewed, with keys of all kinds and many equal timestamps."""
    rng = random.Random(seed)
    names = [f"é{i}" if i % 3 == 0 else f"i {i}" if i % 3 == 1 else f"{i:07d}" for i in range(items)]
    rows = []
    for row in range(n):
        user = int(users * rng.random() ** 2)
        item = names[int(items * rng.random() ** 3)]
        time = 1_000_000_000 + 7 * rng.randrange(distinct_times)
        rows.append(
            dict(user=f"u{user}", item=item, label=float(rng.randrange(1, 6)), timestamp=time, row=row)
        )
    return rows


def write_tsv(path, rows) -> dict:
    """Writes rows as a source; returns the section."""
    lines = (f"{r['user']}\t{r['item']}\t{r['label']}\t{r['timestamp']}\n" for r in rows)
    path.write_text("".join(lines), encoding="utf-8")
    return {
        "kind": "delimited", "paths": [str(path)], "delimiter": "\t", "header": False, "columns": COLUMNS,
        "roles": ROLES,
    }  # fmt: skip


def temporal_cut(rows, valid, test):
    """Cut by brute force: of all places between two seconds the nearest to the fraction."""
    times = sorted(row["timestamp"] for row in rows)
    edges = [*sorted(set(times)), float("inf")]

    def edge(fraction):
        newer = {e: sum(t >= e for t in times) for e in edges}
        return min(edges, key=lambda e: (abs(newer[e] - fraction * len(times)), newer[e]))

    first_valid, first_test = edge(valid + test), edge(test)
    return lambda row: (row["timestamp"] >= first_valid) + (row["timestamp"] >= first_test)


def split_function(kind, rows, seed=3):
    if kind == "temporal":
        return temporal_cut(rows, 0.15, 0.1)
    if kind == "random":
        numbers = hashes.np.array([row["row"] for row in rows])
        found = dict(zip(numbers.tolist(), split.random(numbers, seed, 0.2, 0.1).tolist(), strict=True))
        return lambda row: found[row["row"]]
    return None


@pytest.mark.parametrize("kind", SPLITS)
def test_everything_equals_the_reference(tmp_path, kind):
    rows = interactions()
    source = write_tsv(tmp_path / "in.tsv", rows)
    section = {
        "path": str(tmp_path / "out"),
        "split": SPLITS[kind],
        "history_length": 3,
        "num_shards": 3,
        "seed": 3,
    }
    dataset = run(source, section, **SMALL)
    reference = Reference(rows, split_function(kind, rows), min_rows=4, history_length=3)
    assert_matches(dataset, reference)
    assert dataset.source_rows == len(rows) and dataset.rejected == {} and dataset.filtered == 0


def test_min_count_and_hashed_users(tmp_path):
    rows = interactions(seed=2)
    source = write_tsv(tmp_path / "in.tsv", rows)
    section = {
        "path": str(tmp_path / "out"), "split": SPLITS["leave_last_out"], "history_length": 4, "seed": 3,
        "user_ids": {"kind": "hash", "rows": 17}, "item_ids": {"kind": "vocab", "min_count": 5},
    }  # fmt: skip
    dataset = run(source, section, **SMALL)
    reference = Reference(rows, min_rows=4, history_length=4, hash_rows={"user": 17}, min_count=5)
    assert_matches(dataset, reference)


def test_content_does_not_depend_on_sizes(tmp_path):
    rows = interactions()
    source = write_tsv(tmp_path / "in.tsv", rows)
    found = []
    for name, sizes in {"a": {}, "b": SMALL, "c": SMALL | {"chunk_bytes": 64, "user_shards": 2}}.items():
        section = {"path": str(tmp_path / name), "split": SPLITS["temporal"], "history_length": 3}
        run(source, section, **sizes)
        files = content_of_any_size(tmp_path / name)
        files["dataset.json"] = files["dataset.json"].replace(str(tmp_path / name).encode(), b"")
        found.append(files)
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 8


def test_rows_are_shuffled_over_and_inside_files(tmp_path):
    rows = interactions(2000, distinct_times=10**6)
    source = write_tsv(tmp_path / "in.tsv", rows)
    dataset = run(
        source, {"path": str(tmp_path / "out"), "split": SPLITS["temporal"], "num_shards": 4}, **SMALL
    )
    for info in dataset.splits["train"].files:
        times = [row["timestamp"] for row in read_rows(dataset, [info])]
        assert 0.15 < info.rows / dataset.splits["train"].rows < 0.35
        rising = sum(a < b for a, b in zip(times, times[1:], strict=False)) / len(times)
        assert 0.4 < rising < 0.6


def test_worker_processes_write_the_same_bytes(tmp_path):
    rows = interactions()
    source = write_tsv(tmp_path / "in.tsv", rows)
    found = []
    for flags in ([], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]):
        config = configure(
            source, {"path": str(tmp_path / "out"), "split": SPLITS["temporal"], "history_length": 3}
        )
        prepare(config.source, config.dataset, beam_options(None, flags), overwrite=True, **SMALL)
        found.append(content(tmp_path / "out"))
    assert found[0] == found[1]


def test_temporal_rows_of_one_instant_stay_together(tmp_path):
    rows = [row | {"item": f"i{row['row']}"} for row in interactions(distinct_times=1)]
    dataset = run(
        write_tsv(tmp_path / "in.tsv", rows), {"path": str(tmp_path / "out"), "split": SPLITS["temporal"]}
    )
    assert dataset.splits["train"].rows == len(rows)


def golden_source(directory) -> dict:
    """Interactions with features of every place, made of arithmetic, so that they are the same everywhere."""
    lines = ["user,item,label,time,weight,color,tags,price,device"]
    for n in range(1200):
        item, user = n * n * 7 % 61 % 37, n * 31 % 97
        tags = "|".join("abcdef"[: n * 5 % 4])
        price = "" if n % 7 == 3 else f"{n * 13 % 101 / 8}"
        color = ("red", "blue", "")[item % 3]
        lines.append(
            f"u{user},i{item},{n * 3 % 4},{1000 + n // 3},{n % 5 / 4},{color},{tags},{price},d{n % 9}"
        )
    (directory / "log.csv").write_text("\n".join(lines) + "\n")
    side = ["item,brand,stock", *(f"i{i},b{i % 7},{i * 1.5}" for i in range(45))]
    (directory / "side.csv").write_text("\n".join(side) + "\n")
    features = [
        {"name": "color", "of": "item", "kind": "categorical"},
        {"name": "tags", "of": "user", "kind": "list", "separator": "|"},
        {"name": "price", "of": "context", "kind": "numeric", "missing": 0},
        {"name": "device", "of": "context", "kind": "categorical"},
        {
            "name": "bucket",
            "column": "price",
            "of": "context",
            "kind": "numeric",
            "buckets": {"quantiles": 4},
        },
    ]
    side_features = [{"name": "brand", "kind": "categorical"}, {"name": "stock", "kind": "numeric"}]
    side = {"kind": "delimited", "paths": [str(directory / "side.csv")], "of": "item", "key": "item"}
    return {
        "kind": "delimited",
        "paths": [str(directory / "log.csv")],
        "roles": {"label": "label", "timestamp": "time", "weight": "weight"},
        "features": features,
        "sides": [side | {"features": side_features}],
    }


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({"split": {"kind": "temporal"}, "history_length": 5}, "bcc425b05e1a4d8e"),
        ({"split": {"kind": "leave_last_out"}, "user_ids": {"kind": "hash", "rows": 64}}, "dd77c695d3578159"),
        ({"split": {"kind": "random"}, "item_ids": {"min_count": 15}, "positive": 2}, "23f1d280db5a49e5"),
    ],
    ids=["temporal", "leave_last_out", "random"],
)
def test_content_is_that_of_earlier_versions(tmp_path, dataset, expected):
    """What is inside the files, and the statistics of features: other values would be another dataset."""
    found = run(golden_source(tmp_path), {"path": str(tmp_path / "out"), "num_shards": 2, **dataset})
    digest = hashlib.sha256()
    for info in found.record_files:
        with gzip.open(tmp_path / "out" / info.path) as file:  # other versions of zlib compress otherwise
            digest.update(file.read())
    for name, info in sorted(found.features.items()):
        facts = (name, info.mean, info.stddev, info.boundaries, info.coverage, info.values, info.oov_values)
        digest.update(repr(facts).encode())
    assert digest.hexdigest()[:16] == expected

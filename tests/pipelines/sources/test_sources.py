"""All kinds of sources read the same interactions alike; synthetic ones follow their model."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import DataError
from configs.planted.interactions import Planted, item_key, user_key
from configs.sections.source_kinds.synthetic import SyntheticSourceConfig
from pipelines.job import JobLayout
from pipelines.sources.reader import first_rows
from pipelines.sources.synthetic import Reader
from tests.support.prepared import Reference, assert_matches, read_rows, run
from tests.support.tf_examples import write_examples

ROLES = {"label": "rating", "timestamp": "ts", "weight": "w"}
FEATURES = [
    {"name": "country", "of": "user", "kind": "categorical"},
    {"name": "age", "of": "user", "kind": "numeric", "column": "years"},
    {"name": "genre", "of": "item", "kind": "categorical"},
    {"name": "place", "of": "item", "kind": "numeric"},
]
SMALL = {"chunk_bytes": 500, "chunk_rows": 37, "user_shards": 3, "key_shards": 2, "bucket_rows": 50}


def interactions(n=300) -> list[dict]:
    rng = np.random.default_rng(5)
    return [
        {
            "user": int(rng.integers(30)), "item": f"i{rng.integers(20)}",
            "rating": float(rng.integers(1, 6)),
            "ts": int(1_000_000 + rng.integers(10_000)), "w": float(rng.integers(3)), "extra": "x",
            "country": ["de", "fr", ""][rng.integers(3)], "years": int(rng.integers(90)),
            "genre": f"g{rng.integers(4)}", "place": float(rng.integers(50)) / 4,
        }
        for _ in range(n)
    ]  # fmt: skip


def write(kind, path, rows) -> dict:
    """Writes rows as a kind of source; returns what differs in the section."""
    names = list(rows[0])
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"kind": "jsonl", "paths": [str(path)]}
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=70)
        return {"kind": "parquet", "paths": [str(path)]}
    if kind == "tfrecord":
        return {"kind": "tfrecord", "paths": [write_examples(path, rows, "ZLIB")]}
    lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
    if kind == "gz":
        path = path.with_suffix(".gz")
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    elif kind == "crlf":
        path.write_bytes("\r\n".join(["\ufeff" + lines[0], *lines[1:]]).encode())
    elif kind == "quoted":
        path.write_text("\n".join('"' + line.replace(",", '","') + '"' for line in lines))
    elif kind == "files":
        for i, start in enumerate(range(0, len(rows), 90)):
            part = [lines[0], *lines[1 + start : 1 + start + 90]]
            path.with_suffix(f".{i}.csv").write_text("\n".join(part) + "\n" * (i % 2))
        return {"kind": "delimited", "paths": [str(path.with_suffix(".*.csv"))]}
    return {"kind": "delimited", "paths": [str(path)]}


@pytest.fixture(scope="module")
def expected_fingerprint(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain")
    (path / "x.csv").write_text("")
    section = write("jsonl", path / "x.csv", interactions()) | {"roles": ROLES, "features": FEATURES}
    dataset = {"path": str(path / "out"), "split": {"kind": "leave_last_out"}, "history_length": 2}
    return run(section, dataset).fingerprint


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "tfrecord", "gz", "crlf", "quoted", "files"])
def test_all_kinds_give_the_same_dataset(tmp_path, kind, expected_fingerprint):
    section = write(kind, tmp_path / "x", interactions()) | {"roles": ROLES, "features": FEATURES}
    dataset = {"path": str(tmp_path / "out"), "split": {"kind": "leave_last_out"}, "history_length": 2}
    assert run(section, dataset, **SMALL).fingerprint == expected_fingerprint


def test_features_weights_and_catalogs(tmp_path):
    rows = interactions()
    section = write("jsonl", tmp_path / "x", rows) | {"roles": ROLES, "features": FEATURES}
    dataset = run(section, {"path": str(tmp_path / "out"), "split": {"kind": "leave_last_out"}}, **SMALL)
    mapped = [
        row | {"user": str(row["user"]), "timestamp": row["ts"], "label": row["rating"], "row": i}
        for i, row in enumerate(rows)
    ]
    reference = Reference(mapped)
    assert_matches(dataset, reference)
    assert dataset.has_weight
    genres, countries = reference.ids("genre"), reference.ids("country")
    assert dataset.tables["genre"].rows == len(genres) + 1 and dataset.tables["country"].keys == 3
    found = [row for s in dataset.splits.values() for row in read_rows(dataset, s.files)]
    names = ["user", "item", "timestamp", "weight", "country", "age", "genre", "place"]
    expected = [
        (reference.user_ids[r["user"]], reference.item_ids[r["item"]], r["ts"] * 10**9, r["w"],
         countries[r["country"]], float(r["years"]), genres[r["genre"]], r["place"])
        for r in mapped
    ]  # fmt: skip
    assert sorted(tuple(row[n] for n in names) for row in found) == sorted(expected)
    train = read_rows(dataset, dataset.splits["train"].files)
    for name in ("age", "place"):
        values = np.array([row[name] for row in train])
        moments = dataset.features[name].mean, dataset.features[name].stddev
        np.testing.assert_allclose(moments, (values.mean(), values.std()), rtol=1e-6)
    newest = sorted(mapped, key=lambda r: (r["ts"], r["row"]))
    of_user, of_item = {r["user"]: r for r in newest}, {r["item"]: r for r in newest}
    country = {r["user"]: r["country"] for r in newest if r["country"]}  # an empty one is not known
    for row in read_rows(dataset, dataset.users.files):
        last = of_user[row["key"].decode()]
        assert (row["country"], row["age"]) == (countries[country[last["user"]]], last["years"])
    for row in read_rows(dataset, dataset.items.files):
        last = of_item[row["key"].decode()]
        assert (row["genre"], row["place"]) == (genres[last["genre"]], last["place"])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_row_order_is_time_without_a_timestamp(tmp_path, suffix):
    rows = [{"user": f"u{i % 7}", "item": f"i{i * i % 11}", "label": 1.0} for i in range(200)]
    for start in range(0, 200, 80):
        data = "".join(f"{r['user']} {r['item']}\n" for r in rows[start : start + 80]).encode()
        path = tmp_path / f"part-{start:03d}{suffix}"
        path.write_bytes(gzip.compress(data) if suffix else data)
    source = {"kind": "delimited", "paths": [str(tmp_path / "part-*")], "delimiter": " ", "header": False}
    section = {"path": str(tmp_path / "out"), "split": {"kind": "leave_last_out"}, "history_length": 5}
    dataset = run(source | {"columns": ["user", "item"]}, section, **(SMALL | {"chunk_bytes": 40}))
    assert_matches(
        dataset,
        Reference(
            [r | {"row": i, "timestamp": i} for i, r in enumerate(rows)],
            history_length=5,
            second=1,
            timed=False,
        ),
    )


def test_first_rows_and_lines():
    from pipelines.sources.reader import Range

    ranges = [
        Range(0, "a", 0, 9, True),
        Range(1, "a", 9, 20),
        Range(2, "b", 0, 9, True),
        Range(3, "b", 9, 20),
    ]
    assert first_rows(ranges, {0: 3, 1: 2, 2: 1, 3: 4}) == {
        0: (0, 1, 3),
        1: (2, 4, 2),
        2: (4, 1, 1),
        3: (4, 2, 4),
    }


def test_parquet_schema_is_checked_first(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"user": [1.5], "item": ["a"]}), path)
    with pytest.raises(DataError, match="column 'user' is double; a key must be text, an integer"):
        run({"kind": "parquet", "paths": [str(path)]}, {"path": str(tmp_path / "out")})
    with pytest.raises(DataError, match="no column 'rating'; the file has: user, item"):
        run(
            {"kind": "parquet", "paths": [str(path)], "roles": {"label": "rating"}},
            {"path": str(tmp_path / "out")},
        )


def test_synthetic_keys_and_distribution():
    source = SyntheticSourceConfig(kind="synthetic", rows=200_000, users=3, items=20, clusters=4, seed=7)
    reader = Reader(source, JobLayout("", "", chunk_rows=1000))
    reader.setup()
    planted = Planted(source)
    users, items, _ = planted.rows(5000, 6000)
    piece = next(reader.read(reader.ranges()[5], 5000, 5001))
    assert [key.encode() for key in piece.columns["user"].to_pylist()] == user_key(users).tolist()
    assert [key.encode() for key in piece.columns["item"].to_pylist()] == item_key(items).tolist()
    users, items, _ = planted.rows(0, source.rows)
    for user in range(3):
        own = items[users == user]
        expected = np.exp(planted.scores(np.array([user]), np.arange(20)))[0]
        np.testing.assert_allclose(expected.sum(), 1)
        error = np.abs(np.bincount(own, minlength=20) / len(own) - expected)
        assert (error < 5 * np.sqrt(expected / len(own)) + 1e-6).all()

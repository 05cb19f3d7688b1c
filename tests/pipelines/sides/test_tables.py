"""Side tables: what their rows become in catalogs, files of vectors and counts, against plain Python."""

import collections
import json
import math
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import tensorflow as tf

from pipelines.prepare import prepare
from pipelines.runners.options import beam_options
from tests.support.prepared import configure, content_of_any_size, read_file, run
from tests.support.tf_examples import write_examples

pytestmark = pytest.mark.any_python

SMALL = {"chunk_bytes": 300, "chunk_rows": 7, "user_shards": 3, "key_shards": 3}
FEATURES = [
    {"name": "genre", "kind": "categorical"},
    {"name": "brand", "kind": "categorical"},
    {"name": "both", "kind": "cross", "keys": ["genre", "brand"], "rows": 97},
    {"name": "year", "kind": "numeric"},
    {"name": "price", "kind": "numeric", "missing": 3.0},
    {"name": "tags", "kind": "list", "weights": "tag_weights", "max_length": 3},
    {"name": "more_tags", "kind": "list", "table": "tags", "column": "tags"},
    {"name": "emb", "kind": "vector", "dim": 3, "normalize": True},
]


def interactions(n=300, seed=1) -> list[dict]:
    rng = random.Random(seed)
    return [
        {"user": f"u{int(25 * rng.random() ** 2)}", "item": str(int(40 * rng.random() ** 2)), "time": i}
        for i in range(n)
    ]


def items(seed=2) -> list[dict]:
    """Rows of 45 items, of which some have no interactions; some items of the interactions have no row."""
    rng, rows = random.Random(seed), []
    for i in range(50):
        if i % 8 == 5:
            continue
        tags = rng.sample("vwxyz", rng.randrange(6))
        rows.append(
            {
                "key": str(i),
                "genre": rng.choice(["a", "b", "ü", None]),
                "brand": rng.choice(["x", "y"]),
                "year": rng.choice([None, 1990.0 + i]),
                "price": rng.choice([None, i / 4]),
                "tags": tags or None,
                "tag_weights": [float(rng.randrange(4)) for _ in tags] or None,
                "emb": None if i % 9 == 0 else [float(i), 1.0, -2.0],
            }
        )
    return rows


def write_rows(path, rows) -> dict:
    path.write_text("user,item,time\n" + "".join(f"{r['user']},{r['item']},{r['time']}\n" for r in rows))
    return {"kind": "delimited", "paths": [str(path)], "roles": {"timestamp": "time"}}


def write_side(directory, kind: str, rows: list[dict], **options) -> dict:
    """Writes a side table of items in two files; returns its section."""
    names, paths = list(rows[0]), []
    for number, part in enumerate((rows[::2], rows[1::2])):
        path = directory / f"items{number}.{kind}"
        if kind == "parquet":
            parquet.write_table(pa.Table.from_pylist(part), path, row_group_size=8)
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in part))
        elif kind == "tfrecord":
            write_examples(path, part, "GZIP" if number else "")
        else:
            path.write_text(";".join(names) + "\n" + "".join(cells(row.values()) + "\n" for row in part))
        paths.append(str(path))
    separate = {"separator": "|"} if kind == "delimited" else {}
    features = [f | separate if f["kind"] in ("list", "vector") else f for f in FEATURES]
    delimiter = {"delimiter": ";"} if kind == "delimited" else {}
    section = {"kind": kind, "of": "item", "key": "key", "paths": paths, "features": features}
    return section | delimiter | options


def cells(values) -> str:
    texts = ("|".join(map(str, v)) if isinstance(v, list) else "" if v is None else str(v) for v in values)
    return ";".join(texts)


def catalog(dataset, files) -> list[dict]:
    """Rows of a catalog; lists cut by their lengths."""
    rows = []
    for info in files:
        for block in read_file(f"{dataset.dataset['path']}/{info.path}"):
            columns = dict(block)
            for name in [n for n in block if f"{n}/length" in block] + [n for n in block if "/weight" in n]:
                values = iter(block[name])
                lengths = block[f"{name.removesuffix('/weight')}/length"]
                columns[name] = [[next(values) for _ in range(n)] for n in lengths]
            for name in ("sequence", "sequence_split"):
                if name in columns:
                    values = iter(block[name])
                    columns[name] = [[next(values) for _ in range(n)] for n in block["sequence_length"]]
            rows += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return rows


def vectors(dataset, name: str) -> np.ndarray:
    info = dataset.features[name]
    data = b"".join(open(f"{dataset.dataset['path']}/{f.path}", "rb").read() for f in info.files)
    return np.frombuffer(data, "<f4").reshape(-1, info.dim)


def vocabulary(dataset, table: str) -> dict[bytes, tuple[int, int]]:
    return {r["key"]: (r["id"], r["count"]) for r in catalog(dataset, dataset.tables[table].files)}


def expected_ids(counts: collections.Counter, least: int = 1) -> dict[str, int]:
    known = sorted((k for k in counts if counts[k] >= least), key=lambda k: (-counts[k], k.encode()))
    return {key: i for i, key in enumerate(known)}


def check_items(dataset, rows, side, min_count=1) -> None:
    """The catalog of items with exact ids, its vectors and vocabularies."""
    by_key = {row["key"]: row for row in side}
    train = [row for row in rows if row["time"] * 10**9 < dataset.splits["valid"].min_timestamp]
    counts = collections.Counter(row["item"] for row in train)
    trained = [by_key[key] for key in counts if key in by_key]
    genres = expected_ids(collections.Counter(row["genre"] or "" for row in trained), min_count)
    tags = collections.Counter(tag for row in trained for tag in (row["tags"] or [])[:3])
    tags.update(tag for row in trained for tag in row["tags"] or [])
    tags = expected_ids(tags)
    found = catalog(dataset, dataset.items.files)
    known = sorted(counts, key=lambda k: (-counts[k], k.encode()))
    others = sorted({*by_key, *(row["item"] for row in rows)} - set(known), key=str.encode)
    assert [row["key"].decode() for row in found] == [*known, *others]
    oov = len(known)
    assert [row["id"] for row in found] == [*range(oov), *range(oov + 1, oov + 1 + len(others))]
    assert dataset.tables["item"].catalog_rows == oov + 1 + len(others)
    matrix = vectors(dataset, "emb")
    assert matrix.shape == (oov + 1 + len(others), 3) and not matrix[oov].any()
    for row in found:
        own = by_key.get(row["key"].decode(), {})
        assert row["count"] == counts[row["key"].decode()]
        genre = own.get("genre") or ""
        assert row["genre"] == genres.get(genre, len(genres))
        crossed = "\x01".join([genre, own.get("brand") or ""])
        assert row["both"] == int(tf.strings.to_hash_bucket_fast(crossed, 97))
        year = own.get("year")
        assert math.isnan(row["year"]) if year is None else row["year"] == year
        price = own.get("price")
        assert row["price"] == (3.0 if price is None else price)
        mine = own.get("tags") or []
        assert row["tags"] == [tags.get(tag, len(tags)) for tag in mine[:3]]
        assert row["tags/weight"] == (own.get("tag_weights") or [])[:3]
        assert row["more_tags"] == [tags.get(tag, len(tags)) for tag in mine]
        vector = np.array(own.get("emb") or [0.0, 0.0, 0.0])
        np.testing.assert_allclose(matrix[row["id"]], vector / (np.linalg.norm(vector) or 1), rtol=1e-6)
    years = [row["year"] for row in trained if row["year"] is not None]
    assert dataset.features["year"].mean == pytest.approx(np.mean(years), rel=1e-6)
    assert dataset.features["year"].stddev == pytest.approx(np.std(years), rel=1e-6)
    assert {key.decode(): i for key, (i, _) in vocabulary(dataset, "genre").items()} == genres
    met = {row["item"] for row in rows}
    [info] = dataset.sides
    assert (info.of, info.rows, info.matched) == ("item", len(side), len(met & set(by_key)))
    assert (info.alone, info.missing) == (len(set(by_key) - met), len(met - set(by_key)))
    for name in ("genre", "year", "emb"):
        assert dataset.features[name].coverage == sum(row[name] is not None for row in side)


@pytest.mark.parametrize("kind", ["delimited", "jsonl", "parquet", "tfrecord"])
def test_items_get_the_values_of_their_rows(tmp_path, kind):
    rows, side = interactions(), items()
    source = write_rows(tmp_path / "in.csv", rows) | {"sides": [write_side(tmp_path, kind, side)]}
    section = {"path": str(tmp_path / "out"), "feature_ids": {"genre": {"min_count": 9}}}
    dataset = run(source, section, side_shards=(4,), **SMALL)
    check_items(dataset, rows, side, min_count=9)
    for info in dataset.splits.values():
        for file in info.files:
            for block in read_file(f"{tmp_path}/out/{file.path}"):
                assert not set(block) & {feature["name"] for feature in FEATURES}, "not repeated in records"


def test_content_does_not_depend_on_sizes(tmp_path):
    source = write_rows(tmp_path / "in.csv", interactions())
    source |= {"sides": [write_side(tmp_path, "delimited", items())]}
    found = []
    for sizes in ({}, SMALL | {"side_shards": (5,)}, {"side_shards": (2,), "chunk_bytes": 64}):
        run(source, {"path": str(tmp_path / "out")}, **sizes)
        found.append(content_of_any_size(tmp_path / "out"))
    assert found[0] == found[1] == found[2]


def test_features_of_both_kinds_and_several_tables(tmp_path):
    """Users that occur only in their table have empty values of what interactions say, and the reverse."""
    (tmp_path / "in.csv").write_text(
        "user,item,time,device\n" + "".join(f"{i % 3},i{i % 4},{i},d{i % 2}\n" for i in range(40))
    )
    (tmp_path / "users.csv").write_text("id,age,city\n1.0,30,Rome\n 2 ,,Oslo\n9,40,Rome\n")
    (tmp_path / "more.jsonl").write_text('{"u": 9, "vip": "yes"}\n{"u": "0", "vip": "no"}\n')
    source = {
        "kind": "delimited", "paths": [str(tmp_path / "in.csv")], "roles": {"timestamp": "time"},
        "features": [{"name": "device", "of": "user", "kind": "categorical"}],
        "sides": [
            {"kind": "delimited", "of": "user", "key": "id", "paths": [str(tmp_path / "users.csv")],
             "features": [{"name": "age", "kind": "numeric"}, {"name": "city", "kind": "categorical"}]},
            {"kind": "jsonl", "of": "user", "key": "u", "paths": [str(tmp_path / "more.jsonl")],
             "features": [{"name": "vip", "kind": "categorical"}]},
        ],
    }  # fmt: skip
    dataset = run(source, {"path": str(tmp_path / "out")}, side_shards=(3, 2), **SMALL)
    found = {row["key"]: row for row in catalog(dataset, dataset.users.files)}
    cities, vips, devices = (
        {i: key for key, (i, _) in vocabulary(dataset, name).items()} for name in ("city", "vip", "device")
    )
    assert list(found) == [b"0", b"1", b"2", b"9"]
    assert [cities.get(row["city"]) for row in found.values()] == [None, b"Rome", b"Oslo", b"Rome"]
    assert [vips.get(row["vip"]) for row in found.values()] == [b"no", None, None, None]
    assert [devices.get(row["device"]) is not None for row in found.values()] == [True, True, True, False]
    assert [row["age"] for row in found.values()][1::2] == [30.0, 40.0]
    assert found[b"9"]["sequence"] == [] and found[b"9"]["count"] == 0
    facts = [(info.rows, info.matched, info.alone, info.missing) for info in dataset.sides]
    assert facts == [(3, 2, 1, 1), (2, 1, 1, 2)]
    assert dataset.notes["integer_as_float_user"] == 1 and dataset.notes["outer_blanks_user"] == 1


def test_hashed_items_take_the_row_of_their_most_frequent_key(tmp_path):
    rows, side = interactions(), items()
    source = write_rows(tmp_path / "in.csv", rows) | {"sides": [write_side(tmp_path, "jsonl", side)]}
    section = {"path": str(tmp_path / "out"), "item_ids": {"kind": "hash", "rows": 20}}
    dataset = run(source, section, side_shards=(3,), **SMALL)
    counts = collections.Counter(
        row["item"] for row in rows if row["time"] * 10**9 < dataset.splits["valid"].min_timestamp
    )
    best = {}
    for row in side:
        i = int(tf.strings.to_hash_bucket_fast(row["key"], 20))
        if i not in best or (-counts[row["key"]], row["key"]) < (-counts[best[i]["key"]], best[i]["key"]):
            best[i] = row
    found = {row["id"]: row for row in catalog(dataset, dataset.items.files)}
    assert dataset.tables["item"].catalog_rows == 20 and vectors(dataset, "emb").shape == (20, 3)
    for i, row in best.items():
        assert found[i]["price"] == (3.0 if row["price"] is None else row["price"])
    met, keys = {row["item"] for row in rows}, {row["key"] for row in side}
    [info] = dataset.sides
    assert (info.matched, info.alone, info.missing) == (len(met & keys), len(keys - met), len(met - keys))


@pytest.mark.slow
def test_worker_processes_write_the_same_bytes(tmp_path):
    source = write_rows(tmp_path / "in.csv", interactions())
    source |= {"sides": [write_side(tmp_path, "parquet", items())]}
    found = []
    for flags in ([], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]):
        config = configure(source, {"path": str(tmp_path / "out")})
        sizes = SMALL | {"side_shards": (3,)}
        prepare(config.source, config.dataset, beam_options(None, flags), overwrite=True, **sizes)
        found.append(content_of_any_size(tmp_path / "out"))
    assert found[0] == found[1]

"""Parquet columns of every type: what each means as a key, a number and a time, or why it is refused."""

import datetime
import decimal
import re
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import DataError
from configs.sections.sources import ParquetSourceConfig
from pipelines.job import JobLayout
from pipelines.sources.parquet import Reader
from tests.support.prepared import read_rejected, read_rows, run

DAY = datetime.date(2024, 5, 1)
MOMENT = datetime.datetime(2024, 5, 1, 12, 30)
UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
EPOCH = 1_714_566_600  # MOMENT, UTC


def D(text):
    return decimal.Decimal(text)


def write(path, **columns) -> str:
    parquet.write_table(pa.table(columns), path)
    return str(path)


def read(path, kind: str, values: pa.Array) -> pa.Array:
    """A column as the reader hands it on."""
    role = {"key": "user", "number": "label", "time": "timestamp", "split": "split"}.get(kind, "c")
    columns = {name: pa.array([str(i) for i in range(len(values))]) for name in ("user", "item")}
    keys = {"roles": {role: "c"}}
    if kind in ("keys", "numbers"):  # numbers are the weights of a list
        feature = {"name": "c", "of": "item", "kind": "list"}
        keys = {"features": [feature if kind == "keys" else feature | {"name": "t", "weights": "c"}]}
        columns["t"] = pa.array([["a"]] * len(values))
        role = "c" if kind == "keys" else "t/weight"
    source = ParquetSourceConfig(
        kind="parquet", paths=[write(path / "x.parquet", **columns, c=values)], **keys
    )
    reader = Reader(source, JobLayout("", ""))
    piece = next(reader.read(reader.ranges()[0], 0, 1))
    found = piece.columns["_split" if kind == "split" else role]
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found


KEYS = {
    "text": (pa.array(["a", None]), ["a", None]),
    "large": (pa.array(["a", None], pa.large_string()), ["a", None]),
    "view": (pa.array(["a", None], pa.string_view()), ["a", None]),
    "bytes": (pa.array([b"a", None]), [b"a", None]),
    "bytes_view": (pa.array([b"a", None], pa.binary_view()), [b"a", None]),
    "dictionary": (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    "dictionary_int": (pa.array([7, None, 7]).dictionary_encode(), [7, None, 7]),
    "uint64": (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
    "decimal": (pa.array([D(10) ** 37, None], pa.decimal128(38, 0)), ["1" + "0" * 37, None]),
    "decimal256": (pa.array([D(10) ** 60, D(-5)], pa.decimal256(76, 0)), ["1" + "0" * 60, "-5"]),
    "boolean": (pa.array([True, False, None]), ["true", "false", None]),
    "date": (pa.array([DAY, None]), ["2024-05-01", None]),
    "uuid": (pa.array([UUID.bytes, None], pa.uuid()), [str(UUID), None]),
    "null": (pa.nulls(2), [None, None]),
}
NUMBERS = {
    "boolean": (pa.array([True, None]), [1, None]),
    "decimal": (pa.array([D("1.25"), None], pa.decimal128(10, 2)), [1.25, None]),
    "float16": (pa.array(np.array([1.5], np.float16)), [1.5]),
    "view": (pa.array(["1.5", None], pa.string_view()), ["1.5", None]),
    "null": (pa.nulls(1), [None]),
    "broken_text": (pa.array([b"\xff", b"2"]), [None, "2"]),
}
TIMES = {
    "decimal": (pa.array([D(EPOCH)], pa.decimal128(20, 0)), [EPOCH]),
    "uint64": (pa.array([EPOCH], pa.uint64()), [EPOCH]),
    "null": (pa.nulls(1), [None]),
}
LISTS = {
    "list": (pa.array([["a", None], None, [], ["b"]]), [["a", None], [], [], ["b"]]),
    "large": (pa.array([["a"], None], pa.large_list(pa.large_string())), [["a"], []]),
    "fixed": (pa.array([["a", "b"], ["c", None]], pa.list_(pa.string(), 2)), [["a", "b"], ["c", None]]),
    "integers": (pa.array([[1, None], [2]]), [[1, None], [2]]),
    "decimals": (pa.array([[D(7)]], pa.list_(pa.decimal128(38, 0))), [["7"]]),
    "dates": (pa.array([[DAY]]), [["2024-05-01"]]),
    "dictionary": (
        pa.ListArray.from_arrays(pa.array([0, 2]), pa.array(["a", "a"]).dictionary_encode()),
        [["a", "a"]],
    ),
    "nulls": (pa.array([[None]], pa.list_(pa.null())), [[None]]),
    "null": (pa.nulls(2), [None, None]),
}
WEIGHTS = {
    "floats": (pa.array([[1.5, None], None], pa.list_(pa.float32())), [[1.5, None], []]),
    "decimals": (pa.array([[D("1.25")]], pa.list_(pa.decimal128(10, 2))), [[1.25]]),
    "text": (pa.array([["1.5", "x"]]), [["1.5", "x"]]),
}


@pytest.mark.parametrize("kind, name", [
    *(("keys", name) for name in LISTS), *(("numbers", name) for name in WEIGHTS),
])  # fmt: skip
def test_what_a_column_of_lists_means(tmp_path, kind, name):
    values, expected = {"keys": LISTS, "numbers": WEIGHTS}[kind][name]
    assert read(tmp_path, kind, values).to_pylist() == expected


@pytest.mark.parametrize("kind, name", [
    *(("key", name) for name in KEYS), *(("number", name) for name in NUMBERS), *(("time", n) for n in TIMES),
])  # fmt: skip
def test_what_a_column_means(tmp_path, kind, name):
    values, expected = {"key": KEYS, "number": NUMBERS, "time": TIMES}[kind][name]
    assert read(tmp_path, kind, values).to_pylist() == expected


@pytest.mark.parametrize("zone, seconds", [(None, EPOCH), ("UTC", EPOCH), ("Asia/Tokyo", EPOCH)])
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_timestamps_are_instants(tmp_path, zone, seconds, unit):
    values = pa.array([EPOCH], pa.timestamp("s")).cast(pa.timestamp(unit)).cast(pa.int64())
    found = read(tmp_path, "time", values.cast(pa.timestamp(unit, zone)))
    assert pa.types.is_timestamp(found.type)
    assert found.cast(pa.timestamp("s", found.type.tz)).cast(pa.int64()).to_pylist() == [seconds]


REFUSED = [
    ("key", pa.array([1.5]), "is double; a key must be text, an integer, .*: write the column as integers"),
    ("key", pa.array([1.5], pa.float32()), "is float; .*Int64"),
    ("key", pa.array([D("1.5")]), r"is decimal128\(2, 1\); .*without fraction digits"),
    ("key", pa.array([MOMENT]), "is timestamp.*: write the column as text"),
    ("key", pa.array([["a"]]), "is list<.*: write one value per row"),
    ("key", pa.array([{"id": 1, "x": 2}]), r"is struct<.*: write the field you need .*\(id, x\)"),
    ("key", pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "is map<.*: write one value per row"),
    ("key", pa.array([b"ab"], pa.binary(2)), "is fixed_size_binary.*: write the column as text"),
    ("key", pa.array([1], pa.duration("s")), "is duration.*: write the column as text"),
    ("number", pa.array([DAY]), "is date32.*: write the column as a number"),
    ("number", pa.array([MOMENT]), "is timestamp.*: write the column as a number"),
    ("number", pa.array([[1.0]]), "is list<.*: write one value per row"),
    (
        "time",
        pa.array([1], pa.duration("s")),
        "is duration.*not a point in time; write a timestamp",
    ),
    ("time", pa.array([1], pa.time64("us")), r"is time64\[us\].*not a point in time"),
    ("time", pa.array([True]), "is bool; .*not a point in time"),
    ("key", pa.array([["a"]]), "is list<.*: write one value per row, or declare the feature as kind: list"),
    (
        "keys",
        pa.array(["a|b"]),
        "is string; a list is needed: write a list column, or declare the feature as",
    ),
    (
        "keys",
        pa.array([[1.5]]),
        "is double; a key must be text, an integer, .*: write the column as integers",
    ),
    ("keys", pa.array([[["a"]]]), "is list<.*: write one value per row"),
    ("keys", pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "is map<.*; a list is needed"),
    ("numbers", pa.array([1.5]), "is double; a list is needed"),
    ("numbers", pa.array([[DAY]]), "is date32.*; must be a number"),
    ("split", pa.array([1]), "is int64; must be text: write the column as text"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_has_no_meaning_is_one_line(tmp_path, case):
    kind, values, message = REFUSED[case]
    with pytest.raises(DataError, match=f"x.parquet: column 'c' {message}") as caught:
        read(tmp_path, kind, values)
    assert "\n" not in str(caught.value)


def test_columns_by_name(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["user", "item", "user"])
    parquet.write_table(table, tmp_path / "x.parquet")
    source = {"kind": "parquet", "paths": [str(tmp_path / "x.parquet")]}
    with pytest.raises(DataError, match="duplicate column 'user' in: user, item, user; rename one"):
        run(source, {"path": str(tmp_path / "out")})
    with pytest.raises(DataError, match="no column 'u', 'i'; the file has: user, item, user"):
        run(source | {"roles": {"user": "u", "item": "i"}}, {"path": str(tmp_path / "out")})
    # An unused column may occur twice, and a name with a dot is not a path into another column.
    columns = {"a": pa.array([{"b": 1}]), "a.b": pa.array(["x"]), "item": pa.array(["y"])}
    parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    dataset = run(source | {"roles": {"user": "a.b"}}, {"path": str(tmp_path / "out")})
    assert [row["key"] for row in read_rows(dataset, dataset.users.files)] == [b"x"]


def test_parts_of_different_types_are_one_source(tmp_path):
    """A key is the same as text, integer or decimal; an optional column may hold no value in a part."""
    ids = [pa.array(["1", "2"]), pa.array([1, 2]), pa.array([D(1), D(2)], pa.decimal128(38, 0))]
    ids.append(pa.array([1, 2]).dictionary_encode())
    prices = [pa.array(["1.5", None]), pa.nulls(2), pa.array([1.5, None]), pa.array([D("1.5"), None])]
    for i, (key, price) in enumerate(zip(ids, prices, strict=True)):
        write(tmp_path / f"{i}.parquet", user=key, item=pa.array(["x", "y"]), price=price)
    feature = {"name": "price", "of": "user", "kind": "numeric", "missing": 0}
    source = {"kind": "parquet", "paths": [str(tmp_path / "*.parquet")], "features": [feature]}
    dataset = run(source, {"path": str(tmp_path / "out"), "split": {"kind": "random"}})
    assert dataset.source_rows == 8 and not dataset.rejected
    assert {row["key"] for row in read_rows(dataset, dataset.users.files)} == {b"1", b"2"}


def test_refused_rows_are_shown_whatever_they_hold(tmp_path):
    """Broken text, nanoseconds and years that Python has no datetime for."""
    path = tmp_path / "x.parquet"
    broken = pa.array([b"u\xff", b"u", b"", b"v"]).view(pa.binary())
    text = pa.StringArray.from_buffers(4, *broken.buffers()[1:])
    times = pa.array([1, 10**18 + 1, 5, -(2**62)], pa.timestamp("ns"))
    write(path, user=text, item=pa.array(["x"] * 4), t=times)
    source = {
        "kind": "parquet", "paths": [str(path)], "roles": {"timestamp": "t"}, "max_rejected_fraction": 1,
    }  # fmt: skip
    dataset = run(source, {"path": str(tmp_path / "out"), "split": {"kind": "random"}})
    found = {row["line"]: row["reason"] for row in read_rejected(dataset)}
    assert found == {1: "not_utf8", 3: "missing_user", 4: "timestamp_out_of_range"}


@pytest.mark.parametrize("data, message", [
    (b"", "the file is empty"),
    (b"\x1f\x8b\x08" + bytes(300), "it is compressed with gzip; decompress it"),
    (b"PARE", "it contains encrypted Parquet; decrypt it first"),
    (b"ORC", "it contains ORC; convert it to Parquet"),
    (b"user,item\n1,2\n", "it contains unknown data, beginning with b'user,item.*; check source.kind"),
    (b"PAR1" + bytes(40) + b"PAR1", "incomplete or broken Parquet file .*; write it again"),
])  # fmt: skip
def test_other_files_than_parquet(tmp_path, data, message):
    path = tmp_path / "x.parquet"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"x.parquet: .*{message}") as caught:
        run({"kind": "parquet", "paths": [str(path)]}, {"path": str(tmp_path / "out")})
    assert "\n" not in str(caught.value)


def test_a_broken_page_is_one_line(tmp_path):
    path = tmp_path / "x.parquet"
    columns = {name: pa.array([f"{name}{i}" for i in range(2000)]) for name in ("user", "item")}
    parquet.write_table(pa.table(columns), path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[200:900] = bytes(700)
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=f"{re.escape(str(path))}: incomplete or broken Parquet file"
    ) as caught:
        run({"kind": "parquet", "paths": [str(path)]}, {"path": str(tmp_path / "out")})
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()

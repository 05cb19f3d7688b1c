"""Side tables: rows that are refused, rejected or repeated, and files that changed."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import DataError
from pipelines.prepare import prepare
from tests.pipelines.sides.test_tables import catalog, vectors
from tests.support.prepared import configure, run

pytestmark = pytest.mark.any_python


def small(tmp_path, text: str, feature: dict, kind="delimited", **options) -> dict:
    """A source of 20 rows with a side table of items."""
    (tmp_path / "in.csv").write_text("user,item\n" + "".join(f"u{i % 3},i{i % 4}\n" for i in range(20)))
    (tmp_path / f"side.{kind}").write_text(text)
    side = {"kind": kind, "of": "item", "key": "id", "paths": [str(tmp_path / f"side.{kind}")]}
    side |= {"features": [{"name": "a", **feature}], **options}
    return {"kind": "delimited", "paths": [str(tmp_path / "in.csv")], "sides": [side]}


NUMBER, KEY = {"kind": "numeric"}, {"kind": "categorical"}
LIST = {"kind": "list"}
VECTOR = {"kind": "vector", "dim": 2}
FAULTS = [
    ("id,b\ni0,1\n", KEY, "delimited", "side.delimited: no column 'a'; the header has: id, b"),
    ("key,a\ni0,1\n", KEY, "delimited", "side.delimited: no column 'id'; the header has: key, a"),
    ('{"key": 1, "a": 1}\n', KEY, "jsonl", "no column 'id'; the first object has: key, a"),
    ('{"id": 1, "b": 1}\n', KEY, "jsonl", "no object has a value of 'a', which feature 'a' reads; correct"),
    ("id,a\ni0,1\ni1,x\n", NUMBER, "delimited", "side.delimited:3: bad_a: 'i1,x'; it must be a number"),
    ("id,a\ni0,inf\n", NUMBER, "delimited", "2: not_finite_a: 'i0,inf'; write a finite number"),
    ("id,a\n,1\n", NUMBER, "delimited", "side.delimited:2: missing_item: ',1'"),
    ("id,a\ni0,1|2|3\n", VECTOR | {"separator": "|"}, "delimited",
     "side.delimited:2: wrong_width_a: 'i0,1|2|3'; the feature's dim is 2: correct it"),
    ("id,a\ni0,1|x\n", VECTOR | {"separator": "|"}, "delimited", "side.delimited:2: bad_a: 'i0,1|x'"),
    ('{"id": 1, "a": [1, 2, 3]}\n', VECTOR, "jsonl", "side.jsonl:1: wrong_width_a: "),
    ('{"id": 1, "a": 7}\n', VECTOR, "jsonl", "side.jsonl:1: wrong_type_a: "),
    ('{"id": 1, "a": 7}\n', LIST, "jsonl", "side.jsonl:1: wrong_type_a: "),
    ('{"id": 1, "a": [7]}\n', KEY, "jsonl", "side.jsonl:1: wrong_type_a: "),
    ('{"id": 1, "a": [7]}\n', NUMBER, "jsonl", "side.jsonl:1: wrong_type_a: "),
    ("id,a\ni0,1\ni1,1\ni0,2\n", NUMBER, "delimited",
     "side.delimited:4: item 'i0' has another 'a' than in "),
    ("id,a\ni0,1\n", NUMBER | {"column": "b"}, "delimited", "side.delimited: no column 'b'"),
    ("id,a\n", NUMBER, "delimited", "no rows are left after validation"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("text, feature, kind, message", FAULTS)
def test_faults_are_one_line_with_file_and_fix(tmp_path, text, feature, kind, message):
    with pytest.raises(DataError) as caught:
        run(small(tmp_path, text, feature, kind), {"path": str(tmp_path / "out")})
    found = str(caught.value)
    assert message in found and "\n" not in found and "; " in found
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "values, feature, message",
    [
        (pa.array([[1.0]]), NUMBER, "column 'a' is list<element: double>"),
        (pa.array([1.0]), VECTOR, "column 'a' is double; a list is needed"),
        (pa.array([["1", "x"]]), VECTOR, "bad_a"),
        (pa.array([1.0]), KEY, "a key must be text"),
    ],
)
def test_parquet_types_that_do_not_fit(tmp_path, values, feature, message):
    source = small(tmp_path, "", feature, "parquet")
    parquet.write_table(pa.table({"id": ["i0"], "a": values}), tmp_path / "side.parquet")
    with pytest.raises(DataError) as caught:
        run(source, {"path": str(tmp_path / "out")})
    assert message in str(caught.value) and "side.parquet" in str(caught.value)


def test_missing_files_name_the_side_table(tmp_path):
    source = small(tmp_path, "id,a\ni0,1\n", NUMBER)
    os.remove(tmp_path / "side.delimited")
    with pytest.raises(DataError, match="side.delimited: no such file; check source.sides.paths"):
        run(source, {"path": str(tmp_path / "out")})


def test_rejected_rows_are_counted_and_kept(tmp_path):
    text = "id,a\n" + "".join(f"i{i},{i}\n" for i in range(3)) + "i3,x\n"
    dataset = run(small(tmp_path, text, NUMBER, max_rejected_fraction=0.5), {"path": str(tmp_path / "out")})
    [info] = dataset.sides
    assert (info.rows, info.rejected, info.matched, info.missing) == (4, {"bad_a": 1}, 3, 1)
    assert dataset.rejected == {}
    [name] = os.listdir(tmp_path / "out" / "rejected")
    line = json.loads((tmp_path / "out" / "rejected" / name).read_text())
    assert (line["reason"], line["line"], line["text"]) == ("bad_a", 5, "i3,x")


@pytest.mark.parametrize(
    "orders, expected",
    [
        (["1", "3", "2"], 1.0),
        (["10", "9", "2"], 0.0),
        (["2024-01-02", "2024-01-01T05:00:00Z", "2023-12-31"], 0.0),
        (["7", "7", "7"], 2.0),
        (["1.5", "1.25", "-3"], 0.0),
        (["9007199254740993", "9007199254740992", "9007199254740992"], 0.0),
    ],
)
def test_the_newest_row_of_a_key(tmp_path, orders, expected):
    text = "id,a,at\n" + "".join(f"i0,{i},{at}\n" for i, at in enumerate(orders))
    source = small(tmp_path, text, NUMBER, keep="newest", order_by="at")
    dataset = run(source, {"path": str(tmp_path / "out")})
    found = {row["key"]: row["a"] for row in catalog(dataset, dataset.items.files)}
    assert found[b"i0"] == expected and dataset.sides[0].duplicates == 2


def test_what_order_by_cannot_be(tmp_path):
    for at, message in (("2024-01-02", "'at' has both numbers and times"), ("soon", "bad_order_by")):
        source = small(tmp_path, f"id,a,at\ni0,1,5\ni0,2,{at}\n", NUMBER, keep="newest", order_by="at")
        with pytest.raises(DataError, match=message):
            run(source, {"path": str(tmp_path / "out")})


def test_equal_rows_of_a_key_are_one(tmp_path, caplog):
    caplog.set_level("INFO")
    text = "id,a\ni0,1\ni0,1.0\n00,2\ni1,\ni1,\n"
    dataset = run(small(tmp_path, text, NUMBER), {"path": str(tmp_path / "out")})
    [info] = dataset.sides
    assert (info.rows, info.duplicates, info.matched, info.alone, info.missing) == (5, 2, 2, 1, 2)
    assert (
        "side.delimited: 5 rows; 2 of 4 items of the interactions have one, 2 do not, 1 occur only there"
        in caplog.text
    )


def test_an_edited_side_table_is_another_dataset(tmp_path, caplog):
    caplog.set_level("INFO")
    source = small(tmp_path, "id,a\ni0,1\n", NUMBER)
    config = configure(source, {"path": str(tmp_path / "out")})
    first = prepare(config.source, config.dataset)
    assert [os.path.basename(f.path) for f in first.source_files] == ["in.csv", "side.delimited"]
    prepare(config.source, config.dataset)
    assert "already prepared" in caplog.text
    (tmp_path / "side.delimited").write_text("id,a\ni0,2\n")
    with pytest.raises(DataError, match="other content of .*side.delimited, which has changed since"):
        prepare(config.source, config.dataset)
    again = prepare(config.source, config.dataset, overwrite=True)
    assert again.fingerprint != first.fingerprint


def test_damaged_vectors_are_written_again(tmp_path, caplog):
    source = small(tmp_path, "id,a\ni0,1|2\n", VECTOR | {"separator": "|"})
    config = configure(source, {"path": str(tmp_path / "out")})
    first = prepare(config.source, config.dataset)
    path = tmp_path / "out" / first.features["a"].files[0].path
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    prepare(config.source, config.dataset)
    assert "damaged" in caplog.text and path.name in caplog.text
    ids = {row["key"]: row["id"] for row in catalog(first, first.items.files)}
    assert vectors(first, "a")[ids[b"i0"]].tolist() == [1.0, 2.0]

"""Rows that are refused, inputs that stop the job, and what the messages say."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import ConfigError, DataError
from tests.support.prepared import read_rejected, read_rows, run

HEADER = "user,item,rating,ts,w\n"
GOOD = "u1,i1,3,1000,1\n"
ROLES = {"label": "rating", "timestamp": "ts", "weight": "w"}


def section(path, **more) -> dict:
    return {"kind": "delimited", "paths": [str(path)], "roles": ROLES, "max_rejected_fraction": 0.5} | more


def dataset_section(tmp_path, **more) -> dict:
    return {"path": str(tmp_path / "out"), "split": {"kind": "leave_last_out"}} | more


# fmt: off
BAD_ROWS = [
    (b"u1,i1,3,1000\n", "wrong_column_count"),
    (b"u1,i1,3,1000,1,9\n", "wrong_column_count"),
    (b"u1;i1;3;1000;1\n", "wrong_column_count"),
    (b",i1,3,1000,1\n", "missing_user"),
    (b"u1,,3,1000,1\n", "missing_item"),
    (b"u1,i1,three,1000,1\n", "bad_label"),
    (b"u1,i1,,1000,1\n", "bad_label"),
    (b"u1,i1,0x10,1000,1\n", "bad_label"),
    (b"u1,i1,nan,1000,1\n", "not_finite_label"),
    (b"u1,i1,-inf,1000,1\n", "not_finite_label"),
    (b"u1,i1,1e39,1000,1\n", "not_finite_label"),
    (b"u1,i1,3,1000,-1\n", "negative_weight"),
    (b"u1,i1,3,1000,x\n", "bad_weight"),
    (b"u1,i1,3,soon,1\n", "bad_timestamp"),
    (b"u1,i1,3,,1\n", "bad_timestamp"),
    (b"u1,i1,3,-1,1\n", "timestamp_out_of_range"),
    (b"u1,i1,3,9300000000,1\n", "timestamp_out_of_range"),
    (b"u1,i1,3,99999999999999999999999,1\n", "timestamp_out_of_range"),
    (b"u\xff\xfe,i1,3,1000,1\n", "not_utf8"),
    (b'"u1,i1,3,1000,1\n', "unbalanced_quote"),
    (b'u"1,"i1,3,1000,1\n', "unbalanced_quote"),
    (b'"u1"x,i1,3,1000,1\n', "text_after_quote"),
    (b'"u\\"1",i1,3,1000,1\n', "text_after_quote"),
    (b'"a ""\n""b",i1,3\n', "wrong_column_count"),
    (b"u\x001,i1,3,1000,1\n", "nul_byte"),
    (b" ,i1,3,1000,1\n", "missing_user"),
    (b"NaN,i1,3,1000,1\n", "missing_user"),
    (b"u1,\\N,3,1000,1\n", "missing_item"),
    (b"u1,i1,NULL,1000,1\n", "bad_label"),
    (b"u1,i1,3,0x10,1\n", "bad_timestamp"),
    (b'"a\nb",i1,3,1000,1\n', "newline_in_key"),
    (b"u1,i\r1,3,1000,1\n", "stray_carriage_return"),
]
# fmt: on


def test_each_bad_row_is_kept_with_reason_file_and_line(tmp_path):
    path = tmp_path / "x.csv"
    expected, data, line = [], HEADER.encode(), 1
    for i, (bad, reason) in enumerate(BAD_ROWS):
        data += GOOD.encode() + b"\n" * (i % 2) + bad
        line += 2 + i % 2
        text = bad.removesuffix(b"\n").decode("utf-8", "backslashreplace")
        expected.append({"reason": reason, "file": str(path), "line": line, "text": text})
        line += text.count("\n")
    path.write_bytes(data + b"u2,i2,+4.5e0,1000.9, 2 ")
    found = []
    for chunk in (50, 300, 1 << 20):
        # The good rows repeat one event.
        target = dataset_section(tmp_path, duplicates="keep")
        dataset = run(section(path, max_rejected_fraction=0.6), target, chunk_bytes=chunk)
        found.append((read_rejected(dataset), dataset.fingerprint))
        assert dataset.source_rows == 2 * len(BAD_ROWS) + 1
        assert sum(dataset.rejected.values()) == len(BAD_ROWS)
        rows = read_rows(dataset, [f for s in dataset.splits.values() for f in s.files])
        assert len(rows) == len(BAD_ROWS) + 1
        odd = [r for r in rows if r["label"] == 4.5]
        assert [(r["timestamp"], r["weight"]) for r in odd] == [(1_000_900_000_000, 2.0)]
    assert found[0] == found[1] == found[2]
    assert found[0][0] == expected


def test_a_late_quote_means_the_same_wherever_blocks_end(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user,item\n" + 'u,i\nu"x,"i\nu,j\n' * 5 + 'v"x,"k')
    found = []
    for chunk in (8, 12, 30, 1 << 20):
        dataset = run(section(path, roles={}), dataset_section(tmp_path), chunk_bytes=chunk)
        found.append((dataset.rejected, dataset.fingerprint))
    assert found == [({"unbalanced_quote": 6}, found[0][1])] * 4


def test_ml100k_style_first_lines(tmp_path):
    path = tmp_path / "u.data"
    path.write_text("0 50  5 881250949\n0 172  5 881250949\n196\t242\t3\t881250949\n" * 2)
    columns = ["user", "item", "rating", "ts"]
    source = section(
        path, delimiter="\t", header=False, columns=columns, quote=None, max_rejected_fraction=0.7
    )
    source["roles"] = {"label": "rating", "timestamp": "ts"}
    dataset = run(source, dataset_section(tmp_path))
    assert dataset.rejected == {"wrong_column_count": 4}
    assert [r["line"] for r in read_rejected(dataset)] == [1, 2, 4, 5]


def test_jsonl_rows(tmp_path):
    path = tmp_path / "x.jsonl"
    good = {"user": 1, "item": "a", "rating": 2, "ts": 5, "w": 1}
    bad = {
        "wrong_type_user": json.dumps(good | {"user": 1.5}),
        "missing_item": json.dumps(good | {"item": None}),
        "invalid_json": '{"user": 1, ',
        "newline_in_key": json.dumps(good | {"item": "a\rb"}),
        "bad_label": json.dumps(good | {"rating": "x"}),
        "wrong_type_label": json.dumps(good | {"rating": [1]}),
        "not_finite_weight": json.dumps(good | {"w": float("inf")}),
    }
    lines = [json.dumps(good)] + [line for pair in bad.values() for line in (pair, "", json.dumps(good))]
    path.write_text("\n".join(lines))
    for chunk in (60, 1 << 20):
        dataset = run(section(path, kind="jsonl"), dataset_section(tmp_path), chunk_bytes=chunk)
        rejected = read_rejected(dataset)
        assert {r["reason"]: r["text"] for r in rejected} == bad
        assert [r["line"] for r in rejected] == [2 + 3 * i for i in range(len(bad))]


def test_unknown_split_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user,item,part\nu,i,train\nu,j,valid\nu,k,Test\nu,l,test\nu,m,\n")
    source = section(path, roles={"split": "part"})
    dataset = run(source, dataset_section(tmp_path, split={"kind": "given"}))
    assert dataset.rejected == {"unknown_split": 2}
    assert {name: info.rows for name, info in dataset.splits.items()} == {"train": 1, "valid": 1, "test": 1}


# fmt: off
STOPS = {
    "missing": (None, {}, "x.csv: no such file"),
    "no_match": (None, {"paths": ["{dir}/*.nope"]}, "*.nope: no file matches"),
    "directory": (None, {"paths": ["{dir}"]}, "the directory contains no files; check source.paths"),
    "empty": (b"", {}, "x.csv: the file is empty"),
    "header_only": (HEADER.encode(), {}, "no rows are left"),
    "no_column": (b"user,item,score,ts,w\n1,2,3,4,5\n", {},
                  "x.csv: no column 'rating'; the header has: user, item, score, ts, w"),
    "jsonl_as_csv": (b'{"user": "1", "item": 2}\n', {}, "; is source.kind jsonl?"),
    "case": (b"User,item,rating,ts,w\n1,2,3,4,5\n", {}, "; write 'User' in source.roles or source.features"),
    "json_array": (b'[{"user": 1, "item": 2}]\n', {"kind": "jsonl"}, "as one object per line (jq -c"),
    "delimiter": (b"user\titem\trating\tts\tw\n1\t2\t3\t4\t5\n", {},
                  "is source.delimiter '\\t' (tab) instead of ','?"),
    "delimiter_no_header": (b"1|2|3|4|5\n" * 9,
                            {"header": False, "columns": ["user", "item", "rating", "ts", "w"]},
                            "the first line has 1 columns, source.columns names 5; is source.delimiter '|'"),
    "twice": (b"user,item,rating,ts,w,w\n1,2,3,4,5,6\n", {}, "duplicate column 'w'"),
    "binary": (bytes(range(256)) * 9, {}, "contains binary data, not text"),
    "latin": ("usér,item\n".encode("latin-1"), {}, "not UTF-8"),
    "rejects": (HEADER.encode() + GOOD.encode() * 8 + b"u1,i1,x,1000,1\nu1,i1\n",
                {"max_rejected_fraction": 0.1},
                "2 of 10 rows are rejected, more than source.max_rejected_fraction 0.1 allows: 1 "),
    "no_gzip": (b"user,item\n", {"paths": ["{dir}/x.csv.gz"]}, "x.csv.gz: not a gzip file despite its name"),
    "no_json": (b"user,item\n", {"kind": "jsonl"}, "the first line is not a JSON object"),
    "json_column": (b'{"user": 1, "items": 2}\n', {"kind": "jsonl"},
                    "no column 'item'; the first object has: user"),
    "no_parquet": (b"PAR1 or not", {"kind": "parquet"}, "x.csv: incomplete or broken Parquet file"),
}
# fmt: on


@pytest.mark.parametrize("case", STOPS)
def test_inputs_that_stop_the_job_publish_nothing(tmp_path, case):
    data, more, message = STOPS[case]
    more = {k: [p.format(dir=tmp_path) for p in v] if k == "paths" else v for k, v in more.items()}
    name = os.path.basename(more.get("paths", ["x.csv"])[0])
    if data is not None:
        (tmp_path / name).write_bytes(data)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises((DataError, ConfigError)) as caught:
        run(section(tmp_path / "x.csv", **more), dataset_section(tmp_path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    ("line", "more", "hint"),
    [
        (
            "u1,i1,3,2024-05-01,1",
            {},
            "; check source.timestamp_unit, which is s: s, ms, us and ns read numbers",
        ),
        ("u1,i1,3,1700000000000,1", {}, "; check source.timestamp_unit, which is s"),
        ('u1,"i1,3,1000,1', {}, "; no quote closes the value"),
        ("u1,i1,3,1000,1,6", {}, "; quote values that contain the delimiter"),
        ("u1,i1,,1000,1", {}, "; it must be a number in every row, and must not be empty"),
        (",i1,3,1000,1", {}, "; check source.nulls, which lists the spellings of missing values"),
        ('u1,"i1"x,3,1000,1', {}, "; double the quotes inside a quoted value, or set source.escape"),
        ("u1,i1,3,1000,-1", {}, "negative_weight: 'u1,i1,3,1000,-1'"),
    ],
)
def test_rejects_message_says_how_to_mend_most_of_them(tmp_path, line, more, hint):
    path = tmp_path / "x.csv"
    path.write_text(HEADER + GOOD + f"{line}\n" * 3 + "u1,i1,3,-7,1\n")
    with pytest.raises(DataError) as caught:
        run(section(path, **more), dataset_section(tmp_path))
    assert hint in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith("'") == hint.endswith("'")


def test_rejects_message_names_the_first_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(HEADER + GOOD * 3 + "u1,i1,x,1000,1\n" + GOOD * 3 + "u1\n")
    with pytest.raises(DataError, match=r"x\.csv:5: bad_label: 'u1,i1,x,1000,1'"):
        run(section(path, max_rejected_fraction=0), dataset_section(tmp_path), chunk_bytes=20)


def test_torn_gzip_stops_the_job(tmp_path):
    path = tmp_path / "x.csv.gz"
    whole = gzip.compress((HEADER + "".join(f"u{i},i{i * 7},3,{i},1\n" for i in range(30_000))).encode())
    path.write_bytes(whole[:-1000])
    with pytest.raises(DataError, match="incomplete or broken gzip file"):
        run(section(path), dataset_section(tmp_path))
    assert os.listdir(tmp_path) == ["x.csv.gz"]


def test_min_label_filters_and_can_leave_nothing(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(HEADER + GOOD + GOOD.replace(",3,", ",4,"))
    dataset = run(section(path), dataset_section(tmp_path, min_label=4))
    assert (dataset.filtered, dataset.splits["train"].rows, dataset.rejected) == (1, 1, {})
    with pytest.raises(DataError, match="dataset.min_label"):
        run(section(path), dataset_section(tmp_path, min_label=5))


def test_an_empty_numeric_feature_is_refused_or_has_a_value(tmp_path):
    """From text, JSON and Parquet; what is neither empty nor a number is still refused."""
    feature = {"name": "price", "of": "item", "kind": "numeric"}
    rows = [("u1", "i1", "1.5"), ("u1", "i2", ""), ("u2", "i1", "1.5"), ("u2", "i3", "x"), ("u3", "i3", None)]
    csv, lines, table = tmp_path / "x.csv", tmp_path / "x.jsonl", tmp_path / "x.parquet"
    csv.write_text("user,item,price\n" + "".join(f"{u},{i},{p or ' '}\n" for u, i, p in rows))
    names = ("user", "item", "price")
    lines.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), table)
    for kind, path in (("delimited", csv), ("jsonl", lines), ("parquet", table)):
        source = {"kind": kind, "paths": [str(path)], "max_rejected_fraction": 0.5}
        section = {"path": str(tmp_path / kind), "split": {"kind": "random"}}
        with pytest.raises(DataError, match="3 bad_price; .* set the feature's missing to accept empty v"):
            run(source | {"features": [feature]}, section)
        dataset = run(source | {"features": [feature | {"missing": -1}]}, section)
        assert dict(dataset.rejected) == {"bad_price": 1}
        catalog = read_rows(dataset, dataset.items.files)
        assert {row["key"]: row["price"] for row in catalog} == {b"i1": 1.5, b"i2": -1.0, b"i3": -1.0}

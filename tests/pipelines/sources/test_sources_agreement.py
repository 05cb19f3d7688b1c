"""The typed parse and the careful one give every value the same meaning, so that neighbours never matter."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.job import Job, JobLayout
from pipelines.rows.validate import validate
from pipelines.sources.reader import make_reader
from tests.pipelines.sources.pieces import read_pieces
from tests.support.prepared import configure
from tests.support.tf_examples import write_examples

pytestmark = pytest.mark.any_python

FEATURES = [
    {"name": "genre", "of": "item", "kind": "categorical"},
    {"name": "price", "of": "item", "kind": "numeric", "missing": -1},
    {"name": "size", "of": "item", "kind": "numeric"},
]
ROLES = {"label": "rating", "timestamp": "ts", "weight": "w"}
NAMES = ["user", "item", "rating", "ts", "w", "genre", "price", "size", "unused"]

# fmt: off
WORDS = [
    "u1", "é", "日本", "1", "1.0", "1.00", "-0.0", "1.10", "007", " u1", "u1 ", "\u3000u", "0x10", "0X1f",
    "a0x1", "-0x1", "7 ", "\t7", "7\x0b",
    "nan", "NaN", "-nan", "nan(1)", "NA", "NULL", "null", "None", "\\N", "<NA>", "inf", "-Infinity", "1e3",
    "1E+3", "1e400", "1e-400", ".5", "5.", "+5", "--5", "1_0", "1,5", "5d", "true", "False", " 7",
    "\xa07", "1000", "1000.5", "1700000000", "1700000000123", "9007199254740993", "9223372036854775808",
    "99999999999999999999", "", " ", "user", "x(y", "\x1f", "\x85", "\u2028", "\ufeffx",
]
# fmt: on
_word = st.sampled_from(WORDS) | st.text(
    st.characters(exclude_characters='\r\n\0"', codec="utf-8"), max_size=4
)
_good = ["u1", "i1", "3", "1000", "1", "g", "2.5", "4", "x"]


def _parsed(tmp_path, kind: str, data: bytes, careful: bool, chunk: int = 1 << 21, **more) -> tuple:
    """Rows after validation, rejects and notes."""
    path = tmp_path / "x"
    path.write_bytes(data)
    source = {"kind": kind, "paths": [str(path)], "roles": ROLES, "features": FEATURES} | more
    config = configure(source, {"path": str(tmp_path / "out")})
    layout = JobLayout("", "", chunk_bytes=chunk)
    reader = make_reader(config.source, layout)
    if careful:
        reader._parse_typed = lambda block: None
    rows, rejects, notes = [], [], {}
    for piece in read_pieces(reader):
        table, refused = validate(piece, Job(config.source, config.dataset, layout))
        # NaN stands for a missing number, and is not equal to itself.
        rows += [tuple("NaN" if v != v else v for v in row.values()) for row in table.to_pylist()]
        rejects += refused
        notes = {key: notes.get(key, 0) + count for key, count in piece.notes.items() if count}
    return rows, sorted(rejects), notes


def _is_typed(tmp_path, kind: str, data: bytes, features=FEATURES, roles=ROLES) -> bool:
    """Whether one line alone takes the typed parse."""
    found = []
    path = tmp_path / "x"
    path.write_bytes(data)
    source = {"kind": kind, "paths": [str(path)], "roles": roles, "features": features}
    reader = make_reader(configure(source, {"path": "/x"}).source, JobLayout("", ""))
    parse = reader._parse_typed
    reader._parse_typed = lambda block: found.append(parse(block)) or found[-1]
    for part in reader.ranges():
        list(reader.read(part, 0, 1))
    return all(table is not None for table in found)


def _csv(rows: list[list[str]]) -> bytes:
    lines = [NAMES, *rows]
    return "".join(",".join(f'"{c}"' if "," in c else c for c in line) + "\n" for line in lines).encode()


@given(st.integers(0, len(NAMES) - 1), _word)
@settings(max_examples=150, deadline=None)
def test_delimited_values_mean_the_same_in_both_parses(tmp_path_factory, column, word):
    row = [word if i == column else value for i, value in enumerate(_good)]
    path = tmp_path_factory.getbasetemp()
    typed = _parsed(path, "delimited", _csv([row]), careful=False)
    assert typed == _parsed(path, "delimited", _csv([row]), careful=True)


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_every_odd_value_in_every_column(tmp_path, word):
    for column in range(len(NAMES)):
        row = [word if i == column else value for i, value in enumerate(_good)]
        alone = _parsed(tmp_path, "delimited", _csv([row]), careful=False)
        assert alone == _parsed(tmp_path, "delimited", _csv([row]), careful=True), NAMES[column]
        beside = _parsed(tmp_path, "delimited", _csv([row, [], ["bad"]]), careful=False)
        assert beside[0] == alone[0] and beside[1][: len(alone[1])] == alone[1], NAMES[column]


_json = (
    st.sampled_from([None, True, False, 0, -0.0, 1, 1.0, 2.5, 1e22, 2**53 + 1, 2**70])
    | st.sampled_from([float("nan"), float("inf")])
    | st.sampled_from(WORDS) | st.text(max_size=3) | st.just([1]) | st.just({"a": 1})
)  # fmt: skip
_number = st.sampled_from(
    ["1.0", "1e3", "12e-1", "1E400", "-0", "9007199254740993.0", "1e40", "01", "1.", "NaN"]
)
_good_json = {
    "user": "u1",
    "item": 7,
    "rating": 3.5,
    "ts": 1000,
    "w": 1,
    "genre": "g",
    "price": 2.5,
    "size": 4,
}


@given(
    column=st.sampled_from(sorted(_good_json)),
    value=_json.map(json.dumps) | _number,
    others=st.integers(0, 2),
)
@settings(max_examples=150, deadline=None)
def test_json_values_mean_the_same_in_both_parses(tmp_path_factory, column, value, others):
    odd = json.dumps(_good_json | {column: "?"}).replace('"?"', value)
    data = (f"{json.dumps(_good_json)}\n" * others + odd + "\n").encode()
    path = tmp_path_factory.getbasetemp()
    if not others:
        data = f"{odd}\n{odd}\n".encode()
    try:
        typed = _parsed(path, "jsonl", data, careful=False)
    except Exception as error:
        assert "not a JSON object" in str(error) or "no column" in str(error)
        return
    assert typed == _parsed(path, "jsonl", data, careful=True)
    beside = _parsed(path, "jsonl", data + b"\nnope\n", careful=False)
    assert beside[0] == typed[0]


# fmt: off
JSON_LINES = [
    b'{"user": "a", "item": 1}{"user": "b", "item": 1}\n\n',
    b'{"user": "a",\n"item": 1}\n{"user": "b", "item": 1} {"user": "c", "item": 2}\n',
    b'{"user": "a", "item": 1, "user": "b"}\n',
    b'{"user": "a\\u0000", "item": 1}\n', b'{"user": "a", "item": 1}\0\n',
    b'{"user": "a", "item": "\\ud800"}\n',
    b'{"user": "a", "item": 1, "more": "\xff"}\n', b'{"user": "a", "item": 1, "more": "\\ud800"}\n',
    b' {"user": "a", "item": 1} \n', b'{"user": "a", "item": 1},\n', b'{"user": "a\tb", "item": 1}\n',
    b'{"user": "a", "item": 1, "more": ' + b"[" * 800 + b"]" * 800 + b"}\n",
    b'\xef\xbb\xbf{"user": "a", "item": 1}\n', b'{"user": "a", "item": 1}\r\n',
    b'{"user": "nan", "item": NaN}\n', b'{"user": 1e400, "item": 1}\n', b'{"user": 1e29, "item": 1}\n',
]
# fmt: on


@pytest.mark.parametrize("line", JSON_LINES, ids=range(len(JSON_LINES)))
def test_odd_json_lines(tmp_path, line):
    good = b'{"user": "a", "item": 1}\n'
    more = {"roles": {}, "features": []}
    typed = _parsed(tmp_path, "jsonl", good + line, careful=False, **more)
    assert typed == _parsed(tmp_path, "jsonl", good + line, careful=True, **more)
    assert typed == _parsed(tmp_path, "jsonl", good + line, careful=False, chunk=10, **more)


LISTS = [
    {"name": "tags", "of": "item", "kind": "list", "weights": "weights", "max_length": 3},
    {"name": "codes", "of": "context", "kind": "list"},
]
_parts = st.lists(_json | st.sampled_from(["a", "b"]), max_size=4)
_good_lists = {"user": "u", "item": 7, "tags": ["a", "b"], "weights": [1, 0.5], "codes": [1, 2]}


@given(st.sampled_from(["tags", "weights", "codes"]), _parts | _json, st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_json_lists_mean_the_same_in_both_parses(tmp_path_factory, column, value, others):
    odd = json.dumps(_good_lists | {column: value})
    data = (f"{json.dumps(_good_lists)}\n" * others + odd + "\n").encode()
    path, more = tmp_path_factory.getbasetemp(), {"features": LISTS, "roles": {}}
    typed = _parsed(path, "jsonl", data, careful=False, **more)
    assert typed == _parsed(path, "jsonl", data, careful=True, **more)
    assert _parsed(path, "jsonl", data + b"\nnope\n", careful=False, **more)[0] == typed[0]


@given(st.lists(_word.filter(lambda word: "|" not in word), max_size=4), st.sampled_from(["tags", "weights"]))
@settings(max_examples=100, deadline=None)
def test_delimited_lists_mean_the_same_in_both_parses(tmp_path_factory, words, column):
    row = {"user": "u", "item": "i", "tags": "a|b", "weights": "1|2", "codes": ""} | {column: "|".join(words)}
    lines = [list(row), list(row.values())]
    data = "".join(",".join(f'"{c}"' if "," in c else c for c in line) + "\n" for line in lines).encode()
    path = tmp_path_factory.getbasetemp()
    more = {"features": [f | {"separator": "|"} for f in LISTS], "roles": {}}
    typed = _parsed(path, "delimited", data, careful=False, **more)
    assert typed == _parsed(path, "delimited", data, careful=True, **more)
    assert _parsed(path, "delimited", data + b"bad\n", careful=False, **more)[0] == typed[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tags": "a"}, "wrong_type_tags"),
        ({"tags": {"a": 1}}, "wrong_type_tags"),
        ({"tags": [["a"], "b"]}, "wrong_type_tags"),
        ({"tags": [True, "b"]}, "wrong_type_tags"),
        ({"codes": [1.5]}, "wrong_type_codes"),
        ({"weights": 1}, "wrong_type_tags/weight"),
        ({"weights": ["x", 1]}, "bad_weight_tags"),
        ({"weights": [1]}, "weight_count_tags"),
        ({"weights": None}, "weight_count_tags"),
        ({"item": ["a"]}, "wrong_type_item"),
    ],
)
def test_lists_and_single_values_are_not_confused_in_json(tmp_path, change, reason):
    more = {"features": LISTS, "roles": {}}
    data = "".join(json.dumps(_good_lists | part) + "\n" for part in ({}, change))
    rows, rejects, _ = _parsed(tmp_path, "jsonl", data.encode(), careful=False, **more)
    assert len(rows) == 1 and [reject.reason for reject in rejects] == [reason]


def test_missing_keys_of_a_list_are_left_out(tmp_path):
    rows = [{"tags": [" a ", None, "", "NULL", "17.0"], "weights": [1, None, "x", 2, 0.5]}, {"codes": [True]}]
    rows[1] = {"tags": None, "weights": [], "codes": [17, None, "x"]}
    data = "".join(json.dumps(_good_lists | part) + "\n" for part in rows)
    found, rejects, notes = _parsed(tmp_path, "jsonl", data.encode(), careful=False, features=LISTS, roles={})
    assert not rejects
    assert [row[3:5] for row in found] == [("a\x0117\x021\x010.5", "1\x012"), ("", "17\x01x")]
    assert notes == {"outer_blanks_tags": 1, "null_tags": 1, "integer_as_float_tags": 1}


def test_ordinary_files_take_the_typed_parse(tmp_path):
    assert _is_typed(tmp_path, "delimited", _csv([_good] * 3))
    assert _is_typed(tmp_path, "delimited", _csv([[*_good[:5], "a,b", *_good[6:]]]))
    assert not _is_typed(tmp_path, "delimited", _csv([[*_good[:3], "0x10", *_good[4:]]]))
    assert _is_typed(tmp_path, "jsonl", json.dumps(_good_json).encode() + b"\n")
    assert _is_typed(tmp_path, "jsonl", json.dumps(_good_lists).encode() + b"\n", LISTS, {})
    assert _is_typed(
        tmp_path, "jsonl", json.dumps(_good_lists | {"tags": [], "codes": None}).encode(), LISTS, {}
    )
    assert not _is_typed(tmp_path, "jsonl", json.dumps(_good_json | {"user": 1.0}).encode() + b"\n")


def test_text_that_is_not_utf8_matters_where_it_is_wanted(tmp_path):
    row = _csv([_good]).replace(b",x\n", b",\xff\n")
    for careful in (False, True):
        rows, rejects, _ = _parsed(tmp_path, "delimited", row, careful=careful)
        assert (len(rows), rejects) == (1, [])
        _, rejects, _ = _parsed(tmp_path, "delimited", row.replace(b"u1", b"\xff"), careful=careful)
        assert [r.reason for r in rejects] == ["not_utf8"]


def test_missing_values_and_spellings_of_keys(tmp_path):
    rows = [[" u1", "17.0", *_good[2:5], "NA", "NaN", "4", "x"], ["u1", "17", *_good[2:5], " ", "", "4", "x"],
            ["u1", "17", *_good[2:5], "g", "-9", "4", "x"], ["u1", "nan", *_good[2:]]]  # fmt: skip
    found, rejects, notes = _parsed(
        tmp_path, "delimited", _csv(rows), careful=False, nulls=["NA", "nan", "-9"]
    )
    assert [row[1:3] for row in found] == [("u1", "17")] * 3
    names = [row[3] for row in found], [row[-2] for row in found]
    assert names == (["", "", "g"], ["NaN"] * 3)
    assert [r.reason for r in rejects] == ["missing_item"]
    assert notes == {
        "outer_blanks_user": 1, "integer_as_float_item": 1, "null_item": 1, "null_genre": 1,
        "outer_blanks_genre": 1, "null_price": 3,
    }  # fmt: skip
    found, _, notes = _parsed(tmp_path, "delimited", _csv(rows), careful=False, clean_keys=False, nulls=[])
    assert [row[1:3] for row in found] == [(" u1", "17.0"), ("u1", "17"), ("u1", "17"), ("u1", "nan")]
    assert found[0][3] == "NA" and found[2][-2] == -9.0


def test_types_of_parquet_mean_the_same(tmp_path):
    import pyarrow.parquet as parquet

    path = tmp_path / "x"
    columns = {"user": ["NULL", "u ", "u"], "item": [1, 2, None], "price": [float("nan"), None, 2.0]}
    parquet.write_table(pa.table(columns), path)
    source = {"kind": "parquet", "paths": [str(path)], "features": [FEATURES[1]]}
    config = configure(source, {"path": str(tmp_path / "out")})
    reader = make_reader(config.source, JobLayout("", ""))
    piece = next(reader.read(reader.ranges()[0], 0, 1))
    table, rejects = validate(piece, Job(config.source, config.dataset, JobLayout("", "")))
    assert table["user"].to_pylist() == ["u"] and np.isnan(table["price"].to_numpy()).all()
    assert [r.reason for r in rejects] == ["missing_user", "missing_item"]


@pytest.mark.parametrize("column", [name for name in NAMES if name != "unused"])
def test_odd_values_mean_the_same_in_tfrecord_as_in_json(tmp_path, column):
    numbers = {"rating": 3.5, "ts": 1000, "w": 1.0, "price": 2.5, "size": 4}
    good = dict(zip(NAMES, _good, strict=True)) | numbers
    values = [*WORDS, 0, 1, -1, 2**53 + 1, 2**63 - 1, 0.5, 2.5, 1e30, float("nan"), float("inf"), None]
    if column in ("user", "item", "genre"):
        values = [value for value in values if not isinstance(value, float)]  # no keys; JSON takes 1.0
    rows = [good | {column: value} for value in values]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    wanted = _parsed(tmp_path, "jsonl", lines, careful=False)
    records = open(write_examples(tmp_path / "records", rows), "rb").read()
    found = _parsed(tmp_path, "tfrecord", records, careful=False)
    assert found[0] == wanted[0] and found[2] == wanted[2]
    assert [(r.row, r.reason) for r in found[1]] == [(r.row, r.reason) for r in wanted[1]]
    alone = _parsed(tmp_path, "tfrecord", records, careful=False, chunk=1)
    assert alone[0] == found[0] and [r.reason for r in alone[1]] == [r.reason for r in found[1]]

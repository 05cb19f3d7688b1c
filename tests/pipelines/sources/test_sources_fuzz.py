"""Random tables in every format are one dataset; random damage to text is refused, never a traceback."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.errors import DataError
from pipelines.job import Job, JobLayout
from pipelines.rows.validate import validate
from pipelines.sources.reader import make_reader
from tests.pipelines.sources.pieces import read_pieces
from tests.support.prepared import configure, read_rejected, read_rows, run
from tests.support.tf_examples import write_examples

pytestmark = pytest.mark.any_python

ROLES = {"label": "rating", "timestamp": "ts"}
FEATURES = [
    {"name": "genre", "of": "item", "kind": "categorical"},
    {"name": "price", "of": "item", "kind": "numeric", "missing": 0},
    {"name": "tags", "of": "item", "kind": "list", "weights": "w", "max_length": 3},
    {"name": "seen", "of": "context", "kind": "list", "table": "genre"},
    {"name": "both", "of": "context", "kind": "cross", "keys": ["genre", "mood"], "rows": 99},
    {"name": "mood", "of": "user", "kind": "categorical"},
    {"name": "age", "of": "user", "kind": "numeric", "transform": ["log1p"], "buckets": {"quantiles": 3}},
]
SEPARATOR = "; "
SCHEMA = {
    "user": None,
    "item": None,
    "rating": pa.float64(),
    "ts": pa.int64(),
    "genre": None,
    "price": pa.float64(),
    "tags": pa.list_(pa.string()),
    "w": pa.list_(pa.float64()),
    "seen": None,
    "mood": None,
    "age": pa.float64(),
}
_FORMATS = ("csv", "tsv", "jsonl", "parquet", "tfrecord")

_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
_key = _text | st.sampled_from(
    ["a", "b", "a ", "NULL", "nan", "1.0", "1", 'say "x"', "x,y", "x\ty", "l\nm", "user"]
)
_keys = st.sampled_from([_key | st.none(), st.integers(-(2**63), 2**63 - 1) | st.none(), st.integers(0, 9)])
_float = st.floats(width=32) | st.none() | st.sampled_from([1.0, 2.5])
_time = st.integers(0, 2_000_000_000) | st.sampled_from([-1, 10**12]) | st.none()


# Text between separators: a list of one empty key is an empty list.
_part = st.sampled_from(["a", "b", " a", "1.0", "NULL", "é", 'say "x"', "x,y", "x\ty", "l\nm"]) | st.none()
_list = st.none() | st.lists(_part, max_size=5).filter(lambda parts: parts != [None])
_weight = st.floats(0, 5, width=32) | st.sampled_from([1.0, -1.0, float("nan"), 1e39])
_ints = st.none() | st.lists(st.integers(-3, 300), max_size=4)


@st.composite
def _weighted(draw) -> tuple[list | None, list | None]:
    """A list and its weights, now and then one too few."""
    keys = draw(_list)
    size = max(0, len(keys or []) - draw(st.sampled_from([0, 0, 0, 1])))
    return keys, draw(st.lists(_weight, min_size=size, max_size=size)) or None


@st.composite
def _tables(draw) -> dict[str, list]:
    size = draw(st.integers(1, 8))
    columns = {
        "user": draw(_keys), "item": draw(_keys), "rating": _float, "ts": _time, "genre": _text | st.none(),
        "price": _float, "seen": draw(st.sampled_from([_list, _ints])), "mood": draw(_keys),
        "age": st.floats(-2, 90, width=32) | st.none(),
    }  # fmt: skip
    table = {name: draw(st.lists(values, min_size=size, max_size=size)) for name, values in columns.items()}
    pairs = draw(st.lists(_weighted(), min_size=size, max_size=size))
    return table | {"tags": [tags for tags, _ in pairs], "w": [weights for _, weights in pairs]}


def _parquet_type(name: str, values: list) -> pa.DataType:
    parts = [p for v in values for p in (v if isinstance(v, list) else [v])]
    kind = pa.int64() if all(isinstance(part, int | None) for part in parts) else pa.string()
    return SCHEMA[name] or (pa.large_list(kind) if name == "seen" else kind)


def _features(kind: str) -> list[dict]:
    """The features; lists in delimited text have a separator."""
    separates = kind in ("csv", "tsv", "delimited")
    return [f | {"separator": SEPARATOR} if separates and f["kind"] == "list" else f for f in FEATURES]


def _cell(value: object) -> object:
    """A value as CSV has it."""
    if isinstance(value, list):
        return SEPARATOR.join("" if part is None else str(part) for part in value)
    return "" if value is None else value


def _write(path, kind: str, table: dict[str, list]) -> dict:
    """Writes a table as its users would; returns the source section."""
    rows = list(zip(*table.values(), strict=True))
    features = _features(kind)
    source = {"paths": [str(path)], "roles": ROLES, "features": features, "max_rejected_fraction": 1}
    if kind == "parquet":
        columns = {name: pa.array(table[name], _parquet_type(name, table[name])) for name in table}
        parquet.write_table(pa.table(columns), path)
        return source | {"kind": "parquet"}
    if kind == "tfrecord":
        keys = ("user", "item")  # a file that never names them is refused; an empty list is a missing value
        values = [dict(zip(table, row, strict=True)) for row in rows]
        write_examples(path, [v | {k: [] for k in keys if v[k] is None} for v in values])
        return source | {"kind": "tfrecord"}
    if kind == "jsonl":
        path.write_text("".join(json.dumps(dict(zip(table, row, strict=True))) + "\n" for row in rows))
        return source | {"kind": "jsonl"}
    out, delimiter = io.StringIO(), "," if kind == "csv" else "\t"
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([list(table), *(map(_cell, row) for row in rows)])
    path.write_bytes(out.getvalue().encode())
    return source | {"kind": "delimited", "delimiter": delimiter}


def _read(source: dict, chunk: int) -> tuple[list, list]:
    """Rows without their place in the source, and reasons of rejects; all that workers run on it."""
    config = configure(source, {"path": "/unused"})
    layout = JobLayout("", "", chunk_bytes=chunk, chunk_rows=chunk)
    reader = make_reader(config.source, layout)
    rows, reasons, seen = [], [], []
    for piece in read_pieces(reader):
        table, rejects = validate(piece, Job(config.source, config.dataset, layout))
        seen += [*table["_row"].to_pylist(), *(reject.row for reject in rejects)]
        rows += [repr(row) for row in table.drop_columns("_row").to_pylist()]
        reasons += [reject.reason for reject in rejects]
    assert len(set(seen)) == len(seen), "two rows of one number"
    return rows, reasons


def _assert_alike(directory, table: dict[str, list], chunk: int) -> None:
    found = {kind: _read(_write(directory / kind, kind, table), chunk) for kind in _FORMATS}
    for kind in _FORMATS[1:]:
        assert found[kind] == found["csv"], kind


@given(_tables(), st.sampled_from([1, 7, 60, 1 << 21]))
@settings(max_examples=25, deadline=None)
def test_a_table_means_the_same_in_every_format(tmp_path_factory, table, chunk):
    _assert_alike(tmp_path_factory.getbasetemp(), table, chunk)


@pytest.mark.torture
@given(_tables(), st.sampled_from([1, 7, 60, 1 << 21]))
@settings(max_examples=300, deadline=None)
def test_many_tables_mean_the_same_in_every_format(tmp_path_factory, table, chunk):
    _assert_alike(tmp_path_factory.getbasetemp(), table, chunk)


def _prepared(directory, table: dict[str, list]) -> None:
    found = set()
    for kind in _FORMATS:
        try:
            source = _write(directory / kind, kind, table)
            dataset = run(
                source, {"path": str(directory / f"{kind}-out"), "split": {"kind": "leave_last_out"}}
            )
            reasons = [r["reason"] for r in read_rejected(dataset)]
            # Not the fingerprint: rows are shuffled by their lines, of which a quoted value may hold several.
            files = [dataset.users.files, dataset.items.files, *(s.files for s in dataset.splits.values())]
            rows = [sorted(map(repr, read_rows(dataset, part))) for part in files]
            found.add(repr((rows, dataset.source_rows, reasons)))
        except DataError as error:
            found.add(str(error).split(":")[0].replace(str(directory / kind), ""))
    assert len(found) == 1, found


@pytest.mark.torture
@given(_tables())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_many_tables_are_prepared_alike_from_every_format(tmp_path_factory, table):
    _prepared(tmp_path_factory.getbasetemp(), table)


@pytest.mark.slow
@given(_tables())
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_some_tables_are_prepared_alike_from_every_format(tmp_path_factory, table):
    _prepared(tmp_path_factory.getbasetemp(), table)


def test_a_table_is_prepared_alike_from_every_format(tmp_path):
    table = {
        "user": ["u", "u", 'say "x",\ty', None, "NaN", "l\nm", "u "], "item": [1, 2, 1, 1, 1, 2, 3],
        "rating": [1.0, 2.5, 1.0, 1.0, 1.0, 3.0, None], "ts": [5, 6, 7, 8, 9, 10, 11],
        "genre": ["x\ny", "", "x", None, "é", "x", "NA"],
        "price": [1.5, None, float("nan"), 2.0, 1.0, 1.0, 0.0],
        "tags": [["a", "b"], None, [], ["a", None, "x,y", "c", "l"], ["b"], ["a"], ["NULL"]],
        "w": [[1.0, 0.1], None, None, [1.0, 2.0, 3.0, 4.0, 5.0], [-1.0], [float("nan")], [1.0]],
        "seen": [[1, 2], None, [], [3], [1, 1], [300], [-1]], "mood": ["x", "", None, "x", "y", "x", "NA"],
        "age": [1.5, None, 3.0, -1.5, 0.0, 90.0, 90.0],
    }  # fmt: skip
    _prepared(tmp_path, table)


_GOOD = "user,item,rating,ts,genre,price,tags,w,seen,mood,age\n"
_GOOD += 'u1,i1,3,1000,"g, ""h""",1.5,a; b,1; 2,x,m,7\n'
_GOOD += 'u2,i2,4.5,1001,"l\nm",,,,,,\n"u3",i3,1,1002,,nan,"b; ""c",1; .5,x; y,n,1\n'
_JSON = "".join(
    json.dumps(
        {
            "user": f"u{i}",
            "item": i,
            "rating": i / 2,
            "ts": 1000 + i,
            "genre": 'g"',
            "price": None,
            "tags": ["a", "b"],
            "w": [1, 0.5],
            "seen": [i, 2],
            "mood": None,
            "age": 3,
        }
    )
    + "\n"
    for i in range(4)
)
_TEXTS = [
    ("delimited", _GOOD.encode()), ("delimited", _GOOD.replace("\n", "\r\n").encode()),
    ("jsonl", _JSON.encode()),
    ("delimited", _GOOD.replace("\n", "\r").encode()), ("delimited", _GOOD.encode("utf-16")),
    ("delimited", "\ufeff".encode() + _GOOD.encode() * 2), ("jsonl", _JSON.encode("utf-32")),
]  # fmt: skip
_byte = st.sampled_from(list(b'",\n\r\\\0{}[]:.0x\xff\xfe\x80\t ')) | st.integers(0, 255)
_edit = st.tuples(st.sampled_from(["set", "insert", "cut", "double", "end"]), st.integers(0, 400), _byte)


def _edited(data: bytes, edits: list) -> bytes:
    for what, place, byte in edits:
        place %= max(1, len(data))
        new = bytes([byte])
        data = {
            "set": data[:place] + new + data[place + 1 :],
            "insert": data[:place] + new + data[place:],
            "cut": data[:place] + data[place + 1 + byte % 40 :],
            "double": data[: place + byte] + data[place:],
            "end": data[:place] if byte < 60 else data,
        }[what]
    return data


def _assert_clear(path, kind: str, data: bytes, chunk: int, escape: str | None) -> None:
    """The file is read alike in pieces and at once, or refused with one line."""
    path.write_bytes(data or b"x")
    source = {"kind": kind, "paths": [str(path)], "roles": ROLES, "features": _features(kind)}
    if kind == "delimited":
        source |= {"escape": escape}
    try:
        whole = _read(source, 1 << 21)
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert _read(source, chunk) == whole


@given(
    st.sampled_from(_TEXTS),
    st.lists(_edit, min_size=1, max_size=6),
    st.integers(1, 99),
    st.sampled_from([None, "\\"]),
)
@settings(max_examples=100, deadline=None)
def test_damaged_text_is_refused_or_said(tmp_path_factory, text, edits, chunk, escape):
    path = tmp_path_factory.getbasetemp() / "damaged"
    _assert_clear(path, text[0], _edited(text[1], edits), chunk, escape)


@given(
    st.sampled_from(["", "GZIP", "ZLIB"]),
    st.lists(_edit, min_size=1, max_size=3),
    st.integers(1, 99),
)
@settings(max_examples=60, deadline=None)
def test_damaged_records_are_refused_or_said(tmp_path_factory, compression, edits, chunk):
    path = tmp_path_factory.getbasetemp() / "damaged"
    write_examples(path, [json.loads(line) for line in _JSON.splitlines()], compression)
    _assert_clear(path, "tfrecord", _edited(path.read_bytes(), edits), chunk, None)


@pytest.mark.torture
@given(
    st.sampled_from(_TEXTS),
    st.lists(_edit, min_size=1, max_size=9),
    st.integers(1, 99),
    st.sampled_from([None, "\\"]),
)
@settings(max_examples=2_000, deadline=None)
def test_much_damaged_text_is_refused_or_said(tmp_path_factory, text, edits, chunk, escape):
    path = tmp_path_factory.getbasetemp() / "damaged"
    _assert_clear(path, text[0], _edited(text[1], edits), chunk, escape)

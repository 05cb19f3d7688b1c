"""Records with quoted line ends are found alike from everywhere, and as Python's csv module finds them."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import parse_config
from pipelines.job import JobLayout
from pipelines.sources.lines import MAX_LINE_BYTES
from pipelines.sources.quoting import TEXT_AFTER, UNBALANCED, Quoting
from pipelines.sources.reader import make_reader
from tests.pipelines.sources.pieces import read_pieces

# fmt: off
RECORDS = [
    ('u,i\n"a\nb",c\n', [(0, 3, 0), (4, 11, 0)]),
    ('"a ""\n"" b",c\nu,i', [(0, 13, 0), (14, 17, 0)]),
    ('"a\r\nb" ,c\r\nu,i\r\n', [(0, 9, 0), (11, 14, 0)]),
    ('u,"i\nv,j\nw,"k"\n', [(0, 4, UNBALANCED), (5, 8, 0), (9, 14, 0)]),
    ('u,"i\nv,j\n', [(0, 4, UNBALANCED), (5, 8, 0)]),
    ('"u"x,i\nv,j\n', [(0, 6, TEXT_AFTER), (7, 10, 0)]),
    ('u,"say "well"\n,ok, then"\nv,j\n', [(0, 13, TEXT_AFTER), (14, 24, 0), (25, 28, 0)]),
    ('u,"say \\"well\\"\nok, i, then"\nv,j\n', [(0, 28, TEXT_AFTER), (29, 32, 0)]),
    ('5" pipe,i"\nu"x"y,j\n', [(0, 10, 0), (11, 18, 0)]),
    ('"",""\n"a","b"\n""\n', [(0, 5, 0), (6, 13, 0), (14, 16, 0)]),
]
# fmt: on


@pytest.mark.parametrize(("data", "expected"), RECORDS)
def test_records(data, expected):
    found = Quoting(",", '"', None).records(data.encode(), final=True)
    assert list(zip(found.starts, found.ends, found.faults, strict=True)) == expected
    assert [data.count("\n", 0, start) for start, _, _ in expected] == found.lines.tolist()
    assert found.open_at is None


def test_an_escape_makes_quotes_delimiters_and_line_ends_ordinary():
    quoting = Quoting(",", '"', "\\")
    data = b'u,"5\\" pipe\n"\nv\\,x,i\\\nj\nw,k\\\\\n'
    found = quoting.records(data, final=True)
    assert [data[a:b] for a, b in zip(found.starts, found.ends, strict=True)] == [
        b'u,"5\\" pipe\n"', b"v\\,x,i\\\nj", b"w,k\\\\"
    ]  # fmt: skip
    assert not found.faults.any()
    assert quoting.cells(b'u,"5\\" pipe\n"') == [b"u", b'5" pipe\n']
    assert quoting.cells(b"v\\,x,i\\\\") == [b"v,x", b"i\\"]


def test_a_record_that_is_not_yet_whole_waits_for_more_text():
    quoting = Quoting(",", '"', None)
    found = quoting.records(b'u,i\nv,"j\nk\n', final=False)
    assert (found.starts.tolist(), found.open_at) == ([0], 4)
    long = b'v,"' + b"j\n" * MAX_LINE_BYTES
    assert quoting.records(long, final=False).open_at is None  # no quote ended it in time


_cell = st.text('ab",;\n\r x', max_size=6)
_table = st.lists(st.tuples(_cell, _cell), min_size=1, max_size=12)


def _write(rows) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    return out.getvalue().encode()


@given(_table)
@settings(max_examples=200, deadline=None)
def test_cells_of_records_are_what_was_written(rows):
    data, quoting = _write(rows), Quoting(",", '"', None)
    found = quoting.records(data, final=True)
    assert not found.faults.any()
    cells = [quoting.cells(data[a:b]) for a, b in zip(found.starts, found.ends, strict=True)]
    assert [tuple(value.decode() for value in record) for record in cells] == rows


def _read(path, data: bytes, chunk: int, **more) -> tuple[list, list]:
    """Rows (row, line, user, item) and rejects (row, line, reason, text), read by ranges of `chunk` bytes."""
    path.write_bytes(data)
    source = {"kind": "delimited", "paths": [str(path)], "header": False, "columns": ["user", "item"]} | more
    sections = {
        "source": source,
        "dataset": {"path": "/x"},
        "train": {"num_steps": 1},
        "output": {"path": "/x"},
    }
    reader = make_reader(parse_config(sections, "test").source, JobLayout("", "", chunk_bytes=chunk))
    rows, rejects = [], []
    for piece in read_pieces(reader):
        keys = [piece.columns[name].to_pylist() for name in ("user", "item")]
        rows += list(zip(piece.rows.tolist(), piece.lines.tolist(), *keys, strict=True))
        rejects += [(r.row, r.line, r.reason, r.text) for r in piece.rejects]
    return rows, rejects


@given(
    data=st.text('ab",\n\r\\', max_size=60), chunk=st.integers(1, 20), escape=st.sampled_from([None, "\\"])
)
@settings(max_examples=150, deadline=None)
def test_ranges_of_any_size_hold_the_same_records(tmp_path_factory, data, chunk, escape):
    path = tmp_path_factory.getbasetemp() / "ranges.csv"
    data = ("u,i\n" + data).encode()
    assert _read(path, data, chunk, escape=escape) == _read(path, data, 1 << 21, escape=escape)


def test_every_place_of_a_range_boundary_in_a_record(tmp_path):
    body = 'u1,i1\n"u2, ""x""\nwell, good\n",i2\nu3,"i\n3"\nu"4,i4\n' * 3
    whole = _read(tmp_path / "x.csv", body.encode(), 1 << 21)
    assert not whole[1] and [row[2:] for row in whole[0][:4]] == [
        ("u1", "i1"), ('u2, "x"\nwell, good\n', "i2"), ("u3", "i\n3"), ('u"4', "i4")
    ]  # fmt: skip
    for chunk in range(1, len(body)):
        assert _read(tmp_path / "x.csv", body.encode(), chunk) == whole, chunk


@pytest.mark.parametrize("delimiter", ["::", "|~|", "\t", "§"])
def test_delimiters_of_several_characters(tmp_path, delimiter):
    body = f'u1{delimiter}i1\n"u{delimiter}2"{delimiter}"i\n2"\nu3{delimiter}i:3\n'.encode()
    rows, rejects = _read(tmp_path / "x.csv", body, 9, delimiter=delimiter)
    assert [row[2:] for row in rows] == [("u1", "i1"), (f"u{delimiter}2", "i\n2"), ("u3", "i:3")]
    assert not rejects and rows == _read(tmp_path / "x.csv", body, 1 << 21, delimiter=delimiter)[0]

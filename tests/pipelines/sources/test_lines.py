"""Line ends, encodings, headers and long lines of text files."""

import bz2
import gzip
import tracemalloc

import pytest

from configs.errors import DataError
from pipelines.job import JobLayout
from pipelines.sources import lines
from pipelines.sources.lines import MAX_LINE_BYTES
from pipelines.sources.reader import make_reader
from tests.pipelines.sources.pieces import read_pieces
from tests.support.prepared import configure

ROWS = [("u1", "é"), ("u2", "i,2"), ("u3", "日本")]
TEXT = 'user,item\nu1,é\nu2,"i,2"\nu3,日本\n'


def read(path, data: bytes, chunk: int = 1 << 21, kind: str = "delimited", **more) -> tuple[list, list, int]:
    """Rows (user, item), rejects (line, reason) and repeated headers."""
    path.write_bytes(data)
    source = configure({"kind": kind, "paths": [str(path)]} | more, {"path": "/x"}).source
    rows, rejects, headers = [], [], 0
    for piece in read_pieces(make_reader(source, JobLayout("", "", chunk_bytes=chunk))):
        rows += zip(*(piece.columns[name].to_pylist() for name in ("user", "item")), strict=True)
        rejects += [(reject.line, reject.reason) for reject in piece.rejects]
        headers += piece.notes["repeated_header"]
    return rows, rejects, headers


@pytest.mark.parametrize("chunk", [3, 16, 1 << 21])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end, chunk):
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    data = (mark + TEXT.replace("\n", end)).encode(encoding)
    assert read(tmp_path / "x", data, chunk) == (ROWS, [], 0)
    assert read(tmp_path / "x.gz", gzip.compress(data), chunk) == (ROWS, [], 0)


def test_torn_utf16_stops_and_half_a_pair_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"x: not whole UTF-16 text \(truncated data\); write it again"):
        read(tmp_path / "x", TEXT.encode("utf-16")[:-1])
    data = "\ufeffuser,item\nu1,\ud800\nu2,i\n".encode("utf-16-le", "surrogatepass")
    assert read(tmp_path / "x", data) == ([("u2", "i")], [(2, "not_utf8")], 0)
    with pytest.raises(DataError, match="looks like UTF-16 without a byte order mark"):
        read(tmp_path / "x", TEXT.encode("utf-16-le"))


@pytest.mark.parametrize("chunk", [5, 1 << 21])
@pytest.mark.parametrize("again", ["user,item", "\ufeffuser,item", '"user","item"', '\ufeff"user","item"'])
def test_a_repeated_header_is_no_row(tmp_path, again, chunk):
    data = f"user,item\nu1,user\n{again}\nu2,item\n{again}\nitem,user\n".encode()
    expected = ([("u1", "user"), ("u2", "item"), ("item", "user")], [], 2)
    assert read(tmp_path / "x", data, chunk) == expected
    parts = [
        gzip.compress(part.encode())
        for part in (f"user,item\nu1,user\n{again}\nu2,item\n", f"{again}\nitem,user\n")
    ]
    assert read(tmp_path / "x.gz", b"".join(parts), chunk) == expected


def test_a_repeated_header_with_numbers_in_its_columns(tmp_path):
    data = b"user,ts,item,rating\nu1,5,i1,2\nuser,ts,item,rating\nu2,6,i2,3\n"
    roles = {"timestamp": "ts", "label": "rating"}
    assert read(tmp_path / "x", data, roles=roles) == ([("u1", "i1"), ("u2", "i2")], [], 1)
    named = data.split(b"\n", 1)[1]
    more = {"header": False, "columns": ["user", "ts", "item", "rating"], "roles": roles}
    assert read(tmp_path / "x", named, **more)[2] == 1


def test_a_repeated_header_in_other_letters(tmp_path):
    data = b"User,item,ts\nu1,i1,5\nUSER,ITEM,TS\nu2,i2,6\nuser,Item,ts\nu3,i3,7\n"
    roles = {"user": "User", "timestamp": "ts"}
    for chunk in (5, 1 << 21):
        found = read(tmp_path / "x", data, chunk, roles=roles)
        assert found == ([("u1", "i1"), ("u2", "i2"), ("u3", "i3")], [], 2)


@pytest.mark.parametrize("other", ["item,user,ts,more", "user,more,item,ts", "TS,item,user,more"])
def test_a_header_with_columns_in_another_order_stops(tmp_path, other):
    data = f"user,item,ts,more\nu1,i1,5,x\n{other}\ni2,u2,6,y\n".encode()
    for chunk in (5, 1 << 21):
        with pytest.raises(DataError, match=r"x:3: a header in the middle has the columns in another order"):
            read(tmp_path / "x", data, chunk, roles={"timestamp": "ts"})


def test_headers_that_are_quoted_wide_or_loose(tmp_path):
    path = tmp_path / "x"
    rows = [("u1", "i1")]
    assert read(path, b'"a,b","user","item"\n1,u1,i1\n')[0] == rows
    assert read(path, b'"a\nb","user","item"\n1,u1,i1\n', 9)[0] == rows
    assert read(path, b'user, item ,"x ""y"""\nu1,i1,1\n')[0] == rows
    assert read(path, b"user,item,a,a\nu1,i1,1,2\n")[0] == rows
    assert read(path, b"user,item\nu1,i1,\n")[0] == rows
    assert read(path, b"\n\nuser,item\n\nu1,i1\n   \n")[0] == rows
    wide = ",".join(f"column_{i}" for i in range(20_000)).encode()
    assert len(wide) > 1 << 16
    assert read(path, b"user,item," + wide + b"\nu1,i1" + b"," * 20_000 + b"\n")[0] == rows
    with pytest.raises(DataError, match="duplicate column 'item'"):
        read(path, b"user,item,item\nu1,i1,i2\n")
    with pytest.raises(DataError, match="the first line is longer than 1 MiB"):
        read(path, b"user,item," + b"x" * MAX_LINE_BYTES)


@pytest.mark.parametrize("kind", ["delimited", "jsonl"])
@pytest.mark.parametrize("chunk", [1 << 16, 1 << 21])
def test_a_long_line_is_refused_with_its_place(tmp_path, kind, chunk):
    def line(user: str) -> bytes:
        return (
            f"{user},i\n".encode() if kind == "delimited" else f'{{"user": "{user}", "item": "i"}}\n'.encode()
        )

    header = b"user,item\n" if kind == "delimited" else b""
    first = 2 if header else 1
    data = (
        header + line("a") + line("x" * (MAX_LINE_BYTES + 1)) + line("b") + line("y" * (5 << 20)) + line("c")
    )
    expected = [("a", "i"), ("b", "i"), ("c", "i")]
    rejects = [(first + 1, "line_too_long"), (first + 3, "line_too_long")]
    for path, content in (("x", data), ("x.gz", gzip.compress(data)), ("x.bz2", bz2.compress(data))):
        assert read(tmp_path / path, content, chunk, kind=kind) == (expected, rejects, 0)
    longest = MAX_LINE_BYTES - len(line("")) + 1
    assert read(tmp_path / "x", header + line("z" * longest), chunk, kind=kind)[1] == []


def test_memory_does_not_grow_with_a_line(tmp_path):
    path = tmp_path / "x.gz"
    peaks = []
    for size in (8, 64):
        with gzip.open(path, "wb", 1) as file:
            file.write(b"user,item\nu1,i1\n")
            for _ in range(size):
                file.write(b"x" * (1 << 20))
        tracemalloc.start()
        assert sum(map(len, lines.stream_lines(str(path), 1 << 21))) < 4 << 20
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 20) < 16 << 20


def test_ranges_inside_a_long_line_hold_nothing(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"a\n" + b"x" * (4 << 20) + b"\nb\n")
    assert lines.read_lines(str(path), 1 << 20, 2 << 20) == (2 << 20, b"")
    place, data = lines.read_lines(str(path), 0, 1 << 20)
    assert place == 0 and MAX_LINE_BYTES < len(data) < 3 << 20
    assert lines.read_lines(str(path), 3 << 20, 5 << 20) == ((4 << 20) + 3, b"b\n")


def test_dumps_with_escapes_hold_nulls(tmp_path):
    data = b"u\\\t1\ti1\n\\N\t\\N\nu\\\\2\t\\N\r\nu3\t\\Nn\n"
    more = {"header": False, "columns": ["user", "item"], "delimiter": "\\t", "escape": "\\", "quote": None}
    assert read(tmp_path / "x", data, **more)[0] == [("u\t1", "i1"), ("", ""), ("u\\2", ""), ("u3", "Nn")]

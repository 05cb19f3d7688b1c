"""Compressed files by their content: whole, in several streams, torn, dirty, and with names that mislead."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest
import zstandard

from configs.errors import DataError
from pipelines.sources.compression import can_cut, foreign_format, open_stream

TEXT = b"user,item\n" + b"".join(b"u%d,i%d\n" % (i, i * i) for i in range(30_000))


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner/", b"")
        archive.writestr("inner/x.csv", data)
        archive.writestr("__MACOSX/._x.csv", b"clutter")
    return file.getvalue()


COMPRESS = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.compress, "zip": zipped,
}  # fmt: skip
STREAMS = [name for name in COMPRESS if name != "zip"]


def read(path) -> bytes:
    with open_stream(str(path)) as file:
        return b"".join(iter(lambda: file.read(10_000), b""))


@pytest.mark.parametrize("name", COMPRESS)
@pytest.mark.parametrize("file_name", ["x.csv.{}", "x.csv.{}".upper(), "x.csv", "x"])
def test_content_decides(tmp_path, name, file_name):
    path = tmp_path / file_name.format(name)
    path.write_bytes(COMPRESS[name](TEXT))
    assert read(path) == TEXT
    assert not can_cut(str(path))


@pytest.mark.parametrize("name", STREAMS)
def test_several_streams_are_one_file(tmp_path, name):
    path = tmp_path / "x"
    path.write_bytes(COMPRESS[name](TEXT[:999]) + COMPRESS[name](b"") + COMPRESS[name](TEXT[999:]))
    assert read(path) == TEXT


@pytest.mark.parametrize("name", COMPRESS)
@pytest.mark.parametrize("kept", [14, 0.5, 0.99, -3])
def test_torn_files(tmp_path, name, kept):
    whole = COMPRESS[name](TEXT)
    path = tmp_path / "x"
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(DataError, match=r"x: incomplete or broken \w+ file \(.*\); write it again$"):
        read(path)


@pytest.mark.parametrize("name", STREAMS)
def test_what_follows_the_last_stream_is_not_dropped(tmp_path, name):
    path = tmp_path / "x"
    path.write_bytes(COMPRESS[name](TEXT) + b"\x1f other bytes")
    with pytest.raises(DataError, match="incomplete or broken|despite its name"):
        read(path)


def test_padding_between_and_after_streams(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(lzma.compress(TEXT[:9]) + bytes(8) + lzma.compress(TEXT[9:]) + bytes(200_000))
    assert read(path) == TEXT
    path.write_bytes(gzip.compress(TEXT) + bytes(512))
    assert read(path) == TEXT


def test_a_name_that_promises_more_than_there_is(tmp_path):
    path = tmp_path / "x.csv.bz2"
    path.write_bytes(TEXT)
    for look in (read, lambda p: can_cut(str(p))):
        with pytest.raises(
            DataError, match="not a bzip2 file despite its name, it begins with b'user,item.*rename it"
        ):
            look(path)


def test_plain_text_is_cut(tmp_path):
    for content in (TEXT, b"", b"BZh,item\n", b"PK,item\n", b"(,item\n"):
        (tmp_path / "x.csv").write_bytes(content)
        assert can_cut(str(tmp_path / "x.csv")) and read(tmp_path / "x.csv") == content


def test_archives_of_many_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.csv", TEXT)
        archive.writestr("b.csv", TEXT)
    with pytest.raises(DataError, match="x.zip: .*must contain one file, found 2; extract it"):
        read(tmp_path / "x.zip")


def test_foreign_formats_have_a_name_and_advice():
    assert foreign_format(b"PAR1....").startswith("Parquet; set source.kind")
    assert foreign_format(bytes(257) + b"ustar") == "a tar archive; extract it first"
    assert foreign_format(b"user,item\n") is None

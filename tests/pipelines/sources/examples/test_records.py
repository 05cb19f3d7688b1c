"""TFRecord files in every compression, read whole or in pieces; and damaged ones."""

import gzip
import zlib

import pytest
import tensorflow as tf

from configs.errors import DataError
from pipelines.sources.examples.records import count_records, stream_records

pytestmark = pytest.mark.any_python

RECORDS = [b"first", b"", b"x" * 5000, b"last"]


def write(path, compression: str = "") -> str:
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in RECORDS:
            writer.write(record)
    return str(path)


def read(path: str, compression: str = "auto", size: int = 1 << 20, most: int = 100) -> list[bytes]:
    found = []
    for part in stream_records(path, compression, size, most):
        assert part.first == len(found) + 1
        found += [part.data[a:b] for a, b in zip(part.starts, part.ends, strict=True)]
    return found


@pytest.mark.parametrize("compression", ["", "GZIP", "ZLIB"])
def test_every_compression_is_recognized(tmp_path, compression):
    path = write(tmp_path / "x", compression)
    for size, most in ((1 << 20, 100), (1, 100), (13, 1), (6000, 2)):
        assert read(path, size=size, most=most) == RECORDS
        assert count_records(path, "auto", size) == len(RECORDS)
    assert read(path, compression.lower() or "none") == RECORDS


def test_several_gzip_members_are_read_to_the_end(tmp_path):
    path = write(tmp_path / "x", "GZIP")
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data * 2)
    assert read(path) == RECORDS * 2


def damaged(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


THIRD = 12 + 5 + 4 + 12 + 0 + 4  # where the third record begins


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-2], "record 4 is cut off: 18 of its 20 bytes are there"),
        (lambda data: data[: THIRD + 7], "record 3 is cut off: 7 of its 12 bytes are there"),
        (lambda data: damaged(data, THIRD), "record 3 is damaged: the checksum of its length does not fit"),
        (lambda data: damaged(data, THIRD + 7), "record 3 is damaged: the checksum of its length"),
        (lambda data: damaged(data, THIRD + 99), "record 3 is damaged: its checksum does not fit its data"),
        (
            lambda data: damaged(data, len(data) - 1),
            "record 4 is damaged: its checksum does not fit its data",
        ),
        (lambda data: data + b"\0" * 20, "record 5 is damaged: the checksum of its length does not fit"),
        (lambda data: damaged(data, 0), "record 1 has no valid header"),
        (lambda data: b"user,item\nu,i\n" * 9, "record 1 has no valid header"),
        (lambda data: b"PAR1" + data, "contains Parquet; set source.kind: parquet"),
        (lambda data: gzip.compress(data)[:-9], "incomplete or broken gzip file"),
        (lambda data: zlib.compress(data)[:-9], "incomplete or broken zlib file"),
        (lambda data: zlib.compress(data) + b"more", "incomplete or broken zlib file (data after its end"),
        (lambda data: gzip.compress(data[:-1]), "record 4 is cut off: 19 of its 20 bytes are there"),
    ],
)
def test_damage_is_said_in_one_line_with_the_record(tmp_path, damage, message):
    path = write(tmp_path / "x")
    (tmp_path / "x").write_bytes(damage((tmp_path / "x").read_bytes()))
    for size in (1 << 20, 1):
        with pytest.raises(DataError) as caught:
            read(path, size=size)
        assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_a_wrong_compression_is_refused(tmp_path):
    path = write(tmp_path / "x")
    for compression in ("gzip", "zlib"):
        with pytest.raises(DataError, match=f"broken {compression} file .*remove source.compression"):
            read(path, compression)
    with pytest.raises(
        DataError, match="record 1 has no valid header.*check source.kind and source.compression"
    ):
        read(write(tmp_path / "z", "ZLIB"), "none")

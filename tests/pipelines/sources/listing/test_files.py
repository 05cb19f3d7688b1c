"""Which files a source has: order, links, names of one file, clutter, empty parts, what cannot be read."""

import bz2
import gzip
import logging
import os
import pathlib

import pytest

from configs.errors import DataError
from pipelines.sources.listing.files import list_files


@pytest.fixture
def place(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names: str, text: str = "user,item\n") -> None:
    for name in names:
        path = pathlib.Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(*patterns: str) -> list[str]:
    return [file.name for file in list_files(patterns)]


def test_order_is_that_of_the_patterns_and_natural_inside_one(place):
    make("events_10.csv", "events_8.csv", "events_9/b.csv", "a.csv", "z2", "z10", "z02")
    assert names("z*") == ["z02", "z2", "z10"]
    assert names("events_*") == ["events_8.csv", "events_9/b.csv", "events_10.csv"]
    assert names("z10", "events_*.csv", "a.csv") == ["z10", "events_8.csv", "events_10.csv", "a.csv"]


def test_globs(place):
    make("a/x.csv", "a/b/x.csv", "a/b/c/y.csv", "a/b/c/x.txt", "ab.csv", "ac.csv")
    assert names("a/**/*.csv") == ["a/b/c/y.csv", "a/b/x.csv", "a/x.csv"]
    assert names("a/**") == names("a") == ["a/b/c/x.txt", "a/b/c/y.csv", "a/b/x.csv", "a/x.csv"]
    assert names("a[!b].csv") == ["ac.csv"] and names("a?.csv") == ["ab.csv", "ac.csv"]
    assert names(f"{place}/a/*/x.csv") == [f"{place}/a/b/x.csv"]
    assert names(f"file://{place}/ab.csv") == [f"{place}/ab.csv"]


def test_a_name_with_brackets_that_exists_is_that_file(place):
    make("ev[1].csv", "ev1.csv", "d[2]/x.csv", "q?.csv")
    assert names("ev[1].csv") == ["ev[1].csv"]
    assert names("d[2]/*.csv") == ["d[2]/x.csv"]
    with pytest.raises(DataError, match=r"write \[\[\] for a bracket"):
        names("no[3]*.csv")


def test_links_are_followed(place):
    make("store/b.csv", "store/deep/c.csv", "in/a.csv")
    os.symlink("../store/b.csv", "in/b.csv")
    os.symlink("../store/deep", "in/d")
    os.symlink("..", "store/deep/up")  # leads in a circle
    assert names("in/*.csv") == ["in/a.csv", "in/b.csv"]
    assert names("in/**/*.csv")[:2] == ["in/a.csv", "in/b.csv"]
    assert {os.path.realpath(name) for name in names("in")} == {
        f"{place}/{name}" for name in ("in/a.csv", "store/b.csv", "store/deep/c.csv")
    }


@pytest.mark.parametrize("target", ["nowhere.csv", "x.csv"])
def test_links_that_lead_nowhere_are_an_error(place, target):
    make("a.csv")
    os.symlink(target, "x.csv")
    for pattern in ("*.csv", "x.csv", "."):
        with pytest.raises(DataError, match=f"x.csv: is a link to {target}, which does not exist; "):
            names(pattern)


def test_one_file_is_read_once_whatever_it_is_called(place, caplog):
    make("data/a.csv", "data/b.csv")
    os.symlink("a.csv", "data/link.csv")
    os.link("data/a.csv", "data/hard.csv")
    make("data/same_content.csv")
    with caplog.at_level(logging.WARNING):
        found = names(
            "data/a.csv", "./data/a.csv", "data//a.csv", f"{place}/data/*.csv", "data/../data/b.csv"
        )
    assert found == ["data/a.csv", f"{place}/data/b.csv", f"{place}/data/same_content.csv"]
    assert "files named more than once, read once: 6 (./data/a.csv is data/a.csv, " in caplog.text


def test_clutter_is_left_out_and_counted(place, caplog):
    make(
        "s/_SUCCESS", "s/.part-0.csv.crc", "s/part-0.csv.crc", "s/._x", "s/_metadata", "s/_common_metadata",
        "s/_temporary/0/part-0.csv", "s/.hidden/x.csv", "s/part-0.csv", "s/_day=1/part-1.csv", "s/Thumbs.db",
    )  # fmt: skip
    make("s/part-2.csv", text="")
    for name, empty in (("s/part-3.csv.gz", gzip.compress(b"")), ("s/part-4.bz2", bz2.compress(b""))):
        pathlib.Path(name).write_bytes(empty)
    with caplog.at_level(logging.WARNING):
        assert names("s") == names("s/*") == ["s/_day=1/part-1.csv", "s/part-0.csv"]
    assert "files left out by name (hidden, begins with _, or a checksum): 9 (" in caplog.text
    assert "empty files left out: 3 (s/part-2.csv, s/part-3.csv.gz, s/part-4.bz2)" in caplog.text
    assert names("s/_S*", "s/part-0.csv") == ["s/_SUCCESS", "s/part-0.csv"], "asked for by name"


def test_nothing_left_is_an_error(place):
    make("s/_SUCCESS")
    make("s/part-0.csv", "x.csv", text="")
    with pytest.raises(DataError, match="s: all matches are left out: s/part-0.csv, s/_SUCCESS;"):
        names("s")
    with pytest.raises(DataError, match="x.csv: the file is empty; remove it"):
        names("x.csv")
    os.mkdir("none")
    for pattern, message in (
        ("none", "contains no files"),
        ("none/*", "no file matches"),
        ("no", "no such file"),
    ):
        with pytest.raises(DataError, match=f"{message}"):
            names("s/_SUCCESS", pattern)


def test_other_things_than_files_are_an_error(place):
    make("a.csv")
    os.mkfifo("pipe.csv")
    for pattern in ("*.csv", "pipe.csv"):
        with pytest.raises(DataError, match="pipe.csv: is a pipe, socket or device"):
            names(pattern)


def test_tables_that_keep_old_rows_are_an_error(place):
    make("t/_delta_log/0.json", "t/part-0.parquet")
    for pattern in ("t", "t/*", "t/**", "t/*.parquet"):
        with pytest.raises(DataError, match="t: is a Delta Lake table, whose files also hold deleted rows"):
            names(pattern)
    assert names("t/part-0.parquet") == ["t/part-0.parquet"]


@pytest.mark.parametrize("url, message", [
    ("s3://bucket/x.csv", "s3:// is not supported here .*; copy the files to a local disk or gs://"),
    ("foo://x.csv", "foo:// is not a known scheme; use a local disk or gs://"),
    ("GS://bucket/x.csv", "GS:// is not a known scheme; use"),
    ("gs:/bucket/x.csv", "gs:/ needs a second slash to be a URL; write gs://bucket/path"),
    ("https://host/x.csv", "cannot be read over https://; download it to a local disk or gs://"),
])  # fmt: skip
def test_schemes(url, message):
    with pytest.raises(DataError, match=message) as caught:
        list_files([url])
    assert "\n" not in str(caught.value)


def test_names_that_fsspec_takes_for_chains(place):
    make("a::b.csv", "c#d.csv", "e%20f.csv")
    assert names("*.csv") == ["a::b.csv", "c#d.csv", "e%20f.csv"]


def test_a_bucket(bucket, caplog):
    content = {
        "raw/ev_10": b"a", "raw/ev_9": b"b", "raw/_SUCCESS": b"", "raw/.x.crc": b"c", "raw/ev_11": b"",
        "raw/deep/ev_1": b"d", "raw/ev[1]": b"e", "raw/": b"",
    }  # fmt: skip
    for name, data in content.items():
        bucket.write(name, data)
    with caplog.at_level(logging.WARNING):
        assert names("gs://bucket/raw/ev_*") == ["gs://bucket/raw/ev_9", "gs://bucket/raw/ev_10"]
        everything = [f"gs://bucket/raw/{name}" for name in ("deep/ev_1", "ev[1]", "ev_9", "ev_10")]
        assert names("gs://bucket/raw") == names("gs://bucket/raw/**") == everything
    assert "empty files left out: 1 (gs://bucket/raw/ev_11)" in caplog.text
    assert names("gs://bucket/raw/ev[1]") == ["gs://bucket/raw/ev[1]"]
    assert names("gs://bucket/raw/ev_9", "gcs://bucket/raw/ev_9") == ["gs://bucket/raw/ev_9"]
    for pattern in ("gs://bucket/none", "gs://bucket/none/*"):
        with pytest.raises(DataError, match="no such file|no file matches"):
            names(pattern)

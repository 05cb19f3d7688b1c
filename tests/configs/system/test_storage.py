"""Files on a local disk and in an object store (fsspec's in-memory one) behave alike."""

import os
import socket
import time

import fsspec
import pytest

from configs.errors import ConfigError
from configs.system import storage


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "root")
    else:
        yield "memory://storage-test/root"
        fsspec.filesystem("memory").rm("/storage-test", recursive=True)


@pytest.fixture(autouse=True)
def store():
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/storage-test/other", b"")


def test_whole_files(root):
    path = storage.join(root, "a", "file")
    assert not storage.exists(path) and storage.names(root) == []
    storage.make_directory(storage.join(root, "a"))
    for content in (b"old", b"new and longer"):
        storage.write_bytes(path, content)
        assert storage.read_bytes(path) == content
    assert storage.names(root) == ["a"] and storage.names(storage.join(root, "a")) == ["file"]
    storage.sync_directory(root)
    storage.remove(root)
    assert not storage.exists(path) and storage.names(root) == []
    storage.remove(root)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(path)


def test_pieces(root):
    path = storage.join(root, "pieces")
    storage.make_directory(root)
    with storage.writing(path) as file:
        for _ in range(3):
            file.write(b"x" * 1000)
    with storage.reading(path) as file:
        file.seek(2990)
        assert file.read() == b"x" * 10
    storage.remove(path)
    assert storage.names(root) == []


def test_a_failed_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*unused):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.write_bytes(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "path, remote", [("run", False), ("/tmp/run", False), ("file:///tmp/run", False), ("gs://b/run", True)]
)
def test_what_is_remote(path, remote):
    assert storage.is_remote(path) is remote


def test_created_files_replace_none(root):
    storage.make_directory(root)
    path = storage.join(root, "file")
    storage.create_bytes(path, b"first")
    with pytest.raises(FileExistsError):
        storage.create_bytes(path, b"second")
    assert storage.read_bytes(path) == b"first" and storage.names(root) == ["file"]


@pytest.mark.parametrize(
    "path, problem", [("s3://bucket/run", "Install s3fs"), ("foo://run", "not known: foo")]
)
def test_stores_without_a_driver_are_one_line(path, problem):
    with pytest.raises(ConfigError, match=f"^{path}: .*{problem}.*; use a local path or gs://$"):
        storage.exists(path)


@pytest.mark.parametrize("content", [b"\r", b"\n", b"\r\n", b"x\r\n\r\ny\n\n", b"--==0==--", b""])
def test_line_breaks_in_a_bucket(bucket, content):
    storage.write_bytes(f"{bucket.url}/file", content)
    assert bucket.read("file") == storage.read_bytes(f"{bucket.url}/file") == content


def test_the_bucket_of_tests_answers_after_any_pause(request):
    """A client of Google's services gives all later sockets of its process a timeout, servers too."""
    socket.setdefaulttimeout(0.1)
    try:
        bucket = request.getfixturevalue("bucket")
        time.sleep(0.3)
    finally:
        socket.setdefaulttimeout(None)
    host, _, port = bucket.environment["https_proxy"].removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"CONNECT storage.googleapis.com:443 HTTP/1.1\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")

"""The machine's log: it arrives whole, stays bounded, and a full disk does not affect its writer."""

import errno
import io
import os

import pytest

from trainer.jobs.logs import LogReader
from trainer.jobs.record import JobRecord
from trainer.vm import log as vm_log
from trainer.vm.files import Directory
from trainer.vm.log import Log


@pytest.fixture
def small(monkeypatch):
    """Pieces of ten bytes, of which the first two and the last three stay."""
    for name, value in {"CHUNK_BYTES": 10, "HEAD_PIECES": 2, "TAIL_PIECES": 3, "WAITING_PIECES": 4}.items():
        monkeypatch.setattr(vm_log, name, value)


def pieces(directory) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((directory / "job" / "log").iterdir())}


def make(tmp_path) -> Log:
    return Log(str(tmp_path / "log.txt"), Directory(str(tmp_path / "job")), "log/worker-0-")


def test_it_arrives_whole_in_pieces_that_grow(tmp_path, small):
    log = make(tmp_path)
    for text in ("first\n", "and more than one piece\n", "", "end\n"):
        log.write(text)
        log.ship()
    found = pieces(tmp_path)
    assert "".join(found.values()) == (tmp_path / "log.txt").read_text()
    assert [len(text) for text in found.values()] == [10, 10, 10, 4]
    assert log.last_lines() == ["first", "and more than one piece", "end"]


def test_the_middle_of_a_long_log_goes(tmp_path, small):
    log = make(tmp_path)
    for number in range(20):
        log.write(f"line {number:04}\n")
        log.ship()
    kept = [int(name.removeprefix("worker-0-").removesuffix(".txt")) for name in pieces(tmp_path)]
    assert kept == [0, 1, 18, 19] or kept == [0, 1, 17, 18, 19]


def test_what_cannot_be_copied_is_given_up_the_oldest_first(tmp_path, small):
    log = make(tmp_path)
    log.ship()
    for number in range(9):
        log.write(f"line {number:04}\n")
    assert len(log._waiting) == 4
    log.ship()
    assert "".join(pieces(tmp_path).values()) == "".join(f"line {number:04}\n" for number in range(6, 9))


def test_a_machine_that_was_started_again_appends(tmp_path, small):
    for text in ("the first boot\n", "the second boot\n"):
        log = make(tmp_path)
        log.write(text)
        log.ship()
    assert "".join(pieces(tmp_path).values()) == "the first boot\nthe second boot\n"


def test_the_machine_s_own_file_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(vm_log, "FILE_BYTES", 100)
    log = make(tmp_path)
    for number in range(200):
        log.write(f"line {number:04}\n")
    names = ("log.txt.first", "log.txt.before", "log.txt")
    first, before, last = ((tmp_path / name).read_text() for name in names)
    assert first.startswith("line 0000\n") and last.endswith("line 0199\n")
    assert max(map(len, (first, before, last))) <= 110


def test_a_full_disk_reaches_nobody_and_the_log_arrives_all_the_same(tmp_path, monkeypatch):
    log, write = make(tmp_path), os.write

    def full(handle, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    print("step 5/10 (50%)  loss 1.5", file=log, flush=True)
    monkeypatch.setattr(os, "write", write)
    log.ship()
    assert list(pieces(tmp_path).values()) == ["step 5/10 (50%)  loss 1.5\n"]
    assert log.latest_progress() == {"step": 5, "total": 10, "loss": 1.5}


def test_a_directory_that_is_gone_reaches_nobody(tmp_path):
    log = Log(str(tmp_path / "none" / "log.txt"))
    log.pump(io.BytesIO(b"a line\n" * 3))
    assert log.last_lines() == ["a line"] * 3


def test_the_newest_checkpoint_is_known():
    log = Log("/dev/null")
    log.write("checkpoint of step 40: full, planned\ncheckpoint of step 60: increment\n")
    log.write("step 70/100 (70%)\n")
    assert log.latest_progress() == {"step": 70, "total": 100, "saved": 60}


def test_readers_see_where_something_is_missing(tmp_path):
    record = JobRecord.create(f"{tmp_path}/job", {"name": "n"})
    record.append("requesting", 1)
    files = Directory(record.attempt_path(1))
    files.put("log/worker-0-000000.txt", b"a\n")
    files.put("log/worker-0-000005.txt", b"b\n")
    text = "".join(LogReader(record).new())
    assert text == "--- attempt 1, worker 0\na\n--- 4 pieces of the log, 1.0 MB, were not kept\nb\n"

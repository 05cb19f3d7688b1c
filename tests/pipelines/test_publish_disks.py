"""Publishing on disks as they are: mounts, links, several names, full ones, and others who read or write."""

import errno
import os
import pathlib
import subprocess
import threading

import pytest

from configs.dataset_lock import DatasetLock
from configs.errors import DataError
from configs.manifest import load_dataset
from configs.system.file_lock import FileLock
from pipelines.prepare import prepare
from pipelines.stages.files import DIRECTORIES
from pipelines.workspace import LOCK_NAME, disk_errors, workspace
from tests.support.prepared import configure

pytestmark = pytest.mark.any_python

SYNTHETIC = {"kind": "synthetic", "rows": 3000, "users": 50, "items": 40}


def prepared(path, overwrite=False, **more):
    config = configure(SYNTHETIC, {"path": str(path), "num_shards": 2, **more})
    return prepare(config.source, config.dataset, overwrite=overwrite)


def listed(dataset) -> set[str]:
    parts = (*dataset.splits.values(), dataset.users, dataset.items)
    return {file.path for part in parts for file in part.files}


def whole(path) -> bool:
    return all((pathlib.Path(path) / name).exists() for name in listed(load_dataset(str(path))))


@pytest.fixture
def small_disk(tmp_path):
    """A separate disk of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_target_on_another_disk(small_disk, tmp_path):
    """A mount point, and a link to a directory elsewhere."""
    prepared(small_disk)
    assert whole(small_disk)
    (small_disk / "inner").mkdir()
    (tmp_path / "link").symlink_to(small_disk / "inner")
    prepared(tmp_path / "link")
    assert whole(tmp_path / "link") and (tmp_path / "link").is_symlink()
    assert not list(tmp_path.rglob(".prepare*"))


def test_a_link_to_nothing_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    prepared(tmp_path / "link")
    assert whole(tmp_path / "deep" / "er")


def test_a_part_of_the_target_on_another_disk_is_refused_before_any_work(small_disk, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "train").symlink_to(small_disk)
    with pytest.raises(DataError, match=r"out/train: files cannot be moved there .*; make it an ordinary"):
        with workspace(str(out)):
            pytest.fail("nothing may be read")
    assert os.listdir(out) == ["train"] and not os.listdir(small_disk)


def test_one_directory_has_one_lock_whatever_its_name(tmp_path, monkeypatch):
    out = tmp_path / "out"
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    names = [str(out), "out", "x/../out", str(tmp_path / "link"), f"{out}/", f"file://{out}"]
    for name in names:
        with workspace(name):
            for other in names:
                with pytest.raises(DataError, match="another `lazytower prepare` is writing it .process"):
                    with workspace(other):
                        pass
    assert not out.exists()


def test_many_jobs_of_one_directory_leave_one_whole_dataset(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    done, refused = [], []

    def job(name, seed):
        try:
            done.append(prepared(tmp_path / name, overwrite=True, seed=seed))
        except DataError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=job, args=(name, i)) for i, name in enumerate(["out", "link"] * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) + len(refused) == 4 and done and whole(tmp_path / "out")
    assert all("another `lazytower prepare`" in text for text in refused)


def test_a_dataset_that_is_read_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    first = prepared(out)
    with DatasetLock(str(out)), DatasetLock(str(out)):
        with pytest.raises(DataError, match=rf"process {os.getpid()} .* reads this dataset; wait for it or"):
            prepared(out, overwrite=True, seed=1)
        assert load_dataset(str(out)).fingerprint == first.fingerprint and whole(out)
        assert prepared(out).fingerprint == first.fingerprint  # nothing to do, nothing to refuse
    assert prepared(out, overwrite=True, seed=1).fingerprint != first.fingerprint and whole(out)


def test_a_dataset_that_is_being_replaced_is_not_read(tmp_path):
    out = tmp_path / "out"
    prepared(out)
    with workspace(str(out)):
        with pytest.raises(DataError, match=r"out: process \d+ .* is replacing this dataset; wait for it"):
            DatasetLock(str(out))
    DatasetLock(str(out)).close()


def test_nothing_is_held_where_there_is_nothing(tmp_path):
    DatasetLock(str(tmp_path / "none")).close()
    DatasetLock("memory://bucket/none").close()


def test_the_lock_is_no_way_to_other_files(tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.write_text("mine")
    (out / LOCK_NAME).symlink_to(other)
    with pytest.raises(DataError, match="cannot write there .is a link"):
        prepared(out)
    assert other.read_text() == "mine"


def test_a_locked_file_keeps_its_content(tmp_path):
    path = tmp_path / "lock"
    path.write_text("mine")
    FileLock(str(path)).close()
    assert path.read_text() == "mine"


def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk, caplog):
    with pytest.raises(DataError) as caught:
        config = configure({**SYNTHETIC, "rows": 300_000}, {"path": str(small_disk / "out"), "num_shards": 2})
        prepare(config.source, config.dataset)
    text = str(caught.value)
    assert text.startswith(str(small_disk)) and "No space left on device; free space there" in text
    assert "\n" not in text and "Traceback" not in caplog.text and "[Errno" not in caplog.text
    assert not os.listdir(small_disk)


@pytest.mark.parametrize(
    ("number", "place"),
    [
        *((errno.ENOSPC, place) for place in ("dataset.json", DIRECTORIES[0])),
        *((number, "dataset.json") for number in (errno.EDQUOT, errno.EIO)),
        *((number, DIRECTORIES[0]) for number in (errno.EROFS, errno.EACCES)),
    ],
)
def test_a_disk_that_refuses_while_publishing(tmp_path, monkeypatch, number, place):
    first = prepared(tmp_path / "out")
    rename = os.replace

    def replace(source, target):
        if place in str(target) and ".prepare-" not in str(target):
            raise OSError(number, os.strerror(number), target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(DataError, match=f"{place}.*: {os.strerror(number)}; .*Nothing is published"):
        prepared(tmp_path / "out", overwrite=True, seed=1)
    monkeypatch.undo()
    assert load_dataset(str(tmp_path / "out")).fingerprint == first.fingerprint and whole(tmp_path / "out")


def test_what_is_no_fault_of_a_disk_stays_what_it_is():
    for error in (RuntimeError("ValueError: 3 [while running 'x']"), OSError("of a store"), KeyError("x")):
        with pytest.raises(type(error)) as caught:
            with disk_errors("/out"):
                raise error
        assert caught.value is error
    worker = "Traceback ...\nOSError: [Errno 5] Input/output error: '/raw/a.csv' [while running 'Read']"
    with pytest.raises(DataError, match="^/raw/a.csv: Input/output error; the disk is failing"):
        with disk_errors("/out"):
            raise RuntimeError(worker)

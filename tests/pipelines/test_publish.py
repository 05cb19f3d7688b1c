"""Publishing: at once or not at all, repeats, overwriting, remains of killed jobs."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from configs.errors import DataError
from configs.manifest import load_dataset
from pipelines.prepare import prepare
from tests.support.prepared import configure, content, gzip_header, read_rows, run

pytestmark = pytest.mark.any_python

SYNTHETIC = {"kind": "synthetic", "rows": 3000, "users": 50, "items": 40}


def dataset_section(tmp_path, **more) -> dict:
    return {"path": str(tmp_path / "out"), "num_shards": 2, **more}


def test_again_is_a_no_op_and_changes_need_overwrite(tmp_path):
    config = configure(SYNTHETIC, dataset_section(tmp_path))
    first = prepare(config.source, config.dataset)
    before = {name: os.stat(tmp_path / "out" / name).st_mtime_ns for name in content(tmp_path / "out")}
    assert prepare(config.source, config.dataset) == first.model_copy(update={"path": str(tmp_path / "out")})
    assert before == {
        name: os.stat(tmp_path / "out" / name).st_mtime_ns for name in content(tmp_path / "out")
    }
    other = configure(SYNTHETIC, dataset_section(tmp_path, seed=1))
    with pytest.raises(DataError, match="other dataset settings; pass --overwrite"):
        prepare(other.source, other.dataset)
    third = configure(SYNTHETIC | {"rows": 2000}, dataset_section(tmp_path))
    with pytest.raises(DataError, match=r"another source \(source.rows differs\); pass --overwrite"):
        prepare(third.source, third.dataset)
    found = prepare(third.source, third.dataset, overwrite=True)
    assert load_dataset(str(tmp_path / "out")).fingerprint == found.fingerprint != first.fingerprint
    listed = {f.path for s in found.splits.values() for f in s.files}
    listed |= {f.path for c in (found.users, found.items) for f in c.files}
    listed |= {f.path for table in found.tables.values() for f in table.index}
    assert set(content(tmp_path / "out")) == {"dataset.json", *listed}
    assert sum(len(read_rows(found, s.files)) for s in found.splits.values()) == 2000
    assert os.listdir(tmp_path) == ["out"]


def test_files_hold_no_time(tmp_path):
    dataset = run(SYNTHETIC, dataset_section(tmp_path))
    header = gzip_header(f"{tmp_path}/out/{dataset.splits['train'].files[0].path}")
    assert header[:4] == b"\x1f\x8b\x08\x00" and header[4:8] == bytes(4)


def test_failed_overwrite_leaves_the_old_dataset(tmp_path):
    run(SYNTHETIC, dataset_section(tmp_path))
    before = content(tmp_path / "out")
    path = tmp_path / "bad.csv"
    path.write_text("user,item\n,1\n,2\n")
    with pytest.raises(DataError, match="2 missing_user"):
        run({"kind": "delimited", "paths": [str(path)]}, dataset_section(tmp_path))
    assert content(tmp_path / "out") == before


def test_target_is_a_file(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(DataError, match="is a file; set dataset.path to a directory"):
        run(SYNTHETIC, dataset_section(tmp_path))


def start(tmp_path, rows: int) -> subprocess.Popen:
    """The command in its own process."""
    document = {
        "source": SYNTHETIC | {"rows": rows}, "dataset": dataset_section(tmp_path),
        "train": {"num_steps": 1}, "output": {"path": "x"},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "trainer.cli", "prepare", "--config", str(tmp_path / "run.yaml")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_kill_leaves_no_dataset_and_the_next_run_cleans_up(tmp_path):
    child = start(tmp_path, 30_000_000)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("out/.prepare-*/spool/read-*")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(DataError, match="another `lazytower prepare` is writing it"):
        run(SYNTHETIC, dataset_section(tmp_path))
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stderr.close()
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert list(tmp_path.glob("out/.prepare-*/spool"))
    run(SYNTHETIC, dataset_section(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["out", "run.yaml"]
    assert not list(tmp_path.glob("out/.prepare*"))


def test_command_prints_a_summary(tmp_path):
    child = start(tmp_path, 3000)
    _, log = child.communicate(timeout=900)
    assert child.returncode == 0
    for part in ("prepared", "rows read 3,000", "train 2,4", "table user: 51 rows", "rows/s", "peak memory"):
        assert part in log, log
    assert "WARNING" not in log


@pytest.mark.parametrize(
    ("unit", "dates"),
    [
        ("s", "train: 2023-11-14 22:13 to 2023-11-15 01:13 UTC"),
        ("ms", "train: 1970-01-20 16:13 to 1970-01-20 1"),
    ],
)
def test_the_summary_shows_when_rows_happened(tmp_path, caplog, unit, dates):
    """Seconds that are read as milliseconds are valid timestamps too."""
    path = tmp_path / "x.csv"
    path.write_text(
        "user,item,ts\n"
        + "".join(f"u{i % 3},i{i % 4},{1_700_000_000 + 1200 * i}\n" for i in range(13))
        + ",i0,1700000000\n"
    )
    source = {"kind": "delimited", "paths": [str(path)], "roles": {"timestamp": "ts"}, "timestamp_unit": unit}
    source["max_rejected_fraction"] = 0.1
    with caplog.at_level(logging.INFO, logger="absl"):
        run(source, dataset_section(tmp_path, split={"kind": "temporal"}))
    assert dates in caplog.text and "test: " in caplog.text
    assert f"rejected for missing_user: 1, see {tmp_path}/out/rejected" in caplog.text
    assert (tmp_path / "out" / "rejected").is_dir()


def test_object_stores(tmp_path):
    """memory:// stands for gs://: no renames, no locks, no directories."""
    import fsspec

    local, generations = run(SYNTHETIC, dataset_section(tmp_path)), []
    for seed in (2, 1, 0):  # each replaces the one before
        config = configure(SYNTHETIC, dataset_section(tmp_path, seed=seed))
        section = config.dataset.model_copy(update={"path": "memory://bucket/out"})  # configs refuse it
        remote = prepare(config.source, section, overwrite=True)
        generations.append(remote)
    assert remote.fingerprint == local.fingerprint == load_dataset("memory://bucket/out").fingerprint
    store = fsspec.filesystem("memory")
    names = {name.removeprefix("/bucket/out/") for name in store.find("/bucket/out")}
    # The previous generation stays, for its readers; restoring its manifest makes it the dataset again.
    previous = generations[1]
    store.cp_file("/bucket/out/dataset.previous.json", "/bucket/back/dataset.json")
    assert load_dataset("memory://bucket/back").fingerprint == previous.fingerprint
    listed = {file.path for file in previous.all_files}
    assert names == set(content(tmp_path / "out")) | listed | {"dataset.previous.json"}
    for name in set(content(tmp_path / "out")) - {"dataset.json"}:
        assert store.cat_file(f"/bucket/out/{name}") == content(tmp_path / "out")[name]


def test_remains_of_a_killed_publish_are_removed(tmp_path):
    os.makedirs(tmp_path / "out" / "train")
    (tmp_path / "out" / "train" / "0badcafe-00007.tfrecord.gz").write_bytes(b"x")
    (tmp_path / "out" / "train" / "notes.txt").write_bytes(b"mine")
    run(SYNTHETIC, dataset_section(tmp_path))
    names = os.listdir(tmp_path / "out" / "train")
    assert "notes.txt" in names and not any(name.startswith("0badcafe") for name in names)

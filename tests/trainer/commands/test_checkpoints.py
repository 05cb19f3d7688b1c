"""`lazytower checkpoints`: what it lists, what it merges, and that it can be killed anywhere."""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from configs.errors import CheckpointError, UserError
from configs.system import storage
from tests.support.checkpoint_cases import Run, assert_state, names, restored, small_pieces, store_at
from tests.support.tiny_run import planted_document
from trainer.checkpoints import listing
from trainer.commands import checkpoints
from trainer.training.run_directory import lock_run


@pytest.fixture(autouse=True)
def pieces(monkeypatch):
    small_pieces(monkeypatch)


@pytest.fixture
def place(tmp_path):
    """A run directory with a full checkpoint and increments at steps 1 to 5, of which 2 are kept."""
    run = Run()
    run.train_and_save(store_at(tmp_path / "checkpoints"), 5)
    document = planted_document(str(tmp_path))
    document["checkpoint"]["keep"] = 2
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    return tmp_path, run


def called(path, compact=False) -> int:
    return checkpoints.run(argparse.Namespace(run=str(path), compact=compact))


def statuses(path) -> list[str]:
    return [row["status"].partition(":")[0] for row in listing.listed(f"{path}/checkpoints")]


def test_the_list(place, capsys):
    path, _ = place
    assert called(path) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["step", "kind", "base", "bytes", "files", "time", "status"]
    assert [line.split()[:3] for line in lines] == [
        ["1", "full", "-"],
        *([str(step), "increment", str(step - 1)] for step in range(2, 6)),
    ]
    assert all(line.endswith("verified") for line in lines)


def test_each_file_is_read_once(place, monkeypatch):
    path, _ = place
    reading, read = storage.reading, []
    monkeypatch.setattr(storage, "reading", lambda name: read.append(name) or reading(name))
    listing.listed(f"{path}/checkpoints")
    files = [str(p) for p in (path / "checkpoints").rglob("*") if p.suffix in (".npy", ".npz")]
    assert sorted(read) == sorted(files)


def test_damage_is_named_and_what_builds_on_it_too(place, capsys):
    path, _ = place
    torn = path / "checkpoints" / "step-000000003.increment" / "tables" / "user" / "00000.npy"
    torn.write_bytes(torn.read_bytes()[:-1])
    (path / "checkpoints" / "step-000000006").mkdir()
    assert called(path) == 1
    out = capsys.readouterr().out
    assert statuses(path) == ["verified"] * 2 + ["damaged"] * 3 + ["incomplete"]
    assert f"damaged: {torn}: size or checksum differs from COMMITTED" in out
    assert out.endswith("a restart would resume from step 2\n")
    assert restored(path / "checkpoints").step == 2


def test_a_base_needs_no_dense_state(place):
    path, run = place
    (path / "checkpoints" / "step-000000003.increment" / "dense.npz").unlink()
    assert statuses(path) == ["verified", "verified", "damaged", "verified", "verified"]
    assert_state(restored(path / "checkpoints"), run.states[5])


def test_nothing_verifies(place, capsys):
    path, _ = place
    shutil.rmtree(path / "checkpoints" / "step-000000001")
    assert called(path) == 1
    assert capsys.readouterr().out.endswith("no checkpoint verifies\n")
    with pytest.raises(CheckpointError, match="nothing to compact"):
        called(path, compact=True)


def test_no_run_there(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoints; is .*none the output.path of a run"):
        called(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_compaction_keeps_the_state_and_what_keep_says(place, capsys):
    path, run = place
    assert called(path, compact=True) == 0
    # Step 4, the second that is kept, still needs the chain.
    kept = ["step-000000001", *(f"step-00000000{step}.increment" for step in (2, 3, 4)), "step-000000005"]
    assert names(path / "checkpoints") == kept
    again, store = Run(), store_at(path / "checkpoints", keep=2)
    assert again.restore(store) == 5
    assert_state(again, run.states[5])
    again.train(1)
    again.save(store)
    assert names(path / "checkpoints") == ["step-000000005", "step-000000006.increment"]
    assert_state(restored(path / "checkpoints"), again.states[6])
    assert called(path) == 0


def test_what_is_full_is_left_alone(place):
    path, _ = place
    called(path, compact=True)
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    assert called(path, compact=True) == 0
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.name != ".lock"} == {
        p: t for p, t in before.items() if p.name != ".lock"
    }


def test_compaction_equals_a_full_save(place):
    path, run = place
    run.save(store_at(path / "full"))
    called(path, compact=True)
    one, two = (path / folder / "step-000000005" / "tables" for folder in ("full", "checkpoints"))
    files = sorted(str(p.relative_to(one)) for p in one.rglob("*.npy"))
    assert files == sorted(str(p.relative_to(two)) for p in two.rglob("*.npy")) and len(files) == 9 + 5
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_compaction_waits_for_no_trainer(place):
    path, _ = place
    with (
        contextlib.closing(lock_run(str(path))),
        pytest.raises(UserError, match="another trainer is at work"),
    ):
        called(path, compact=True)


@pytest.mark.parametrize("point", range(0, 40, 3))
def test_killed_anywhere_the_run_is_restorable(place, monkeypatch, point):
    """As if killed before its nth change of a file or directory."""
    path, run = place
    calls = 0

    class Killed(BaseException):
        pass

    def dying(function):
        def call(*args):
            nonlocal calls
            calls += 1
            if calls > point:
                raise Killed
            return function(*args)

        return call

    for name in ("remove", "writing", "write_bytes", "make_directory"):
        monkeypatch.setattr(storage, name, dying(getattr(storage, name)))
    try:
        called(path, compact=True)
    except Killed:
        pass
    monkeypatch.undo()
    small_pieces(monkeypatch)
    assert_state(restored(path / "checkpoints"), run.states[5])
    assert called(path, compact=True) == 0
    assert_state(restored(path / "checkpoints"), run.states[5])


def test_increments_stand_in_for_a_damaged_compaction(place):
    path, run = place
    shutil.copytree(path / "checkpoints", path / "before")
    called(path, compact=True)
    shutil.copytree(
        path / "before" / "step-000000005.increment", path / "checkpoints" / "step-000000005.increment"
    )
    (path / "checkpoints" / "step-000000005" / "tables" / "user" / "00002.npy").unlink()
    assert_state(restored(path / "checkpoints"), run.states[5])
    assert statuses(path)[-2:] == ["damaged", "verified"]
    assert called(path) == 0


def test_object_stores(request, monkeypatch):
    # Leases need gs://, where tests/end_to_end/test_gcs_chain.py has them.
    monkeypatch.setattr(
        "trainer.training.run_directory.lock_run",
        lambda path: SimpleNamespace(check=lambda: None, close=lambda: None),
    )
    path = f"memory://{request.node.name}"
    run = Run()
    run.train_and_save(store_at(f"{path}/checkpoints"), 3)
    document = planted_document("none")
    storage.write_bytes(f"{path}/config.yaml", yaml.safe_dump(document).encode())
    assert called(path, compact=True) == 0
    assert_state(restored(f"{path}/checkpoints"), run.states[3])


def test_the_command_needs_no_tensorflow(place):
    path, _ = place
    command = [sys.executable, "-X", "importtime", "-m", "trainer.cli", "checkpoints", str(path), "--compact"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and done.stdout.count("verified") == 5
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "numpy" in imported and not imported & {"tensorflow", "tf_keras", "apache_beam"}


def test_memory_is_mapped_not_read(place):
    """Rows are views of files: what is not asked for is not held."""
    from trainer.checkpoints.chain import CheckpointDirectory
    from trainer.checkpoints.rows import StoredRows

    path, run = place
    [chain] = CheckpointDirectory(f"{path}/checkpoints").chains(5)
    rows = StoredRows(chain, "user")
    assert all(not array.flags.owndata and not array.flags.writeable for array in rows._layers[-1]._records)
    shutil.rmtree(path / "checkpoints")
    np.testing.assert_array_equal(rows.read(np.arange(60)), run.states[5]["user"])
    assert not os.path.exists(path / "checkpoints")


def test_beside_a_trainer_that_deletes(place, monkeypatch):
    """What was listed is gone when it is read: the list is read again."""
    path, run = place
    store = store_at(path / "checkpoints", keep=1, incremental=False)
    assert store.restore_newest(run.tables, run.dense) == 5
    verify = listing.verify_checkpoint_file

    def slow(*arguments):
        if store.steps()[-1] == 5:
            run.train_and_save(store, 1)
        verify(*arguments)

    monkeypatch.setattr(listing, "verify_checkpoint_file", slow)
    assert [(row["step"], row["status"]) for row in listing.listed(f"{path}/checkpoints")] == [
        (6, "verified")
    ]

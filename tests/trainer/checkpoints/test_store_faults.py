"""Storage that fails for a while, and other processes beside: no good checkpoint is lost."""

import errno
import os

import pytest

from configs.errors import CheckpointError, UserError
from configs.system import storage
from tests.support.checkpoint_cases import Run, assert_state, make_tables, restored, small_pieces, store_at
from trainer.checkpoints import store as store_module


@pytest.fixture(autouse=True)
def pieces(monkeypatch):
    small_pieces(monkeypatch)


def test_a_file_that_cannot_be_read_for_now_is_no_damage(tmp_path, monkeypatch):
    """Falling back would make the next save delete a good checkpoint."""
    run, store = Run(), store_at(tmp_path, incremental=False)
    for _ in range(2):
        run.train_and_save(store, 1)
    read_bytes = storage.read_bytes

    def failing(name, wanted):
        if name.endswith(wanted):
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), name)
        return read_bytes(name)

    for wanted in ("dense.npz", "COMMITTED", "00000.npy"):
        with monkeypatch.context() as broken:
            broken.setattr(storage, "read_bytes", lambda name, wanted=wanted: failing(name, wanted))
            with pytest.raises(CheckpointError, match="step-000000002.*timed out.*run again"):
                store_at(tmp_path).restore_newest(make_tables(), Run().dense)
    assert_state(restored(tmp_path), run.states[2])


def test_manifests_that_cannot_be_read_for_now_keep_all_checkpoints(tmp_path, monkeypatch, caplog):
    run, store = Run(), store_at(tmp_path, keep=2, incremental=False)
    for _ in range(2):
        run.train_and_save(store, 1)
    read_bytes = storage.read_bytes

    def failing(name):
        if "step-000000001" in name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), name)
        return read_bytes(name)

    fresh = store_at(tmp_path, keep=3, incremental=False)
    fresh.restore_newest(run.tables, run.dense)
    monkeypatch.setattr(storage, "read_bytes", failing)
    run.train_and_save(fresh, 1)
    assert fresh.steps() == [1, 2, 3] and "stay for now" in caplog.text


def test_a_disk_that_fails_is_not_an_empty_one(tmp_path, monkeypatch):
    run, store = Run(), store_at(tmp_path, incremental=False)
    run.train_and_save(store, 1)
    stat = os.stat

    def failing(path, *arguments, **options):
        if str(path).endswith("COMMITTED"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", failing)
    monkeypatch.setattr(os, "lstat", failing)
    with pytest.raises(CheckpointError, match="cannot be read .Input/output error"):
        store_at(tmp_path).restore_newest(make_tables(), Run().dense)


def test_a_reader_beside_a_trainer_that_deletes_looks_again(tmp_path, monkeypatch):
    run, store = Run(), store_at(tmp_path, keep=1, incremental=False)
    run.train_and_save(store, 1)
    reader, tables = store_at(tmp_path), make_tables("stored")
    values = store_module.dense_values

    def slow(checkpoint, *arguments, **options):
        if checkpoint.step == 1:
            run.train_and_save(store, 1)
        return values(checkpoint, *arguments, **options)

    monkeypatch.setattr(store_module, "dense_values", slow)
    assert reader.open_newest(tables, {}) == 2


def test_who_lost_the_run_deletes_nothing_of_the_other(tmp_path):
    mine, owner, other = Run(), [True], store_at(tmp_path, incremental=False)

    def check():
        if not owner[0]:
            raise UserError("another trainer took over")

    store = store_at(tmp_path, check=check, incremental=False)
    read = mine.tables["user"].read_records

    def overtaken(ids):
        if owner[0]:
            owner[0] = False
            follower = Run()
            follower.train_and_save(other, 1)
        return read(ids)

    mine.tables["user"].read_records = overtaken
    with pytest.raises(UserError, match="took over"):
        mine.train_and_save(store, 1)
    assert_state(restored(tmp_path), mine.states[1])

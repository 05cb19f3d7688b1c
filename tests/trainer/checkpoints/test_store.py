"""Checkpoints: round trip, every kind of damage, fall-back, and what may not change."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import CheckpointError
from configs.sections.optimizers import LazyAdamConfig
from trainer.averages import Exponential
from trainer.checkpoints.files import COMMITTED
from trainer.checkpoints.store import CheckpointStore
from trainer.embeddings.base import CHUNK_ROWS
from trainer.embeddings.engines.native import NativeTable
from trainer.embeddings.engines.rows import RecordTable
from trainer.embeddings.engines.stored import StoredTable
from trainer.optimizers import LazyAdam

ROWS = CHUNK_ROWS + 10  # two files


def state(value, rows=ROWS, dim=2, table_type=RecordTable):
    table = table_type("user", rows, dim, LazyAdam(LazyAdamConfig()), Exponential(0.9))
    if table_type is RecordTable:
        table.records.assign(tf.fill(table.records.shape, float(value)))
        table.write_records(rows - 1, tf.fill([1, table.width], -float(value)))
    return {"user": table}, {
        "step": tf.Variable(value, dtype=tf.int64),
        "dense/000": tf.Variable([1.0 * value]),
    }


def store(path, keep=3, **identity):
    return CheckpointStore(str(path), keep, identity, async_memory_mb=0)


def restored(path, table_type=RecordTable, **identity):
    tables, dense = state(0, table_type=table_type)
    step = store(path, **identity).restore_newest(tables, dense)
    return step, tables, dense


def records(tables):
    return tables["user"].read_records(np.arange(ROWS))


@pytest.fixture(params=[RecordTable, NativeTable])
def table_type(request):
    """A native table is read in place."""
    return request.param


def test_round_trip_and_keep(tmp_path, table_type):
    checkpoints = store(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, *state(step))
    assert checkpoints.steps() == [2, 3]
    step, tables, dense = restored(tmp_path, table_type)
    assert step == 3 and int(dense["step"]) == 3 and float(dense["dense/000"][0]) == 3.0
    np.testing.assert_array_equal(records(tables), records(state(3)[0]))


def test_stored_tables_read_rows_from_disk(tmp_path):
    store(tmp_path).save(5, *state(5))
    tables, dense = state(0, table_type=StoredTable)
    assert store(tmp_path).open_newest(tables, {"dense/000": dense["dense/000"]}) == 5
    ids = np.array([ROWS - 1, 0, CHUNK_ROWS, CHUNK_ROWS - 1, 0])
    expected = np.array([-5, 5, 5, 5, 5], np.float32)
    np.testing.assert_array_equal(tables["user"].read_records(ids)[:, 0], expected)
    np.testing.assert_array_equal(tables["user"].read_weights(ids, False, 5.0)[:, 1], expected)


def test_no_checkpoint_is_none(tmp_path):
    assert restored(tmp_path)[0] is None


@pytest.mark.parametrize("name", ["tables/user/00001.npy", "dense.npz", COMMITTED])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
def test_damage_falls_back_to_the_newest_that_verifies(tmp_path, name, damage, table_type):
    for step in (1, 2):
        store(tmp_path).save(step, *state(step))
    path = tmp_path / "step-000000002" / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0x55
    kept = {"flip": content, "truncate": content[: len(content) // 2], "empty": b""}
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(kept[damage])
    step, tables, _ = restored(tmp_path, table_type)
    assert step == 1
    np.testing.assert_array_equal(records(tables), records(state(1)[0]))


def test_nothing_verifies_is_an_error_not_a_fresh_start(tmp_path):
    store(tmp_path).save(1, *state(1))
    (tmp_path / "step-000000001" / "dense.npz").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint verifies .*dense.npz: missing.* delete"):
        restored(tmp_path)


def test_incomplete_directories_are_ignored_then_removed(tmp_path):
    store(tmp_path).save(1, *state(1))
    shutil.copytree(tmp_path / "step-000000001", tmp_path / "step-000000009")
    (tmp_path / "step-000000009" / COMMITTED).unlink()
    assert restored(tmp_path)[0] == 1
    store(tmp_path).save(2, *state(2))
    assert sorted(os.listdir(tmp_path)) == ["step-000000001", "step-000000002"]


def test_after_a_fall_back_the_abandoned_later_ones_make_room(tmp_path):
    """Counted as the newest, a damaged one would push out the only good ones."""
    for step in (10, 20):
        store(tmp_path, keep=2).save(step, *state(step))
    (tmp_path / "step-000000020" / "dense.npz").write_bytes(b"torn")
    assert restored(tmp_path)[0] == 10
    store(tmp_path, keep=1).save(15, *state(15))
    assert sorted(os.listdir(tmp_path)) == ["step-000000015"]
    assert restored(tmp_path)[0] == 15


def test_looking_for_checkpoints_makes_no_directory(tmp_path):
    assert store(tmp_path / "none").steps() == [] and not (tmp_path / "none").exists()


def test_what_may_not_change_is_named(tmp_path):
    store(tmp_path, **{"train.seed": 1}).save(1, *state(1))
    message = "saved with train.seed = 1, but this run has 2; .* restore the value .--config .*/config.yaml"
    with pytest.raises(CheckpointError, match=message):
        restored(tmp_path, **{"train.seed": 2})


def test_another_dataset_is_named_with_what_helps(tmp_path):
    store(tmp_path, **{"dataset.fingerprint": "a" * 64}).save(1, *state(1))
    message = "trained on another dataset .dataset.fingerprint aaaaaaaa, .* set dataset.path to that dataset"
    with pytest.raises(CheckpointError, match=message):
        restored(tmp_path, **{"dataset.fingerprint": "b" * 64})


@pytest.mark.parametrize("change", [{"rows": ROWS - 1}, {"dim": 3}])
def test_a_table_of_another_shape_is_refused(tmp_path, change):
    store(tmp_path).save(1, *state(1))
    with pytest.raises(CheckpointError, match="table user was saved with"):
        store(tmp_path).restore_newest(*state(0, **change))


def test_other_dense_weights_are_refused(tmp_path):
    store(tmp_path).save(1, *state(1))
    tables, dense = state(0)
    dense["dense/001"] = tf.Variable(0.0)
    with pytest.raises(CheckpointError, match="dense/001"):
        store(tmp_path).restore_newest(tables, dense)


def test_the_manifest_lists_every_file(tmp_path):
    store(tmp_path).save(4, *state(4))
    root = tmp_path / "step-000000004"
    listed = json.loads((root / COMMITTED).read_text())["files"]
    found = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} - {COMMITTED}
    assert set(listed) == found and len(found) == 3


def test_a_changed_identity_is_damage_not_another_run(tmp_path):
    for step in (1, 2):
        store(tmp_path, **{"train.seed": 1}).save(step, *state(step))
    path = tmp_path / "step-000000002" / COMMITTED
    path.write_text(path.read_text().replace('"train.seed": 1', '"train.seed": 3'))
    assert restored(tmp_path, **{"train.seed": 1})[0] == 1

"""Increments: what they hold, what they build on, when a full one is written, what stays and what goes."""

import json
import shutil

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from configs.errors import CheckpointError
from configs.sections.optimizers import AdamConfig
from tests.support.addons import skipping_tfa
from tests.support.checkpoint_cases import (
    ROWS,
    Run,
    assert_state,
    make_tables,
    names,
    restored,
    saved_run,
    small_pieces,
    store_at,
)
from tests.support.checkpoint_state import newest_state
from trainer.checkpoints.manifest import CheckpointFile, CheckpointManifest
from trainer.checkpoints.store import MAX_INCREMENTS
from trainer.embeddings.engines import TABLE_ENGINES
from trainer.embeddings.engines.rows import RecordTable
from trainer.optimizers.adam import Adam

pytestmark = pytest.mark.any_python


@pytest.fixture(autouse=True)
def pieces(monkeypatch):
    small_pieces(monkeypatch)
    monkeypatch.setattr("trainer.embeddings.engines.native._SCAN_ROWS", 7)


def kinds(path) -> list[str]:
    """f for a full checkpoint and i for an increment, by step."""
    return "".join("i" if name.endswith(".increment") else "f" for name in names(path))


@pytest.mark.parametrize("engine", skipping_tfa(TABLE_ENGINES))
@pytest.mark.parametrize("average", [True, False])
def test_touched_since_is_what_numpy_counts(engine, average):
    run = Run(engine, average)
    touched = {}
    for step in range(1, 6):
        before = run.state()["user"]
        run.train(1)
        touched[step] = set(np.flatnonzero((run.state()["user"] != before).any(axis=1)))
    table = run.tables["user"]
    for since in range(6):
        ids = table.touched_since(since)
        assert ids.dtype == np.int64 and (np.diff(ids) > 0).all()
        assert set(ids) == set().union(*(rows for step, rows in touched.items() if step > since))


def test_an_optimizer_that_is_not_lazy_touches_all_rows():
    table = RecordTable("t", 20, 2, Adam(AdamConfig(kind="adam")), None)
    table.initialize(0.1, seed=1)
    table.update(table.lookup(tf.constant([3], tf.int64)), tf.ones([1, 2]), tf.constant(4.0), 1.0)
    assert table.touched_since(3).tolist() == list(range(20)) and table.touched_since(4).size == 0


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize(
    "engines",
    skipping_tfa([("rows", "rows"), ("rows", "native"), ("rows", "tfa"), ("tfa", "rows")]),
    ids="-".join,
)
def test_full_and_increments_restore_every_step(tmp_path, engines, average):
    run, store = Run(engines[0], average), store_at(tmp_path, compact_at=9)
    run.train_and_save(store, 6)
    assert kinds(tmp_path) == "fiiiii"
    for step in range(6, 0, -1):
        again = Run(engines[1], average)
        assert again.restore(store_at(tmp_path)) == step
        assert_state(again, run.states[step])
        shutil.rmtree(tmp_path / names(tmp_path)[-1])


def test_an_increment_holds_the_touched_rows_and_no_more(tmp_path):
    run = saved_run(tmp_path, 2)
    ids = np.concatenate(
        [np.load(p) for p in sorted((tmp_path / "step-000000002.increment").rglob("user/*ids*"))]
    )
    assert ids.tolist() == run.tables["user"].touched_since(1).tolist() and len(ids) == 9
    saved = store_at(tmp_path / "other")
    run.save(saved)
    assert [(s.kind, s.rows) for s in saved.finished()] == [("full", ROWS + ROWS // 2)]


def test_files_are_as_documented(tmp_path):
    """An independent reader, of NumPy alone, finds the same state."""
    run = saved_run(tmp_path / "checkpoints", 4)
    state = newest_state(tmp_path)
    for name, value in run.states[4].items():
        np.testing.assert_array_equal(state[f"tables/{name}" if name in run.tables else name], value)


def test_no_touched_row_at_all(tmp_path):
    run, store = Run(), store_at(tmp_path)
    run.train_and_save(store, 1)
    run.dense["step"].assign(2)
    run.save(store)
    assert kinds(tmp_path) == "fi"
    again = restored(tmp_path)
    assert again.step == 2
    np.testing.assert_array_equal(again.state()["user"], run.states[1]["user"])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"incremental": False}, "ffffff"),
        ({"compact_at": 0}, "ffffff"),
        # An increment here holds 18 of 90 rows and their ids, 0.24 of a full one.
        ({"compact_at": 0.23}, "ffffff"),
        ({"compact_at": 0.25}, "fififi"),
        ({"compact_at": 0.5}, "fiifii"),
        ({"compact_at": 1.0}, "fiiiif"),
        ({"compact_at": 9.0}, "fiiiii"),
    ],
    ids=str,
)
def test_a_full_one_when_increments_would_hold_more_than_allowed(tmp_path, options, wanted):
    run = saved_run(tmp_path, 6, **options)
    assert kinds(tmp_path) == wanted
    assert_state(restored(tmp_path), run.states[6])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"compact_at": 1.4}, "fiif"),  # two increments hold 0.48 of a full one, three 0.73
        ({"compact_at": 1.5}, "fiii"),
        ({"compact_at": 1.0, "incremental": False}, "ffff"),
    ],
    ids=str,
)
def test_the_last_one_is_full_when_increments_would_hold_half_of_what_is_allowed(tmp_path, options, wanted):
    run, store = Run(), store_at(tmp_path, keep=9, **options)
    run.train_and_save(store, 3)
    run.train(1)
    store.save(run.step, run.tables, run.dense, last=True)
    store.wait()
    assert kinds(tmp_path) == wanted
    assert_state(restored(tmp_path), run.state())


def test_a_full_one_when_an_increment_is_no_smaller(tmp_path):
    run, store = Run(touched=ROWS // 2), store_at(tmp_path, compact_at=9)
    run.train_and_save(store, 1)
    run.train_and_save(store, 2, steps=9)
    assert kinds(tmp_path) == "fff"


def test_chains_are_cut_however_small_increments_are(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.checkpoints.store.MAX_INCREMENTS", 3)
    assert MAX_INCREMENTS >= 50
    saved_run(tmp_path, 6, compact_at=99)
    assert kinds(tmp_path) == "fiiifi"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_keep_counts_steps_and_keeps_what_they_build_on(tmp_path, keep):
    run = saved_run(tmp_path, 9, keep=keep, compact_at=0.5)  # fiifiifii
    wanted = {1: [7, 8, 9], 2: [7, 8, 9], 3: [7, 8, 9]}[keep]
    assert [int(name[5:14]) for name in names(tmp_path)] == wanted
    run.train_and_save(store := store_at(tmp_path, keep=keep, compact_at=0.5), 0)
    run.restore(store)
    run.train_and_save(store, 1)  # a full one: what its predecessors build on stays with them
    wanted = {1: [10], 2: [7, 8, 9, 10], 3: [7, 8, 9, 10]}[keep]
    assert [int(name[5:14]) for name in names(tmp_path)] == wanted
    assert_state(restored(tmp_path), run.states[10])


def test_a_damaged_increment_ends_the_chain_before_it(tmp_path):
    run = saved_run(tmp_path, 5)
    path = tmp_path / "step-000000003.increment" / "tables" / "user" / "00000.ids.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    again, store = Run(), store_at(tmp_path)
    assert again.restore(store) == 2
    assert_state(again, run.states[2])
    assert len(names(tmp_path)) == 5, "nothing goes before something better is there"
    again.train(1)
    assert_state(again, run.states[3])
    again.save(store)
    assert [int(name[5:14]) for name in names(tmp_path)] == [1, 2, 3]
    base = json.loads((tmp_path / "step-000000003.increment" / "COMMITTED").read_text())["base"]
    assert base["step"] == 2
    assert_state(restored(tmp_path), run.states[3])


def test_after_a_fall_back_increments_hold_what_was_touched_since(tmp_path):
    """Saved at another step than the abandoned one: rows of both its steps are in it."""
    run = saved_run(tmp_path, 4)
    (tmp_path / "step-000000004.increment" / "dense.npz").unlink()
    again, store = Run(), store_at(tmp_path)
    assert again.restore(store) == 3
    again.train(4)
    again.save(store)
    run.train(3)
    assert [int(name[5:14]) for name in names(tmp_path)] == [1, 2, 3, 7]
    assert_state(restored(tmp_path), run.states[7])


def test_an_increment_on_another_base_of_the_same_step_is_not_used(tmp_path):
    run = saved_run(tmp_path / "a", 3)
    other = Run()
    other.train(1)
    other.tables["user"].write_records(0, tf.zeros_like(other.tables["user"].records))
    store = store_at(tmp_path / "b")
    other.save(store)
    shutil.rmtree(tmp_path / "a" / "step-000000001")
    shutil.copytree(tmp_path / "b" / "step-000000001", tmp_path / "a" / "step-000000001")
    again = restored(tmp_path / "a")
    assert again.step == 1 and not again.state()["user"].any()
    assert run.step == 3


def test_a_missing_full_one_leaves_nothing(tmp_path):
    saved_run(tmp_path, 3)
    shutil.rmtree(tmp_path / "step-000000001")
    with pytest.raises(
        CheckpointError, match="no checkpoint verifies .*step 1, which later checkpoints build on"
    ):
        restored(tmp_path)


def test_a_step_that_is_saved_is_not_saved_again(tmp_path):
    run = saved_run(tmp_path, 2)
    store = store_at(tmp_path)
    run.restore(store)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    run.save(store)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} and not store.finished()


def test_stored_tables_overlay_increments(tmp_path):
    run = saved_run(tmp_path, 5)
    tables = make_tables("stored")
    assert store_at(tmp_path).open_newest(tables, {}) == 5
    draw = np.random.default_rng(1)
    for name, table in tables.items():
        for ids in (np.arange(table.rows), draw.integers(0, table.rows, 200), np.zeros(0, np.int64)):
            np.testing.assert_array_equal(table.read_records(ids), run.states[5][name][ids])


def test_stored_tables_fall_back_too(tmp_path):
    run = saved_run(tmp_path, 5)
    path = tmp_path / "step-000000004.increment" / "tables" / "item" / "00000.npy"
    path.write_bytes(path.read_bytes()[:-4])
    tables = make_tables("stored")
    assert store_at(tmp_path).open_newest(tables, {}) == 3
    np.testing.assert_array_equal(tables["item"].read_records(np.arange(30)), run.states[3]["item"])


def test_object_stores(request):
    path = f"memory://{request.node.name}/checkpoints"
    run = saved_run(path, 5)
    again = restored(path)
    assert again.step == 5
    assert_state(again, run.states[5])
    tables = make_tables("stored")
    assert store_at(path).open_newest(tables, {}) == 5
    np.testing.assert_array_equal(tables["user"].read_records(np.arange(ROWS)), run.states[5]["user"])


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("averaged", [True, False])
def test_all_weights_of_a_stored_table_are_those_of_its_rows(tmp_path, average, averaged):
    run, store = Run(average=average), store_at(tmp_path, compact_at=9)
    run.train_and_save(store, 4)
    tables = make_tables("stored", average)
    assert store_at(tmp_path).open_newest(tables, {}) == 4
    for name, table in run.tables.items():
        starts, parts = zip(*tables[name].all_weights(averaged, 4.0), strict=True)
        assert list(starts) == [start for start, _ in table.chunks()]
        expected = table.read_weights(np.arange(table.rows), averaged, 4.0)
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-6)


@pytest.mark.parametrize("ids", [[-1], [ROWS], [0.0], [1, 2]])
def test_ids_of_no_row_are_damage(tmp_path, ids):
    """Even if their checksum is right."""
    run, store = Run(touched=1), store_at(tmp_path, compact_at=9)
    run.train_and_save(store, 2)
    directory = tmp_path / names(tmp_path)[1]
    name = "tables/user/00000.ids.npy"
    np.save(directory / name, np.array(ids))
    content = (directory / name).read_bytes()
    manifest = CheckpointManifest.parse((directory / "COMMITTED").read_bytes())
    checksum = google_crc32c.Checksum(content).hexdigest().decode()
    manifest.files[name] = CheckpointFile(bytes=len(content), crc32c=checksum)
    (directory / "COMMITTED").write_bytes(manifest.encode())
    again = Run("native")
    assert again.restore(store_at(tmp_path)) == 1
    assert_state(again, run.states[1])

"""Writing in the background, and what is reported when writing fails."""

import errno
import os
import subprocess
import sys
import threading
import time
import traceback

import numpy as np
import pytest

from configs.errors import CheckpointError, UserError
from configs.system import storage
from tests.support.checkpoint_cases import Run, assert_state, names, restored, small_pieces, store_at
from trainer.checkpoints import files
from trainer.checkpoints.files import in_flight, in_order
from trainer.kernels.snapshot import RecordSnapshot


@pytest.fixture(autouse=True)
def pieces(monkeypatch):
    small_pieces(monkeypatch)


@pytest.fixture
def gate(monkeypatch):
    """Writing of dense.npz waits for it."""
    event, write = threading.Event(), files._write

    def waiting(path, name, parts):
        if name == "dense.npz":
            assert event.wait(300)
        return write(path, name, parts)

    monkeypatch.setattr(files, "_write", waiting)
    yield event
    event.set()


@pytest.mark.parametrize("engine", ["rows", "native"])
def test_training_goes_on_and_the_state_of_the_save_is_written(tmp_path, gate, engine):
    run, store = Run(engine), store_at(tmp_path, async_memory_mb=1)
    started = time.monotonic()
    run.train_and_save(store, 1)
    returned = time.monotonic()
    assert store.steps() == [] and not store.finished()
    run.train(3)
    gate.set()
    store.wait()
    [saved] = store.finished()
    assert (saved.step, saved.kind, saved.mode) == (1, "full", "async")
    assert saved.blocked_seconds < returned - started and saved.bytes > 90 * 9 * 4
    assert_state(restored(tmp_path), run.states[1])


@pytest.fixture
def first_piece(monkeypatch):
    """No record is read from a snapshot until it is set."""
    event, read = threading.Event(), RecordSnapshot.read

    def waiting(snapshot, number):
        assert event.wait(300)
        return read(snapshot, number)

    monkeypatch.setattr(RecordSnapshot, "read", waiting)
    yield event
    event.set()


def test_rows_that_are_updated_before_they_are_written_are_as_they_were(tmp_path, first_piece):
    run, store = Run("native"), store_at(tmp_path, async_memory_mb=1)
    for _ in range(3):  # a full one, then increments
        run.train_and_save(store, 1)
        wanted = run.states[run.step]
        run.train(1)
        first_piece.set()
        store.wait()
        first_piece.clear()
        at = restored(tmp_path)
        assert_state(at, wanted)
    assert [saved.mode for saved in store.finished()] == ["async"] * 3
    assert [name.partition(".")[2] for name in names(tmp_path)] == ["", "increment", "increment"]


def test_a_save_that_fails_lets_training_go_on(tmp_path, first_piece, monkeypatch):
    """Updates that wait for memory are not left waiting by it."""
    run, store = Run("native"), store_at(tmp_path, async_memory_mb=1)
    made, ended = RecordSnapshot.__init__, []

    def tight(snapshot, records, ids, piece, limit, beside):
        made(snapshot, records, ids, piece, 1, beside)

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(RecordSnapshot, "__init__", tight)
    monkeypatch.setattr(storage, "writing", full)
    run.train_and_save(store, 1)
    trainer = threading.Thread(target=lambda: ended.append(run.train(5)))
    trainer.start()
    trainer.join(0.5)
    assert trainer.is_alive(), "there is memory for one piece only"
    first_piece.set()
    trainer.join(300)
    assert ended
    with pytest.raises(CheckpointError, match="No space left"):
        store.wait()
    monkeypatch.undo()
    small_pieces(monkeypatch)
    run.train_and_save(store, 1)
    store.wait()
    assert_state(restored(tmp_path), run.states[run.step])


def test_who_lost_the_run_completes_no_checkpoint(tmp_path, gate):
    """Between the start of a save and its end another trainer may have taken over."""
    owner = [True]

    def check():
        if not owner[0]:
            raise UserError("another trainer took over")

    run, store = Run(), store_at(tmp_path, async_memory_mb=1, check=check)
    run.train_and_save(store, 1)
    owner[0] = False
    gate.set()
    with pytest.raises(UserError, match="took over"):
        store.wait()
    assert store.steps() == [] and not store.finished()
    # Its directory may belong to the other trainer by now, which would have to start over; so it stays.
    assert os.listdir(tmp_path) == ["step-000000001"]


def test_the_next_save_waits_and_builds_on_it(tmp_path, gate, monkeypatch):
    run, store = Run(), store_at(tmp_path, async_memory_mb=1)
    run.train_and_save(store, 1)
    wait, waited = store.wait, []

    def waiting():
        threading.Timer(0.3, gate.set).start()
        wait()
        waited.append(gate.is_set())

    with monkeypatch.context() as patch:
        patch.setattr(store, "wait", waiting)
        run.train_and_save(store, 1)
    assert waited == [True]
    store.wait()
    assert names(tmp_path) == ["step-000000001", "step-000000002.increment"]
    first, second = store.finished()
    assert second.kind == "increment" and second.blocked_seconds > 0.2 and not store.finished()
    assert_state(restored(tmp_path), run.states[2])


@pytest.mark.parametrize(("megabytes", "mode"), [(0, "blocking"), (1, "async")])
def test_a_copy_that_does_not_fit_is_not_made(tmp_path, megabytes, mode):
    run, store = Run(), store_at(tmp_path, async_memory_mb=megabytes)
    run.train_and_save(store, 2)
    store.wait()
    assert [saved.mode for saved in store.finished()] == [mode] * 2


@pytest.mark.parametrize("megabytes", [0, 1])
def test_a_full_disk_names_file_cause_and_the_last_good_step(tmp_path, monkeypatch, megabytes):
    run, store = Run(), store_at(tmp_path, async_memory_mb=megabytes)
    run.train_and_save(store, 2)
    store.wait()
    writing, written = storage.writing, []

    def full(path):
        written.append(path)
        if len(written) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return writing(path)

    monkeypatch.setattr(storage, "writing", full)
    run.train(1)
    with pytest.raises(CheckpointError) as caught:
        run.save(store)
        store.wait()
    message = str(caught.value)
    assert f"{tmp_path}/step-000000003.increment/" in message and "\n" not in message
    assert "cannot be written (No space left on device); last good checkpoint: step 2" in message
    assert "rerun the same command to resume" in message
    assert names(tmp_path) == ["step-000000001", "step-000000002.increment"], "no torn directory"
    store.wait()  # reported once
    monkeypatch.undo()
    small_pieces(monkeypatch)
    run.train_and_save(store, 1)
    store.wait()
    assert_state(restored(tmp_path), run.states[4])


def test_errors_of_object_stores(request, monkeypatch):
    path = f"memory://{request.node.name}"
    run, store = Run(), store_at(path)
    run.train_and_save(store, 1)

    class HttpError(Exception):
        """As gcsfs raises them."""

    def broken(path, content):
        raise HttpError("503 backend\nerror")

    monkeypatch.setattr(storage, "write_bytes", broken)
    with pytest.raises(
        CheckpointError, match=r"cannot be written \(HttpError: 503 backend error\); last .* step 1"
    ):
        run.train_and_save(store, 1)
    assert store.steps() == [1]


def test_a_bug_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def broken(path, content):
        raise TypeError("a bug")

    monkeypatch.setattr(storage, "write_bytes", broken)
    run, store = Run(), store_at(tmp_path, async_memory_mb=1)
    run.train_and_save(store, 1)
    with pytest.raises(TypeError, match="a bug"):
        store.wait()
    assert names(tmp_path) == []


@pytest.mark.parametrize("file", [files.DENSE, files.records_file("user", 0)])
def test_a_failed_write_leaves_no_view_of_a_buffer(tmp_path, monkeypatch, file):
    """Python 3.12 crashes where such a buffer and its view are collected in one cycle; 3.13 complains."""
    writing = storage.writing

    def broken(path):
        if path.endswith(file):
            raise TypeError("a bug")
        return writing(path)

    monkeypatch.setattr(storage, "writing", broken)
    run, store = Run(), store_at(tmp_path, async_memory_mb=1)
    run.train_and_save(store, 1)
    with pytest.raises(TypeError, match="a bug") as error:
        store.wait()
    frames = [frame for frame, _ in traceback.walk_tb(error.value.__traceback__)]
    values = [value for frame in frames for value in frame.f_locals.values()]
    views = [part for value in values for part in (value if isinstance(value, list) else [value])]
    owners = [view.obj for view in views if isinstance(view, memoryview) and not _released(view)]
    assert all(isinstance(owner, np.ndarray) for owner in owners)
    assert any(frame.f_code.co_name == "_write" for frame in frames)


def _released(view: memoryview) -> bool:
    try:
        return view.nbytes < 0
    except ValueError:
        return True


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    run = Run()
    with pytest.raises(
        CheckpointError, match="file/checkpoints.*cannot be written .Not a directory.*none yet"
    ):
        run.train_and_save(store_at(tmp_path / "file" / "checkpoints"), 1)


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from tests.support.checkpoint_cases import Run, store_at
run, store = Run(), store_at(sys.argv[1])
run.train_and_save(store, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
run.train_and_save(store, 1)
"""


def test_a_real_limit_of_file_sizes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 1
    assert "cannot be written (File too large); last good checkpoint: step 1" in done.stderr
    assert names(tmp_path) == ["step-000000001"]
    assert restored(tmp_path).step == 1


def test_a_real_disk_that_is_full(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        run, store = Run(), store_at(tmp_path, keep=100, incremental=False)
        with pytest.raises(
            CheckpointError, match=r"No space left on device\); last good checkpoint: step \d"
        ):
            run.train_and_save(store, 100)
        assert_state(restored(tmp_path), run.states[run.step - 1])
        assert len(names(tmp_path)) == run.step - 1
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_in_order_keeps_order_and_bounds():
    alive, most, lock = 0, 0, threading.Lock()

    def items():
        nonlocal alive, most
        for i in range(40):
            with lock:
                alive, most = alive + 1, max(most, alive + 1)
            yield i

    def work(i):
        time.sleep(0.001 * (i % 3))
        return i

    found = []
    for i in in_order(work, items(), 3):
        found.append(i)
        with lock:
            alive -= 1
    assert found == list(range(40)) and most <= 3


def test_in_order_raises_at_the_items_turn():
    def work(i):
        if i == 5:
            raise ValueError("five")
        return i

    found = []
    with pytest.raises(ValueError, match="five"):
        for i in in_order(work, range(100), 4):
            found.append(i)
    assert found == [0, 1, 2, 3, 4]


def test_pieces_in_flight_stay_below_the_bound():
    assert [in_flight(size) for size in (0, 1000, 34 << 20, 1 << 30)] == [8, 8, 5, 1]


def test_files_are_as_numpy_writes_them(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    facts = files._write(str(tmp_path), "a.npy", files._npy_parts(array))
    np.save(tmp_path / "b.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert facts.bytes == (tmp_path / "a.npy").stat().st_size

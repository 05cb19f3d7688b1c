"""metrics.jsonl and the TensorBoard events: what is written, what a resumed run keeps, what is refused."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tensorflow as tf

from configs.errors import DataError
from trainer.report.metrics_file import MetricsWriter, read_metrics


def _steps(run_dir):
    return [line["step"] for line in read_metrics(str(run_dir))]


def _write(run_dir, steps, start_step=0):
    with MetricsWriter(str(run_dir), start_step) as writer:
        for step in steps:
            writer.write("train", step, {"loss": 1.0 / step})


def _events(folder):
    """{tag: [(step, value)]} over all event files, read as TensorFlow reads them."""
    import tensorflow as tf

    scalars = {}
    for path in sorted(str(p) for p in Path(folder).iterdir()):
        for event in tf.compat.v1.train.summary_iterator(path):
            for value in event.summary.value:
                scalars.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    return scalars


def test_lines_are_on_disk_before_close(tmp_path):
    writer = MetricsWriter(str(tmp_path), 0)
    writer.write("train", 100, {"loss": 0.5, "learning_rate": np.float32(0.25), "peak_rss_bytes": 41 * 2**30})
    [line] = read_metrics(str(tmp_path))
    assert line.pop("time") > 1.7e9
    assert line == {
        "step": 100,
        "kind": "train",
        "loss": 0.5,
        "learning_rate": 0.25,
        "peak_rss_bytes": 41 * 2**30,
    }
    assert _events(tmp_path / "tensorboard")["train/loss"] == [(100, 0.5)]
    writer.close()
    writer.close()


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
    import tensorflow as tf

    with MetricsWriter(str(tmp_path), 0) as writer:
        values = {
            "loss": math.nan,
            "a": np.float32(-np.inf),
            "b": tf.constant(math.inf),
            "c": [1.5, math.nan],
        }
        writer.write("train", 1, values)

    def refuse(name):
        raise AssertionError(name)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert [line[name] for name in ("loss", "a", "b", "c")] == [None, None, None, [1.5, None]]


def test_tensorboard_keeps_splits_scorers_and_weights_apart(tmp_path):
    with MetricsWriter(str(tmp_path), 0) as writer:
        for scorer, weights, value in (
            ("model", "average", 0.5),
            ("model", "raw", 0.25),
            ("popularity", "average", 0.125),
        ):
            figures = {"split": "valid", "scorer": scorer, "weights": weights, "hr@10": value, "users": 7}
            writer.write("evaluate", 10, figures)
        writer.write("run", 10, {"event": "end"})
    events = _events(tmp_path / "tensorboard")
    assert events["evaluate/valid/model/average/hr@10"] == [(10, 0.5)]
    assert events["evaluate/valid/model/raw/hr@10"] == [(10, 0.25)]
    assert events["evaluate/valid/popularity/hr@10"] == [(10, 0.125)]


def test_resume_drops_the_lost_steps_and_goes_on(tmp_path):
    _write(tmp_path, [100, 200, 300, 400])
    _write(tmp_path, [300, 400, 500], start_step=200)
    assert _steps(tmp_path) == [100, 200, 300, 400, 500]
    curve = sorted(_events(tmp_path / "tensorboard")["train/loss"])
    assert [step for step, _ in curve] == [100, 200, 300, 400, 500]
    assert [value for _, value in curve] == pytest.approx([1 / s for s in (100, 200, 300, 400, 500)])
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard"}


def test_resume_at_the_last_step_changes_nothing(tmp_path):
    _write(tmp_path, [100, 200])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    _write(tmp_path, [], start_step=200)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_new_run_from_step_0_starts_empty(tmp_path):
    _write(tmp_path, [100, 200])
    _write(tmp_path, [100])
    assert _steps(tmp_path) == [100]


def test_torn_last_line_and_torn_event_are_dropped(tmp_path):
    _write(tmp_path, [100, 200])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 300, "lo')
    [events] = (tmp_path / "tensorboard").iterdir()
    events.write_bytes(events.read_bytes()[:-3])
    assert _steps(tmp_path) == [100, 200]
    _write(tmp_path, [300], start_step=200)
    assert _steps(tmp_path) == [100, 200, 300]
    assert path.read_bytes().endswith(b"}\n")
    assert sorted(s for s, _ in _events(tmp_path / "tensorboard")["train/loss"]) == [100, 300]


def test_lines_can_be_added_beside_a_running_trainer(tmp_path):
    with MetricsWriter(str(tmp_path), 0) as trainer:
        trainer.write("train", 200, {"loss": 0.5})
        with MetricsWriter(str(tmp_path), None) as evaluation:
            evaluation.write("evaluate", 100, {"hr@10": 0.25})
        trainer.write("train", 300, {"loss": 0.25})
    assert _steps(tmp_path) == [200, 100, 300]
    assert [s for s, _ in _events(tmp_path / "tensorboard")["train/loss"]] == [200, 300]


def test_adding_lines_after_a_killed_run_cuts_its_torn_line_only(tmp_path):
    _write(tmp_path, [100, 200])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 300, "lo')
    with MetricsWriter(str(tmp_path), None) as evaluation:
        evaluation.write("evaluate", 100, {"hr@10": 0.25})
    assert _steps(tmp_path) == [100, 200, 100]


@pytest.mark.parametrize("garbage", [b"not json", b"[1, 2]", b"\xff\xfe", b'{"step": 1'])
def test_garbage_elsewhere_names_file_and_line(tmp_path, garbage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + garbage + b'\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 "):
        read_metrics(str(tmp_path))
    with pytest.raises(DataError, match="line 2"):
        MetricsWriter(str(tmp_path), 0)
    assert garbage in path.read_bytes()  # nothing is lost by refusing


def test_no_file_is_no_metrics(tmp_path):
    assert read_metrics(str(tmp_path / "none")) == []


@pytest.mark.parametrize("kind, values", [("trian", {}), ("train", {"step": 3}), ("train", {"time": 3})])
def test_wrong_lines_are_refused(tmp_path, kind, values):
    with MetricsWriter(str(tmp_path), 0) as writer, pytest.raises(ValueError):
        writer.write(kind, 1, values)
    assert read_metrics(str(tmp_path)) == []


def test_object_store_is_uploaded_resumed_and_cleaned_up(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = fsspec.filesystem("memory")
    run_dir = "memory://metrics-test/run"
    try:
        writer = MetricsWriter(run_dir, 0, upload_seconds=3600)
        writer.write("train", 100, {"loss": 0.5})
        assert read_metrics(run_dir) == []  # train lines wait for the clock
        writer.write("evaluate", 100, {"split": "valid", "hr@10": 0.25})
        assert _steps(run_dir) == [100, 100]  # evaluations do not
        writer.write("train", 200, {"loss": 0.25})
        writer.close()
        _write(run_dir, [150], start_step=100)
        assert _steps(run_dir) == [100, 100, 150]
        assert list(tmp_path.iterdir()) == []
        store.get("/metrics-test/run/tensorboard", str(tmp_path / "events"), recursive=True)
        assert sorted(s for s, _ in _events(tmp_path / "events")["train/loss"]) == [100, 150]
    finally:
        store.rm("/metrics-test", recursive=True)


def test_failing_upload_does_not_stop_training_but_close_says_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = fsspec.filesystem("memory")
    writer = MetricsWriter("memory://metrics-down/run", 0)

    def fail(*unused, **more):
        raise OSError("no network")

    try:
        with monkeypatch.context() as broken:
            broken.setattr(type(store), "put_file", fail)
            writer.write("evaluate", 1, {"hr@10": 0.5})
            with pytest.raises(OSError, match="no network"):
                writer.close()
    finally:
        store.rm("/metrics-down", recursive=True)


def test_reading_and_reporting_do_not_import_tensorflow():
    code = (
        "import sys, trainer.report.metrics_file, trainer.report.document; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class Disk:
    """A file whose disk takes `room` bytes and refuses the rest, until more is given."""

    def __init__(self, file, room: int):
        self._file, self.room = file, room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._file.write(data[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_full_disk_ends_no_training_and_loses_no_line_when_it_is_over(tmp_path, caplog):
    caplog.set_level("INFO")
    with MetricsWriter(str(tmp_path)) as metrics:
        metrics.write("train", 1, {"loss": 0.5})
        disk = metrics._lines._file = Disk(metrics._lines._file, room=10)
        for step in (2, 3, 4):
            metrics.write("train", step, {"loss": 0.5})
        assert caplog.text.count("No space left on device") == 1
        assert [line["step"] for line in read_metrics(str(tmp_path))] == [1]  # the torn one is left out
        disk.room = 10**6
        metrics.write("train", 5, {"loss": 0.5})
    assert [line["step"] for line in read_metrics(str(tmp_path))] == [1, 2, 3, 4, 5]
    assert "writing again; 0 lines were lost" in caplog.text


def test_lines_that_never_fit_are_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("trainer.report.metrics_file._MOST_WAITING_BYTES", 200)
    with MetricsWriter(str(tmp_path)) as metrics:
        metrics._lines._file = Disk(metrics._lines._file, room=0)
        for step in range(20):
            metrics.write("train", step, {"loss": 0.5})
    assert "the last 20 lines were lost" in caplog.text
    assert read_metrics(str(tmp_path)) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), tf.errors.ResourceExhaustedError(None, None, "full")]
)
def test_events_that_cannot_be_written_end_no_training(tmp_path, caplog, monkeypatch, error):
    with MetricsWriter(str(tmp_path)) as metrics:

        def refuse():
            raise error

        monkeypatch.setattr(metrics._events, "flush", refuse)
        for step in range(3):
            metrics.write("train", step, {"loss": 0.5})
        monkeypatch.undo()
    assert caplog.text.count("cannot write TensorBoard events") == 1
    assert len(read_metrics(str(tmp_path))) == 3

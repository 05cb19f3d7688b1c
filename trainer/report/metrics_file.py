"""The run's figures over time: <run_dir>/metrics.jsonl, and the same scalars as TensorBoard events.

One JSON object a line: {"step": int, "time": unix seconds, "kind": "train" | "evaluate" | "run", ...}.
A value that is not finite is written as null, so every line is valid JSON for any reader.
This module imports TensorFlow only inside MetricsWriter; the report reads metrics without it.
"""

import contextlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from configs.errors import DataError
from configs.system.storage import filesystem, is_remote, names, read_bytes, write_bytes
from trainer.runtime import untuned

METRICS_FILE = "metrics.jsonl"
EVENTS = "tensorboard"
LINE_KINDS = ("train", "evaluate", "run")
_MOST_WAITING_BYTES = 16 << 20  # limit of buffered lines, some 100,000, while the disk fails


def read_metrics(run_dir: str) -> list[dict]:
    """All lines of <run_dir>/metrics.jsonl in order; [] when the file does not exist.

    An incomplete last line (its writer was killed) is ignored.

    Raises:
      DataError: another line is not a JSON object; names file and line.
    """
    name = f"{run_dir.rstrip('/')}/{METRICS_FILE}"
    try:
        return _parse(read_bytes(name), name)
    except FileNotFoundError:
        return []


class MetricsWriter:
    """Appends metrics to metrics.jsonl and to TensorBoard events, flushed after each write.

    On a local disk files are written in place. Object stores cannot append: there the files live in a
    temporary directory and are uploaded whole, by `flush`, at most every `upload_seconds`, and on close.
    """

    def __init__(self, run_dir: str, start_step: int | None = 0, *, upload_seconds: float = 60.0):
        """Opens the files.

        Args:
          run_dir: run directory, local or gs://; created when missing.
          start_step: step to resume from; lines that a killed run wrote after it are dropped. None drops
            nothing, for a command that adds lines while the run may still be training.
          upload_seconds: minimum time between two uploads of train lines to an object store.

        Raises:
          DataError: a line of metrics.jsonl, other than the last, is not a JSON object.
        """
        import tensorflow as tf

        self._run_dir = run_dir.rstrip("/")
        self._fs, self._root = filesystem(self._run_dir)
        self._remote = is_remote(run_dir)
        self._work = tempfile.mkdtemp(prefix="metrics-") if self._remote else self._root
        self._upload_seconds = upload_seconds
        self._uploaded_at = time.monotonic()
        self._uploaded_bytes: dict[str, int] = {}
        self._events_failed = False
        os.makedirs(f"{self._work}/{EVENTS}", exist_ok=True)
        if self._remote:
            self._download()
        if start_step is None:
            _cut_torn_line(f"{self._work}/{METRICS_FILE}")
        else:
            _truncate_lines(f"{self._work}/{METRICS_FILE}", start_step)
            _truncate_events(f"{self._work}/{EVENTS}", start_step)
        self._lines = _Lines(f"{self._work}/{METRICS_FILE}")
        self._events = tf.summary.create_file_writer(f"{self._work}/{EVENTS}")
        if self._remote:
            self._upload()

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line, and each number in it as a scalar.

        Args:
          kind: train, evaluate or run.
          step: training steps done.
          values: numbers (Python, NumPy or scalar tensors), text, or lists and dicts of them.

        Raises:
          ValueError: an unknown kind, or values with the keys step, time or kind.
        """
        if kind not in LINE_KINDS:
            raise ValueError(f"kind {kind!r} is not one of {', '.join(LINE_KINDS)}")
        if taken := {"step", "time", "kind"} & set(values):
            raise ValueError(f"values must not contain {', '.join(sorted(taken))}: every line sets its own")
        line = {"step": int(step), "time": round(time.time(), 3), "kind": kind}
        line |= {name: _plain(value) for name, value in values.items()}
        self._lines.add(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._write_scalars(line)
        # Evaluations are rare and expensive: upload them at once.
        if self._remote and (kind != "train" or time.monotonic() - self._uploaded_at > self._upload_seconds):
            self._try_upload()

    def read(self) -> list[dict]:
        """All lines written so far, including those of earlier processes of the run."""
        path = f"{self._work}/{METRICS_FILE}"
        return _parse(Path(path).read_bytes(), path)

    def flush(self) -> None:
        """Uploads the lines written so far to an object store; a failure is logged.

        Called before each checkpoint: a run that resumes from it finds all lines up to there.
        """
        if self._remote:
            self._try_upload()

    def close(self, upload: bool = True) -> None:
        """Closes the files and uploads the rest to an object store; errors of that upload are raised.

        Args:
          upload: False when another process has taken over the run.
        """
        if self._lines.closed:
            return
        self._lines.close()
        with self._events_may_fail():
            self._events.close()
        if self._remote:
            if upload:
                self._upload()
            shutil.rmtree(self._work, ignore_errors=True)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def _write_scalars(self, line: dict) -> None:
        import tensorflow as tf

        parts = [line["kind"], line.get("split"), line.get("task"), line.get("scorer")]
        if line.get("scorer") == "model":  # baselines have no weights
            parts.append(line.get("weights"))
        prefix = "/".join(part for part in parts if part)
        with self._events_may_fail(), self._events.as_default(step=line["step"]):
            for name, value in line.items():
                if name not in ("step", "time") and type(value) in (int, float):
                    tf.summary.scalar(f"{prefix}/{name}", float(value))
            self._events.flush()

    @contextlib.contextmanager
    def _events_may_fail(self) -> Iterator[None]:
        """Logs the first failure and continues: losing TensorBoard curves must not end training."""
        import tensorflow as tf

        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            if not self._events_failed:
                self._events_failed = True
                reason = " ".join(str(getattr(error, "message", error)).split())
                logging.warning(
                    "%s/%s: cannot write TensorBoard events (%s); training continues without them",
                    self._work,
                    EVENTS,
                    reason,
                )

    def _download(self) -> None:
        # Listed, not globbed: the run's path may contain glob characters.
        events = [f"{EVENTS}/{name}" for name in names(f"{self._run_dir}/{EVENTS}") if "tfevents" in name]
        for name in (METRICS_FILE, *events):
            if self._fs.exists(f"{self._root}/{name}"):
                self._fs.get_file(f"{self._root}/{name}", f"{self._work}/{name}")

    def _upload(self) -> None:
        self._fs.makedirs(f"{self._root}/{EVENTS}", exist_ok=True)
        for name in [METRICS_FILE, *(f"{EVENTS}/{n}" for n in os.listdir(f"{self._work}/{EVENTS}"))]:
            size = os.path.getsize(f"{self._work}/{name}")
            if self._uploaded_bytes.get(name) != size:  # files only grow; earlier runs' events do not
                self._fs.put_file(f"{self._work}/{name}", f"{self._root}/{name}")
                self._uploaded_bytes[name] = size
        self._uploaded_at = time.monotonic()

    def _try_upload(self) -> None:
        """Uploads; a failure is only logged, because the next upload repeats it."""
        try:
            self._upload()
        except Exception as error:  # each file system has its own errors
            logging.warning(
                "cannot upload metrics to %s yet: %s; retrying with the next upload", self._root, error
            )
            self._uploaded_at = time.monotonic()


class _Lines:
    """Appends lines to a file; lines that a full or failing disk rejects are buffered and retried.

    Args:
      path: of the file.
    """

    def __init__(self, path: str):
        self._path = path
        self._file = open(path, "ab", buffering=0)
        self._waiting, self._lost, self._failing = b"", 0, False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._file.closed

    def add(self, line: bytes) -> None:
        """Writes the buffered lines and this one; logs when writing starts to fail and when it recovers."""
        if len(self._waiting) + len(line) > _MOST_WAITING_BYTES:
            self._lost += 1
        else:
            self._waiting += line
        try:
            while self._waiting:  # a disk that fills up accepts only a part
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if not self._failing:
                reason = error.strerror or error
                logging.warning(
                    "%s: cannot write (%s); buffering its lines, training continues", self._path, reason
                )
            self._failing = True
            return
        if self._failing:
            self._failing = False
            logging.info("%s: writing again; %d lines were lost", self._path, self._lost)

    def close(self) -> None:
        """Retries once, and logs how many lines are lost."""
        self.add(b"")
        lost = self._lost + self._waiting.count(b"\n")
        if self._waiting:
            logging.warning("%s: the last %d lines were lost", self._path, lost)
        self._file.close()


def _plain(value: Any) -> Any:
    """`value` as JSON types: floats that are not finite become None."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "numpy"):  # a tensor
        value = value.numpy()
    if hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if isinstance(value, (str, bool, int)):
        return value
    value = float(value)
    return value if math.isfinite(value) else None


def _parse(content: bytes, name: str) -> list[dict]:
    lines = [(number, text) for number, text in enumerate(content.split(b"\n"), 1) if text.strip()]
    parsed = []
    for number, text in lines:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):  # bad JSON and bad UTF-8 alike
            line = None
        if isinstance(line, dict) and type(line.get("step", 0)) is int and type(line.get("kind", "")) is str:
            parsed.append(line)
        elif number != lines[-1][0]:
            raise DataError(f"{name}: line {number} is not a JSON object; remove it, or restore the file")
    return parsed


def _cut_torn_line(path: str) -> None:
    """Cuts off an incomplete last line, in place: a running trainer may have the same file open."""
    if os.path.exists(path):
        content = Path(path).read_bytes()
        _parse(content, path)
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def _truncate_lines(path: str, start_step: int) -> None:
    """Drops an incomplete last line and lines after `start_step`, atomically."""
    if not os.path.exists(path):
        return
    content = Path(path).read_bytes()
    kept = [line for line in _parse(content, path) if line.get("step", 0) <= start_step]
    wanted = b"".join(json.dumps(line).encode() + b"\n" for line in kept)
    if wanted != content:
        write_bytes(path, wanted)


def _truncate_events(folder: str, start_step: int) -> None:
    """Drops the events after `start_step`, and an incomplete tail, from every event file of `folder`."""
    import tensorflow as tf

    for path in sorted(Path(folder).glob("*tfevents*")):
        records = list(_records(str(path)))
        kept = [r for r in records if tf.compat.v1.Event.FromString(r).step <= start_step]
        temporary = f"{folder}/rewrite.tmp"  # TensorBoard ignores names without tfevents
        with tf.io.TFRecordWriter(temporary) as writer:
            for record in kept:
                writer.write(record)
        if os.path.getsize(temporary) == path.stat().st_size:
            os.unlink(temporary)
        else:
            os.replace(temporary, path)


def _records(path: str) -> Iterator[bytes]:
    """The records of a TFRecord file up to its end or to the first damaged one."""
    import tensorflow as tf

    try:
        yield from untuned(tf.data.TFRecordDataset(path)).as_numpy_iterator()
    except tf.errors.DataLossError:
        return

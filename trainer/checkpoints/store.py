"""The checkpoints of a run: what to write, when to wait for it, and how to come back.

A save writes the rows touched since the checkpoint before it, or all rows when that is no more; a restart
reads a full checkpoint and the increments after it. trainer/checkpoints/files.py describes the files,
trainer/checkpoints/chain.py which build on which.

TensorFlow's own checkpoints do not fall back when a file is torn and leave orphans behind; these verify and
do, and their row ranges can be read one by one (see docs/decisions.md).
"""

import collections
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from configs.errors import CheckpointError
from configs.system import storage
from trainer.checkpoints.chain import (
    LOOKS,
    Checkpoint,
    CheckpointDirectory,
    directory_name,
    prune,
    table_bytes,
    table_width,
)
from trainer.checkpoints.files import (
    DENSE,
    DamagedCheckpoint,
    RecordPiece,
    errors_of,
    in_flight,
    in_order,
    read_array,
    read_dense,
    write_checkpoint,
)
from trainer.checkpoints.identity import first_difference
from trainer.checkpoints.rows import StoredRows
from trainer.embeddings.base import CHUNK_ROWS

# A restart opens all files of a chain, so it is cut even when its increments are tiny.
MAX_INCREMENTS = 100


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a save did."""

    step: int
    """Steps done."""
    kind: str
    """full or increment."""
    mode: str
    """async or blocking."""
    rows: int
    """Rows of tables written."""
    bytes: int
    """Of all files but COMMITTED."""
    blocked_seconds: float
    """Time that training stood still, waiting for the save before it included."""
    written_seconds: float
    """Time from the first file to the last deletion of what is no longer kept."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a restore read."""

    step: int
    """Steps done."""
    bytes: int
    """Of the files read."""
    seconds: float
    """Time it took."""


class CheckpointStore:
    """The checkpoints of one run. One process writes at a time (trainer.training.session.lock_run).

    Args:
      directory: <run>/checkpoints, local or in an object store; made by the first `save`.
      keep: newest restorable steps that `save` leaves, with all they build on.
      identity: JSON values that a checkpoint must share with the run that restores it, by config key.
      incremental, compact_at, async_memory_mb: as configs.sections.training.CheckpointConfig.
      check: called before a checkpoint is declared complete; raises when another process owns the run.

    Attributes:
      restored: Restored by this object; None before, or when there was nothing.
    """

    def __init__(
        self,
        directory: str,
        keep: int,
        identity: dict,
        *,
        incremental: bool = True,
        compact_at: float = 1.0,
        async_memory_mb: int = 512,
        check: Callable[[], None] = lambda: None,
    ):
        self._directory, self._keep, self._identity = directory.rstrip("/"), keep, identity
        self._compact_at = compact_at if incremental else 0.0
        self._async_bytes = async_memory_mb << 20
        self._check_owner = check
        self.restored: Restored | None = None
        self._chain: list[Checkpoint] = []  # what this process restored or wrote last
        self._finished: collections.deque[Saved] = collections.deque()
        self._background: threading.Thread | None = None
        self._failure: BaseException | None = None

    def steps(self) -> list[int]:
        """Steps of complete checkpoints, oldest first; incomplete directories are not listed."""
        return CheckpointDirectory(self._directory).steps()

    def save(self, step: int, tables: dict, dense: dict[str, tf.Variable]) -> None:
        """Writes a checkpoint, then deletes what `keep` does not ask for, later steps and torn ones.

        When a copy of all that is to be written fits in `async_memory_mb`, a thread writes it and this
        returns; `wait` waits. A step that is saved already is not saved again.

        Args:
          step: steps done.
          tables: by name, trainer.embeddings.base.Table.
          dense: variables outside the tables, by name.

        Raises:
          CheckpointError: it cannot be written. (One in the background before it that could not is logged.)
        """
        started = time.monotonic()
        asynchronous = self._async_bytes
        try:
            self.wait()
        except CheckpointError as error:
            logging.error("%s; writing step %d while training waits", error, step)
            asynchronous = -1
        if self._chain and self._chain[-1].step == step:
            return
        values = {name: variable.numpy() for name, variable in dense.items()}
        head, ids = self._plan(step, tables)
        pieces = _pieces(tables, ids)
        size = table_bytes(head["tables"], ids=ids is not None) + sum(v.nbytes for v in values.values())
        if size > asynchronous:
            self._write(head, pieces, values, "blocking", lambda: time.monotonic() - started)
            return
        pieces = list(pieces)
        blocked = time.monotonic() - started

        def write():
            try:
                self._write(head, iter(pieces), values, "async", lambda: blocked)
            except BaseException as error:  # raised by `wait`, in the trainer's thread
                self._failure = error

        self._background = threading.Thread(target=write, name=f"checkpoint-{step}")
        self._background.start()

    def wait(self) -> None:
        """Waits for the save in the background. Raises CheckpointError when it failed."""
        if self._background is not None:
            self._background.join()
            self._background = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def finished(self) -> list[Saved]:
        """The saves that ended since the last call, oldest first."""
        found = []
        while self._finished:  # the writing thread may append meanwhile
            found.append(self._finished.popleft())
        return found

    def _plan(self, step: int, tables: dict) -> tuple[dict, dict[str, np.ndarray] | None]:
        """The manifest to write, without files, and the touched rows by table; None: all rows."""
        head = {"step": step, "kind": "full", "id": os.urandom(8).hex(), "base": None}
        head["identity"] = self._identity
        full = {name: _layout(table, table.rows) for name, table in tables.items()}
        if self._compact_at and 0 < len(self._chain) <= MAX_INCREMENTS:
            base = self._chain[-1].manifest
            ids = {name: table.touched_since(base["step"]) for name, table in tables.items()}
            layouts = {name: _layout(table, len(ids[name])) for name, table in tables.items()}
            size, whole = table_bytes(layouts, ids=True), table_bytes(full, ids=False)
            before = sum(table_bytes(c.manifest["tables"], ids=True) for c in self._chain[1:])
            if size < whole and before + size <= self._compact_at * whole:
                head |= {"kind": "increment", "base": {"step": base["step"], "id": base["id"]}}
                return head | {"tables": layouts}, ids
        return head | {"tables": full}, None

    def _write(
        self, head: dict, pieces: Iterator[RecordPiece], dense: dict, mode: str, blocked: Callable[[], float]
    ) -> None:
        started, widths = time.monotonic(), map(table_width, head["tables"].values())
        path = storage.join(self._directory, directory_name(head["step"], head["kind"]))
        try:
            most = in_flight(4 * CHUNK_ROWS * max(widths, default=1))
            checkpoint = Checkpoint(
                path, write_checkpoint(path, head, pieces, dense, most, self._check_owner)
            )
            previous = self._chain[-1].step if self._chain else None
            self._chain = [*(self._chain if checkpoint.kind == "increment" else []), checkpoint]
        except CheckpointError as error:
            last = f"step {self._chain[-1].step}" if self._chain else "none yet"
            raise CheckpointError(
                f"{error}; last good checkpoint: {last}; fix the cause, then rerun the same command to resume"
            ) from error
        self._prune(previous)
        rows = sum(sum(layout["pieces"]) for layout in head["tables"].values())
        seconds = time.monotonic() - started
        saved = Saved(head["step"], head["kind"], mode, rows, checkpoint.bytes, blocked(), seconds)
        self._finished.append(saved)

    def _prune(self, previous: int | None) -> None:
        """Deletes what is not kept; what cannot be deleted now, a later save may."""
        try:
            with errors_of(self._directory, "cleaned"):
                prune(self._directory, self._chain, self._keep, previous, self._check_owner)
        except CheckpointError as error:
            logging.warning("checkpoints that are no longer kept stay for now: %s", error)

    def restore_newest(self, tables: dict, dense: dict[str, tf.Variable]) -> int | None:
        """Restores all of the newest checkpoint that verifies; says so when it had to fall back.

        Every file is read once, and checked before it is used. Dense variables are assigned last.

        Returns:
          Its step; None when there is no checkpoint at all.

        Raises:
          CheckpointError: there are checkpoints, but none verifies, or they belong to another run.
        """
        started = time.monotonic()

        def load(chain: list[Checkpoint]) -> dict[str, np.ndarray]:
            values = self._dense_values(chain[-1], dense, partial=False)
            for checkpoint in chain:
                for name, table in tables.items():
                    _load_rows(checkpoint, name, table)
            return values

        found = self._newest(tables, load)
        if found is None:
            return None
        self._chain, values = found
        for name, variable in dense.items():
            variable.assign(values[name])
        size = sum(checkpoint.bytes for checkpoint in self._chain)
        self.restored = Restored(self._chain[-1].step, size, time.monotonic() - started)
        return self.restored.step

    def open_newest(self, tables: dict, dense: dict[str, tf.Variable]) -> int | None:
        """As restore_newest, for StoredTables, which stay on disk, and a part of the dense variables."""

        def load(chain: list[Checkpoint]):
            values = self._dense_values(chain[-1], dense, partial=True)
            return values, {name: StoredRows(chain, name) for name in tables}

        found = self._newest(tables, load)
        if found is None:
            return None
        chain, (values, rows) = found
        for name, table in tables.items():
            table.open(rows[name])
        for name, variable in dense.items():
            variable.assign(values[name])
        return chain[-1].step

    def _newest(self, tables: dict, load: Callable) -> tuple | None:
        """(chain, load(chain)) of the newest step for which `load` finds no damage."""
        for attempt in range(LOOKS):
            with errors_of(self._directory, "read"):
                directory, reasons = CheckpointDirectory(self._directory), []
                steps = directory.steps()
            changed = False
            for step, chain in ((s, c) for s in steps[::-1] for c in directory.chains(s)):
                try:
                    if isinstance(chain, DamagedCheckpoint):
                        raise chain
                    self._check(chain, tables)
                    return chain, load(chain)
                except DamagedCheckpoint as error:
                    # A trainer beside us deletes what is too old, and has written newer ones.
                    changed = attempt < LOOKS - 1 and directory.has_changed()
                    if changed:
                        break
                    logging.warning("step %d: %s; falling back to the checkpoint before it", step, error)
                    reasons.append(str(error))
            if not changed:
                break
        if reasons:
            raise CheckpointError(
                f"no checkpoint verifies ({reasons[0]}); delete {self._directory} to start afresh"
            )
        if directory.names:
            logging.warning("%s: holds no complete checkpoint, only beginnings", self._directory)
        return None

    def _check(self, chain: list[Checkpoint], tables: dict) -> None:
        """Identity and layouts must be what the config makes. Raises CheckpointError."""
        newest = chain[-1]
        if different := first_difference(newest.manifest["identity"], self._identity):
            key, saved, value = different
            raise CheckpointError(
                f"{newest.path}: saved under {key} = {saved}, the run now says {value}; "
                "use another output.path, or restore the value "
                f"(--config {storage.join(os.path.dirname(self._directory), 'config.yaml')} has it)"
            )
        for checkpoint in chain:
            for name, table in tables.items():
                layout = checkpoint.manifest["tables"].get(name, {})
                found = {key: layout.get(key) for key in ("rows", "parts")}
                wanted = {"rows": table.rows, "parts": [list(part) for part in table.parts]}
                if found != wanted:
                    raise CheckpointError(
                        f"{checkpoint.path}: table {name} was saved as {found}, the config makes it "
                        f"{wanted}; use another output.path or restore the config"
                    )

    def _dense_values(self, checkpoint: Checkpoint, dense: dict, partial: bool) -> dict[str, np.ndarray]:
        """Saved arrays by name; names (all, unless partial) and shapes must be those of the variables."""
        values = read_dense(checkpoint.path, checkpoint.manifest)
        odd = sorted(set(dense) - set(values) if partial else set(values) ^ set(dense))
        odd += [n for n, v in dense.items() if n in values and values[n].shape != tuple(v.shape)]
        if odd:
            raise CheckpointError(
                f"{checkpoint.path}/{DENSE}: holds other weights than the config makes: {odd}"
            )
        return values


def _layout(table, rows: int) -> dict:
    """A table's layout in the manifest when so many of its rows are written."""
    pieces = [min(CHUNK_ROWS, rows - start) for start in range(0, rows, CHUNK_ROWS)]
    return {"rows": table.rows, "parts": [list(part) for part in table.parts], "pieces": pieces}


def _pieces(tables: dict, ids: dict[str, np.ndarray] | None) -> Iterator[RecordPiece]:
    """Records of the tables' rows, in the pieces of their layouts; ids None: all rows."""
    for name, table in tables.items():
        number = table.rows if ids is None else len(ids[name])
        for i, start in enumerate(range(0, number, CHUNK_ROWS)):
            stop = min(start + CHUNK_ROWS, number)
            rows = np.arange(start, stop, dtype=np.int64) if ids is None else ids[name][start:stop]
            yield RecordPiece(name, i, None if ids is None else rows, np.asarray(table.read_records(rows)))


def _load_rows(checkpoint: Checkpoint, name: str, table) -> None:
    """Writes a checkpoint's rows into a table: threads read and check, this one writes."""

    def read(piece):
        _, records, ids = piece
        names = [records] if ids is None else [records, ids]
        return [read_array(checkpoint.path, checkpoint.manifest, file) for file in names]

    pieces, start = checkpoint.pieces(name), 0
    largest = max((n for n, _, _ in pieces), default=0)
    for records, *ids in in_order(read, pieces, in_flight(4 * table.width * largest)):
        if ids:
            table.write_rows(ids[0], records)
        else:
            table.write_records(start, records)
            start += len(records)

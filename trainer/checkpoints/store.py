"""The checkpoints of a run: decides what to write, when to wait for it, and restores it.

A save writes the rows touched since the checkpoint before it, or all rows if that is not more; a restart
reads a full checkpoint and the increments after it. trainer/checkpoints/files.py describes the files, and
trainer/checkpoints/chain.py how checkpoints build on each other.

TensorFlow's own checkpoints do not fall back when a file is damaged, and leave orphaned files behind; these
are verified, fall back, and can be read row range by row range (see docs/decisions.md).
"""

import collections
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from configs.errors import CheckpointError
from configs.system import storage
from trainer.checkpoints.chain import CheckpointDirectory, directory_name, prune
from trainer.checkpoints.files import Piece, RecordPiece, errors_of, in_flight, write_checkpoint
from trainer.checkpoints.manifest import (
    CheckpointBase,
    CheckpointHead,
    StartedFrom,
    TableLayout,
    table_bytes,
)
from trainer.checkpoints.reader import Checkpoint
from trainer.checkpoints.restoration import dense_values, load_rows, newest_restorable, same_run
from trainer.checkpoints.rows import StoredRows
from trainer.embeddings.base import CHUNK_ROWS, Snapshot, Table

# A restart opens all files of a chain, so its length is limited even if its increments are tiny.
MAX_INCREMENTS = 100


@dataclasses.dataclass(frozen=True)
class Saved:
    """Facts about a save."""

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
    """Time that training was blocked, including the wait for the save before."""
    written_seconds: float
    """Time from writing the first file to the last deletion of old checkpoints."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """Facts about a restore."""

    step: int
    """Steps done."""
    bytes: int
    """Of the files read."""
    seconds: float
    """Time it took."""


class CheckpointStore:
    """The checkpoints of one run. One process writes at a time (trainer.training.run_directory.lock_run).

    Args:
      directory: <run>/checkpoints, local or in an object store; created by the first `save`.
      keep: number of newest restorable steps that `save` keeps, with everything they build on.
      identity: JSON values that a checkpoint must share with the run that restores it, by config key.
      incremental, compact_at, async_memory_mb: as configs.sections.training.CheckpointConfig.
      check: called before a checkpoint is committed; raises if another process owns the run.

    Attributes:
      restored: facts about the restore by this object; None before it, or if there was no checkpoint.
      started_from: the checkpoint of another run that this one began with; None: with random weights.
        Checkpoints hold it, so a run that is restored knows it.
    """

    def __init__(
        self,
        directory: str,
        keep: int,
        identity: dict[str, Any],
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
        self.started_from: StartedFrom | None = None
        self._chain: list[Checkpoint] = []  # that this process restored or wrote last
        self._finished: collections.deque[Saved] = collections.deque()
        self._background: threading.Thread | None = None
        self._failure: BaseException | None = None

    def steps(self) -> list[int]:
        """Steps of complete checkpoints, oldest first."""
        return CheckpointDirectory(self._directory).steps()

    def save(
        self, step: int, tables: dict[str, Table], dense: dict[str, tf.Variable], *, last: bool = False
    ) -> None:
        """Writes a checkpoint, then deletes old, later and damaged ones as `prune` does.

        A thread writes it and this method returns, if all tables give snapshots, which hold at most
        `async_memory_mb`, or else if a copy of everything to be written fits there; `wait` waits for it.
        A step that is saved already is not saved again.

        Args:
          step: steps done.
          tables: by name, trainer.embeddings.base.Table.
          dense: variables outside the tables, by name.
          last: of the run, which evaluation, export and the runs that start from it will read: a full one
            if its increments would hold half of what they may.

        Raises:
          CheckpointError: it cannot be written. (A failure of the save before, in the background, is logged.)
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
        head, ids = self._plan(step, tables, self._compact_at / 2 if last else self._compact_at)
        size = table_bytes(head.tables, ids=ids is not None) + sum(v.nbytes for v in values.values())
        hosts = max((table.elsewhere.hosts for table in tables.values() if table.elsewhere), default=0)
        # Rows of other hosts are written there, while training waits: a copy here would pass through this
        # one.
        snapshots = {} if hosts or asynchronous <= 0 else _snapshots(tables, ids, asynchronous)
        pieces: Iterable[Piece] = _pieces(tables, ids, snapshots)
        if not snapshots:
            if size > asynchronous or hosts:
                self._write(head, pieces, values, "blocking", lambda: time.monotonic() - started, hosts or 1)
                return
            pieces = list(pieces)
        before = time.monotonic() - started

        def blocked() -> float:
            return before + sum(snapshot.end() for snapshot in snapshots.values())

        def write() -> None:
            try:
                self._write(head, iter(pieces), values, "async", blocked)
            except BaseException as error:  # raised by `wait`, in the trainer's thread
                self._failure = error
            finally:
                for snapshot in snapshots.values():  # after a failure: no step may wait for it
                    snapshot.end()

        self._background = threading.Thread(target=write, name=f"checkpoint-{step}")
        self._background.start()

    def wait(self) -> None:
        """Waits for the save in the background. Raises CheckpointError if it failed."""
        if self._background is not None:
            self._background.join()
            self._background = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def finished(self) -> list[Saved]:
        """The saves completed since the last call, oldest first."""
        found = []
        while self._finished:  # the writing thread may append during the loop
            found.append(self._finished.popleft())
        return found

    def _plan(
        self, step: int, tables: dict[str, Table], compact_at: float
    ) -> tuple[CheckpointHead, dict[str, np.ndarray] | None]:
        """The head of the checkpoint to write, and the touched rows by table; None: all rows."""
        facts = {
            "step": step,
            "id": os.urandom(8).hex(),
            "identity": self._identity,
            "started_from": self.started_from,
        }
        full = {name: _layout(table, table.rows) for name, table in tables.items()}
        if compact_at and 0 < len(self._chain) <= MAX_INCREMENTS:
            newest = self._chain[-1].manifest
            ids = {name: table.touched_since(newest.step) for name, table in tables.items()}
            layouts = {name: _layout(table, len(ids[name])) for name, table in tables.items()}
            size, whole = table_bytes(layouts, ids=True), table_bytes(full, ids=False)
            before = sum(table_bytes(c.manifest.tables, ids=True) for c in self._chain[1:])
            if size < whole and before + size <= compact_at * whole:
                base = CheckpointBase(step=newest.step, id=newest.id)
                return CheckpointHead(**facts, kind="increment", base=base, tables=layouts), ids
        return CheckpointHead(**facts, kind="full", base=None, tables=full), None

    def _write(
        self,
        head: CheckpointHead,
        pieces: Iterable[Piece],
        dense: dict[str, np.ndarray],
        mode: str,
        blocked: Callable[[], float],
        hosts: int = 1,
    ) -> None:
        started, layouts = time.monotonic(), head.tables.values()
        path = storage.join(self._directory, directory_name(head.step, head.kind))
        try:
            most = in_flight(4 * CHUNK_ROWS * max((layout.width for layout in layouts), default=1))
            manifest = write_checkpoint(path, head, pieces, dense, most * hosts, self._check_owner)
        except CheckpointError as error:
            last = f"step {self._chain[-1].step}" if self._chain else "none yet"
            raise CheckpointError(
                f"{error}; last good checkpoint: {last}; fix the cause, then rerun the same command to resume"
            ) from error
        checkpoint = Checkpoint(path, manifest)
        previous = self._chain[-1].step if self._chain else None
        self._chain = [*([] if checkpoint.is_full else self._chain), checkpoint]
        self._prune(previous)
        rows = sum(layout.num_records for layout in layouts)
        seconds = time.monotonic() - started
        saved = Saved(head.step, head.kind, mode, rows, checkpoint.bytes, blocked(), seconds)
        self._finished.append(saved)

    def prune(self) -> None:
        """Deletes what is not kept any more because another checkpoint became the best; after `wait`."""
        if self._chain:
            self._prune(self._chain[-1].step)

    def _prune(self, previous: int | None) -> None:
        """Deletes old checkpoints; after a failure, a later save tries again."""
        try:
            with errors_of(self._directory, "cleaned"):
                prune(self._directory, self._chain, self._keep, previous, self._check_owner)
        except CheckpointError as error:
            logging.warning("old checkpoints stay for now: %s", error)

    def restore_newest(self, tables: dict[str, Table], dense: dict[str, tf.Variable]) -> int | None:
        """Restores the newest checkpoint that verifies; warns if it is not the newest.

        Every file is read once, and verified before it is used. Dense variables are assigned last.

        Returns:
          Its step; None if there is no checkpoint.

        Raises:
          CheckpointError: no checkpoint verifies, or they belong to another run.
        """
        started = time.monotonic()

        def load(chain: list[Checkpoint]) -> dict[str, np.ndarray]:
            values = dense_values(chain[-1], dense, partial=False)
            for checkpoint in chain:
                for name, table in tables.items():
                    load_rows(checkpoint, name, table)
            return values

        found = newest_restorable(self._directory, same_run(self._directory, self._identity, tables), load)
        if found is None:
            return None
        self._chain, values = found
        self.started_from = self._chain[-1].manifest.started_from
        for name, variable in dense.items():
            variable.assign(values[name])
        size = sum(checkpoint.bytes for checkpoint in self._chain)
        self.restored = Restored(self._chain[-1].step, size, time.monotonic() - started)
        return self.restored.step

    def open_newest(
        self,
        tables: dict[str, Table],
        dense: dict[str, tf.Variable],
        first: Sequence[int] | None = None,
        only: bool = False,
    ) -> int | None:
        """As restore_newest, for StoredTables, which stay on disk, and some of the dense variables.

        Args:
          tables: by name.
          dense: variables by name.
          first: steps to try before newer ones.
          only: raise CheckpointError rather than open another step.
        """

        def load(chain: list[Checkpoint]) -> tuple[dict[str, np.ndarray], dict[str, StoredRows]]:
            if only and first is not None and chain[-1].step not in first:
                raise self._no_such_step(first[0])
            values = dense_values(chain[-1], dense, partial=True)
            return values, {name: StoredRows(chain, name) for name in tables}

        found = newest_restorable(
            self._directory, same_run(self._directory, self._identity, tables), load, first=first
        )
        if found is None:
            return None
        chain, (values, rows) = found
        for name, table in tables.items():
            table.open(rows[name])
        for name, variable in dense.items():
            variable.assign(values[name])
        return chain[-1].step

    def _no_such_step(self, step: int) -> CheckpointError:
        steps = self.steps()
        if step in steps:
            return CheckpointError(f"{self._directory}: step {step} does not verify; choose another step")
        known = ", ".join(map(str, steps))
        return CheckpointError(f"{self._directory}: no checkpoint of step {step}; steps there: {known}")


def _layout(table: Table, rows: int) -> TableLayout:
    """A table's layout in the manifest if `rows` of its rows are written."""
    pieces = [min(CHUNK_ROWS, rows - start) for start in range(0, rows, CHUNK_ROWS)]
    # TensorFlow wraps lists of a module in a class whose content pydantic does not see.
    parts = [(name, width) for name, width in table.parts]
    return TableLayout(rows=table.rows, parts=parts, pieces=pieces)


def _snapshots(
    tables: dict[str, Table], ids: dict[str, np.ndarray] | None, limit: int
) -> dict[str, Snapshot]:
    """Of each table, by name, of at most `limit` bytes in all; of none, if not every engine gives one."""
    found: dict[str, Snapshot] = {}
    for name, table in tables.items():
        own = None if ids is None else ids[name]
        made = table.snapshot(own, CHUNK_ROWS, limit, next(iter(found.values()), None))
        if made is None:
            for one in found.values():
                one.end()
            return {}
        found[name] = made
    return found


def _pieces(
    tables: dict[str, Table], ids: dict[str, np.ndarray] | None, snapshots: dict[str, Snapshot]
) -> Iterator[Piece]:
    """Records of the tables' rows, in the pieces of their layouts, from snapshots where there are any; `ids`
    None: all rows."""
    for name, table in tables.items():
        number = table.rows if ids is None else len(ids[name])
        for i, start in enumerate(range(0, number, CHUNK_ROWS)):
            stop = min(start + CHUNK_ROWS, number)
            own = None if ids is None else ids[name][start:stop]
            if table.elsewhere is not None:
                yield table.elsewhere.piece(i, start, stop, own)
                continue
            if name in snapshots:
                yield RecordPiece(name, i, own, snapshots[name].read(i))
                continue
            rows = np.arange(start, stop, dtype=np.int64) if own is None else own
            yield RecordPiece(name, i, own, np.asarray(table.read_records(rows)))

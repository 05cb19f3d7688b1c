"""Finds the newest checkpoint that verifies, and reads its rows and dense weights."""

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from absl import logging

from configs.errors import CheckpointError
from configs.system import storage
from configs.system.threads import in_order
from trainer.checkpoints.chain import LOOKS, CheckpointDirectory
from trainer.checkpoints.files import DENSE, DamagedCheckpoint, errors_of, in_flight
from trainer.checkpoints.identity import DATASET, first_difference
from trainer.checkpoints.reader import Checkpoint, read_array, read_dense, read_into
from trainer.embeddings.base import RowsElsewhere, Table

_Loaded = TypeVar("_Loaded")


def newest_restorable(
    directory: str,
    check: Callable[[list[Checkpoint]], None],
    load: Callable[[list[Checkpoint]], _Loaded],
    advice: str = "",
    first: Sequence[int] | None = None,
) -> tuple[list[Checkpoint], _Loaded] | None:
    """(chain, load(chain)) of the newest step for which `load` finds no damage; None without checkpoints.

    Args:
      directory: of the run's checkpoints.
      check: looks at the manifests of a chain, a full checkpoint and its increments; raises CheckpointError
        if they are not of the run that is wanted.
      load: reads a chain; raises DamagedCheckpoint.
      advice: what to do if no checkpoint verifies; by default, to delete them.
      first: steps to try before the others.

    Raises:
      CheckpointError: no checkpoint verifies, or `check` raises it.
    """
    for attempt in range(LOOKS):
        with errors_of(directory, "read"):
            found = CheckpointDirectory(directory)
            steps = found.steps()
        order = dict.fromkeys([*(s for s in first or () if s in steps), *steps[::-1]])
        changed, reasons = False, []
        for step, chain in ((s, c) for s in order for c in found.chains(s)):
            try:
                if isinstance(chain, DamagedCheckpoint):
                    raise chain
                check(chain)
                return chain, load(chain)
            except DamagedCheckpoint as error:
                # A running trainer deletes what is too old, and has written newer ones by then.
                changed = attempt < LOOKS - 1 and found.has_changed()
                if changed:
                    break
                logging.warning("step %d: %s; falling back to the checkpoint before it", step, error)
                reasons.append(str(error))
        if not changed:
            break
    if reasons:
        advice = advice or f"delete {directory} to start over"
        raise CheckpointError(f"no checkpoint verifies ({reasons[0]}); {advice}")
    if found.names:
        logging.warning("%s: holds only incomplete checkpoints, which are not used", directory)
    return None


def same_run(
    directory: str, identity: dict[str, Any], tables: dict[str, Table]
) -> Callable[[list[Checkpoint]], None]:
    """The `check` of newest_restorable for a run that resumes or is opened.

    Args:
      directory: of the run's checkpoints.
      identity: what the checkpoints must share with the run.
      tables: by name, whose layouts the checkpoints must have.
    """

    def check(chain: list[Checkpoint]) -> None:
        _check_identity(chain[-1], identity, directory)
        _check_layouts(chain, tables)

    return check


def _check_identity(newest: Checkpoint, identity: dict[str, Any], directory: str) -> None:
    different = first_difference(newest.manifest.identity, identity)
    if different is None:
        return
    key, saved, value = different
    if key == DATASET:
        raise CheckpointError(
            f"{newest.path}: was trained on another dataset (dataset.fingerprint {str(saved)[:8]}, this one "
            f"has {str(value)[:8]}); set dataset.path to that dataset, or train anew in another output.path"
        )
    config = storage.join(os.path.dirname(directory), "config.yaml")
    raise CheckpointError(
        f"{newest.path}: was saved with {key} = {saved}, but this run has {value}; "
        f"use another output.path, or restore the value (--config {config} has it)"
    )


def _check_layouts(chain: list[Checkpoint], tables: dict[str, Table]) -> None:
    for checkpoint in chain:
        for name, table in tables.items():
            layout = checkpoint.manifest.tables.get(name)
            if layout is None:
                raise CheckpointError(
                    f"{checkpoint.path}: holds no table {name}; use another output.path or restore the config"
                )
            if (layout.rows, layout.parts) != (table.rows, list(table.parts)):
                raise CheckpointError(
                    f"{checkpoint.path}: table {name} was saved with {layout.rows} rows of {layout.parts}, "
                    f"but the config makes {table.rows} rows of {list(table.parts)}; use another output.path "
                    "or restore the config"
                )


def dense_values(
    checkpoint: Checkpoint, dense: dict[str, tf.Variable], partial: bool
) -> dict[str, np.ndarray]:
    """Saved arrays by name; names (all, unless partial) and shapes must be those of the variables.

    Raises:
      CheckpointError: they are not.
      DamagedCheckpoint: they cannot be read.
    """
    values = read_dense(checkpoint)
    odd = sorted(set(dense) - set(values) if partial else set(values) ^ set(dense))
    odd += [n for n, v in dense.items() if n in values and values[n].shape != tuple(v.shape)]
    if odd:
        raise CheckpointError(
            f"{checkpoint.path}/{DENSE}: its weights are not those of the config; they differ in {odd}; use "
            "another output.path or restore the config"
        )
    return values


def load_rows(checkpoint: Checkpoint, name: str, table: Table) -> None:
    """Writes a checkpoint's rows into a table: threads read, verify and, if they can, write.

    Raises:
      DamagedCheckpoint: a file is not as it was written; the table then holds anything.
    """
    if table.elsewhere is not None:
        _load_elsewhere(checkpoint, name, table, table.elsewhere)
        return
    if (memory := table.memory()) is not None:
        _load_in_place(checkpoint, name, memory)
        return

    def read(piece: tuple[int, str, str | None]) -> list[np.ndarray]:
        _, records, ids = piece
        names = [records] if ids is None else [records, ids]
        return [read_array(checkpoint, file) for file in names]

    pieces, start = checkpoint.pieces(name), 0
    largest = max((n for n, _, _ in pieces), default=0)
    for records, *ids in in_order(read, pieces, in_flight(4 * table.width * largest)):
        if ids:
            table.write_rows(ids[0], records)
        else:
            table.write_records(start, records)
            start += len(records)


def _load_in_place(checkpoint: Checkpoint, name: str, memory: np.ndarray) -> None:
    """As `load_rows`, into the memory of a table; of a full checkpoint without a copy."""
    pieces = checkpoint.pieces(name)
    starts = itertools.accumulate((n for n, _, _ in pieces), initial=0)
    largest, mine = max((n for n, _, _ in pieces), default=0), threading.local()

    def load(piece: tuple[int, tuple[int, str, str | None]]) -> None:
        start, (number, records, ids) = piece
        if ids is None:
            read_into(checkpoint, records, memory[start : start + number])
            return
        # The thread's own memory again: the system takes longer to clear new memory than to read into it.
        if not hasattr(mine, "room"):
            mine.room = np.empty([largest, memory.shape[1]], np.float32)
        room: np.ndarray = mine.room
        read_into(checkpoint, records, room[:number])
        memory[_row_ids(checkpoint, ids, number, len(memory))] = room[:number]

    most = in_flight(checkpoint.manifest.tables[name].largest_piece_bytes)
    for _ in in_order(load, list(zip(starts, pieces, strict=False)), most):
        pass


def _row_ids(checkpoint: Checkpoint, name: str, number: int, rows: int) -> np.ndarray:
    """The ids of an increment's piece, int64 [number]; NumPy would count negative ones from the end."""
    ids = read_array(checkpoint, name)
    if ids.shape != (number,) or ids.dtype != np.int64 or np.any((ids < 0) | (ids >= rows)):
        raise DamagedCheckpoint(f"{checkpoint.path}/{name}: holds no ids of {number} among {rows} rows")
    return ids


def _load_elsewhere(checkpoint: Checkpoint, name: str, table: Table, elsewhere: RowsElsewhere) -> None:
    """As `load_rows`: other hosts read, verify and write."""
    pieces = checkpoint.pieces(name)
    starts = itertools.accumulate((n for n, _, _ in pieces), initial=0)

    def load(piece: tuple[int, tuple[int, tuple[int, str, str | None]]]) -> None:
        number, (start, (_, records, ids)) = piece
        elsewhere.load(checkpoint, number, start, records, ids)

    largest = max((n for n, _, _ in pieces), default=0)
    most = elsewhere.hosts * in_flight(4 * table.width * largest)
    for _ in in_order(load, list(enumerate(zip(starts, pieces, strict=False))), most):
        pass

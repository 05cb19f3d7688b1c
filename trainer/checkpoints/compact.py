"""Merges the newest checkpoint and its increments into a full one. Without TensorFlow."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging

from configs.errors import CheckpointError
from configs.load import load_config
from configs.system.storage import join
from trainer.checkpoints.chain import CheckpointDirectory, directory_name, prune
from trainer.checkpoints.files import DamagedCheckpoint, RecordPiece, errors_of, in_flight, write_checkpoint
from trainer.checkpoints.manifest import CheckpointHead, TableLayout
from trainer.checkpoints.reader import Checkpoint, read_dense, verify_checkpoint_file
from trainer.checkpoints.rows import StoredRows


def compact(run_directory: str, directory: str, check: Callable[[], None] = lambda: None) -> str | None:
    """Writes the newest restorable step as a full checkpoint, then deletes old ones by `checkpoint.keep`.

    Works chunk by chunk, with NumPy alone. If it is killed at any point, the run stays restorable: increments
    are deleted only after COMMITTED of the full checkpoint has been written.

    Args:
      run_directory: holds config.yaml, which has the number of steps to keep.
      directory: of its checkpoints.
      check: raises if another process owns the run.

    Returns:
      Path of the full checkpoint; None if the newest one is full already.

    Raises:
      CheckpointError: no checkpoint verifies, or the full one cannot be written.
    """
    keep = load_config(join(run_directory, "config.yaml")).checkpoint.keep
    found = CheckpointDirectory(directory)
    for step in found.steps()[::-1]:
        for chain in found.chains(step):
            try:
                if isinstance(chain, DamagedCheckpoint):
                    raise chain
                path = _compacted(directory, chain, keep, check)
            except DamagedCheckpoint as error:
                logging.warning("step %d: %s; trying the checkpoint before it", step, error)
                continue
            return path
    raise CheckpointError(f"{directory}: no checkpoint verifies, so there is nothing to compact")


def _compacted(directory: str, chain: list[Checkpoint], keep: int, check: Callable[[], None]) -> str | None:
    """Writes the full checkpoint of a chain. Raises DamagedCheckpoint before writing anything."""
    newest, started = chain[-1], time.monotonic()
    if len(chain) == 1:
        for name in newest.manifest.files:
            verify_checkpoint_file(newest, name)
        logging.info("step %d is a full checkpoint already", newest.step)
        return None
    dense = read_dense(newest)
    rows = {name: StoredRows(chain, name) for name in newest.manifest.tables}
    layouts = chain[0].manifest.tables
    merged = newest.manifest
    head = CheckpointHead(
        step=merged.step,
        kind="full",
        id=merged.id,
        base=None,
        identity=merged.identity,
        tables=layouts,
        started_from=merged.started_from,
    )
    path = join(directory, directory_name(newest.step, "full"))
    most = in_flight(max((layout.largest_piece_bytes for layout in layouts.values()), default=0))
    written = Checkpoint(path, write_checkpoint(path, head, _pieces(rows, layouts), dense, most, check))
    with errors_of(directory, "cleaned"):
        removed = prune(directory, [written], keep, check=check)
    logging.info(
        "step %d: %d checkpoints merged into %s, %.1f MB, %.1f s; removed: %s",
        *(newest.step, len(chain), path, written.bytes / 1e6, time.monotonic() - started),
        ", ".join(removed) or "nothing",
    )
    return path


def _pieces(rows: dict[str, StoredRows], layouts: dict[str, TableLayout]) -> Iterator[RecordPiece]:
    for name, layout in layouts.items():
        start = 0
        for number, size in enumerate(layout.pieces):
            records = rows[name].read(np.arange(start, start + size, dtype=np.int64))
            yield RecordPiece(name, number, None, records)
            start += size

"""How far kept rows move in a run: their weights at its start, kept beside its checkpoints, against its end.

All rows of a small table, and evenly spaced ones of a large table, so that neither memory nor the other run
is needed at the end.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from configs.system import storage
from trainer.checkpoints.files import errors_of
from trainer.embeddings.base import Table

FILE = "start.npz"
SAMPLE_ROWS = 1 << 14
"""Largest number of rows of a table that are compared."""

StartWeights = dict[str, tuple[np.ndarray, np.ndarray]]
"""By table, ids int64 [n] and their weights, float32 [n, dim]."""


def sampled(storages: Mapping[str, Table], sample: Callable[[str, int, int], np.ndarray]) -> StartWeights:
    """The weights of kept rows.

    Args:
      storages: tables by name, readable.
      sample: as WarmStart.sample.
    """
    found = {}
    for name, table in storages.items():
        ids = sample(name, table.rows, SAMPLE_ROWS)
        if len(ids):
            found[name] = ids, np.asarray(table.read_records(ids))[:, : table.dim]
    return found


def save_weights(run: str, weights: StartWeights) -> None:
    """Writes them into a run's directory. Raises CheckpointError: it cannot be written."""
    arrays: dict[str, Any] = {}
    for name, (ids, values) in weights.items():
        arrays |= {f"{name}/ids": ids, f"{name}/weights": values}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    name = storage.join(run, FILE)
    with errors_of(name):
        storage.make_directory(run)
        storage.write_bytes(name, buffer.getvalue())


def read_weights_of_start(run: str) -> StartWeights:
    """What `save_weights` wrote; empty if there is none. Raises OSError or ValueError: it cannot be read."""
    try:
        content = storage.read_bytes(storage.join(run, FILE))
    except FileNotFoundError:
        return {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            names = [name.removesuffix("/ids") for name in arrays.files if name.endswith("/ids")]
            return {name: (arrays[f"{name}/ids"], arrays[f"{name}/weights"]) for name in names}
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{run}/{FILE}: {error}") from None


def moved(storages: Mapping[str, Table], start: StartWeights) -> dict[str, dict[str, float | int]]:
    """How far rows are from where they began, by table.

    Args:
      storages: tables by name, readable.
      start: from `sampled`.

    Returns:
      Dicts of rows_compared; rms, the root mean square of the change of their values; and relative, rms over
      the root mean square of the values at the start (absent if that is 0).
    """
    found = {}
    for name, (ids, before) in start.items():
        after = np.asarray(storages[name].read_records(ids))[:, : before.shape[1]].astype(np.float64)
        change = float(np.sqrt(np.mean(np.square(after - before))))
        size = float(np.sqrt(np.mean(np.square(before, dtype=np.float64))))
        found[name] = {"rows_compared": len(ids), "rms": change} | (
            {"relative": change / size} if size else {}
        )
    return found

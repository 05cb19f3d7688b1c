"""`polyak.kind: tail_average`: the mean of the weights of a run's newest checkpoints, computed when read.

A fallback where averages beside the weights take too much memory: coarse, because it averages only as many
steps as there are checkpoints, but the same for tables and towers, on every device.
"""

from typing import Any, Protocol

import numpy as np
from absl import logging

from configs.errors import CheckpointError
from trainer.checkpoints.chain import CheckpointDirectory
from trainer.checkpoints.files import DamagedCheckpoint
from trainer.checkpoints.reader import Checkpoint, read_dense
from trainer.checkpoints.rows import StoredRows
from trainer.embeddings.engines.stored import StoredTable


class TailAveraged(Protocol):
    """What takes the averages: trainer.models.recommender.Recommender."""

    dense_tail: list[np.ndarray] | None

    @property
    def storages(self) -> dict[str, StoredTable]:
        """Tables by name."""

    @property
    def dense_state(self) -> dict[str, Any]:
        """Variables outside the tables, by name."""


def open_tail(recommender: TailAveraged, directory: str, step: int, number: int) -> list[int]:
    """Opens the averages of a run's newest checkpoints in a recommender of StoredTables.

    Args:
      recommender: its newest checkpoint is open.
      directory: of the run's checkpoints.
      step: of the newest checkpoint; later ones are ignored, and those before half of its steps.
      number: of checkpoints to average; fewer if there are fewer. Damaged ones are skipped.

    Returns:
      Their steps, newest first.

    Raises:
      CheckpointError: none can be read.
    """
    found = CheckpointDirectory(directory)
    steps: list[int] = []
    rows: dict[str, list[StoredRows]] = {name: [] for name in recommender.storages}
    dense: list[list[np.ndarray]] = []
    # In the first half the model was still learning, so its weights would distort the average.
    late = [s for s in found.steps() if step / 2 <= s <= step]
    for other in sorted(late, reverse=True):
        if len(steps) == number:
            break
        for chain in found.chains(other):
            try:
                stored, values = _read(chain, recommender)
            except DamagedCheckpoint as error:
                logging.warning("step %d is left out of the average: %s", other, error)
                continue
            steps.append(other)
            dense.append(values)
            for name, table in stored.items():
                rows[name].append(table)
            break
    if not steps:
        raise CheckpointError(f"{directory}: no checkpoint can be read, so there is no average")
    level = logging.INFO if len(steps) == number else logging.WARNING
    logging.log(level, "averaged %d of %d requested checkpoints: steps %s", len(steps), number, steps)
    for name, table in recommender.storages.items():
        table.open_tail(rows[name])
    recommender.dense_tail = [
        np.asarray(np.mean(values, axis=0, dtype=np.float64)) for values in zip(*dense, strict=True)
    ]
    return steps


def _read(
    chain: list[Checkpoint] | DamagedCheckpoint, recommender: TailAveraged
) -> tuple[dict[str, StoredRows], list[np.ndarray]]:
    """(rows by table, dense weights) of a checkpoint."""
    if isinstance(chain, DamagedCheckpoint):
        raise chain
    values = read_dense(chain[-1])
    names = [name for name in recommender.dense_state if name.startswith("dense/")]
    return {name: StoredRows(chain, name) for name in recommender.storages}, [values[n] for n in names]

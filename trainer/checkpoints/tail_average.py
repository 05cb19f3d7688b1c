"""`polyak.kind: tail_average`: the mean of the weights of a run's newest checkpoints, computed when read.

A fallback where averages beside the weights take too much memory: coarse, because it averages only as many
steps as there are checkpoints, but the same for tables and towers, on every device.
"""

from typing import Any, NamedTuple, Protocol

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
    names = [name for name in recommender.dense_state if name.startswith("dense/")]
    tail = read_tail(directory, step, number, list(recommender.storages))
    for name, table in recommender.storages.items():
        table.open_tail([rows[name] for rows in tail.rows])
    means = mean_dense(tail.dense)
    recommender.dense_tail = [means[name] for name in names]
    return tail.steps


class Tail(NamedTuple):
    """The newest checkpoints of a run, newest first."""

    steps: list[int]
    rows: list[dict[str, StoredRows]]
    """By table."""
    dense: list[dict[str, np.ndarray]]
    """Weights and all else outside the tables, by name."""


def read_tail(directory: str, step: int, number: int, tables: list[str]) -> Tail:
    """Opens a run's newest checkpoints; arguments and errors as `open_tail`, tables by name."""
    found = CheckpointDirectory(directory)
    tail = Tail([], [], [])
    # In the first half the model was still learning, so its weights would distort the average.
    late = [s for s in found.steps() if step / 2 <= s <= step]
    for other in sorted(late, reverse=True):
        if len(tail.steps) == number:
            break
        for chain in found.chains(other):
            try:
                rows, dense = _read(chain, tables)
            except DamagedCheckpoint as error:
                logging.warning("step %d is left out of the average: %s", other, error)
                continue
            tail.steps.append(other)
            tail.rows.append(rows)
            tail.dense.append(dense)
            break
    if not tail.steps:
        raise CheckpointError(f"{directory}: no checkpoint can be read, so there is no average")
    level = logging.INFO if len(tail.steps) == number else logging.WARNING
    logging.log(
        level, "averaged %d of %d requested checkpoints: steps %s", len(tail.steps), number, tail.steps
    )
    return tail


def mean_dense(dense: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Means of the dense weights of several checkpoints, float64, by name."""
    names = [name for name in dense[0] if name.startswith("dense/")]
    return {
        name: np.asarray(np.mean([values[name] for values in dense], axis=0, dtype=np.float64))
        for name in names
    }


def _read(
    chain: list[Checkpoint] | DamagedCheckpoint, tables: list[str]
) -> tuple[dict[str, StoredRows], dict[str, np.ndarray]]:
    """(rows by table, arrays outside the tables by name) of a checkpoint."""
    if isinstance(chain, DamagedCheckpoint):
        raise chain
    values = read_dense(chain[-1])
    return {name: StoredRows(chain, name) for name in tables}, values

"""Opens a checkpoint of a run, its best or its newest one, for evaluation and export; tables stay on disk."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from absl import logging

from configs.errors import CheckpointError
from configs.manifest import Dataset, load_dataset
from configs.schema import RunConfig
from configs.system.storage import join
from trainer.data.catalog import Items
from trainer.data.chain.layers import ChainLock
from trainer.runtime import start_tensorflow

if TYPE_CHECKING:  # importing it here would load TensorFlow before it is set up
    from trainer.models.recommender import Recommender


@dataclass(frozen=True)
class Trained:
    """A trained model with its config and dataset."""

    config: RunConfig
    dataset: Dataset
    items: Items
    recommender: "Recommender"
    step: int
    """Steps done."""
    reading: ChainLock
    """Held while the dataset, and those below it, are in use."""
    chosen: str = "newest"
    """Why it is this step, in words."""


def open_trained(config: RunConfig, step: int | str | None = None) -> Trained:
    """A checkpoint of the config's run: the best one with evaluate.best, else the newest that verifies.

    Args:
      config: the run.
      step: another one: its step, or best, or newest.

    Raises:
      DataError: the dataset is missing or was prepared with another config.
      CheckpointError: there is no checkpoint, none verifies or not that of `step`, or they belong to
        another run.
    """
    start_tensorflow(config.device)
    from trainer.checkpoints.best import chosen_steps
    from trainer.checkpoints.chain import LOOKS
    from trainer.checkpoints.identity import checkpoint_identity
    from trainer.checkpoints.store import CheckpointStore
    from trainer.checkpoints.tail_average import open_tail
    from trainer.data.chain.item_counts import item_counts
    from trainer.data.checks import check_dataset
    from trainer.data.run_length import run_steps
    from trainer.data.train_rows import TrainRows
    from trainer.embeddings.engines.stored import StoredTable
    from trainer.models.recommender import Recommender

    reading = ChainLock(config.dataset.path)
    dataset = load_dataset(config.dataset.path)
    check_dataset(config, dataset)
    directory = join(config.output.path, "checkpoints")
    rows = TrainRows.of(config, dataset)
    # Counting the rows of a window takes a pass over them, which a run of num_steps does not need.
    per_epoch = 1 if config.train.num_steps is not None else rows.steps_per_epoch(config.train.batch_size)
    num_steps = run_steps(config, per_epoch)
    identity = checkpoint_identity(config, dataset.fingerprint, num_steps)
    items = Items.load(dataset)
    counts = item_counts(rows, items, exact=False)
    recommender = Recommender(config, dataset, counts, num_steps, StoredTable)
    store = CheckpointStore(directory, config.checkpoint.keep, identity)
    only = isinstance(step, int)
    for _ in range(LOOKS):
        first, chosen = chosen_steps(config, directory, step)
        opened = store.open_newest(recommender.storages, recommender.dense_state, first, only)
        # A running trainer deletes the best checkpoint when it has found a better one.
        if not first or opened in first or chosen_steps(config, directory, step)[0] == first:
            break
    if opened is None:
        raise CheckpointError(f"{directory}: no complete checkpoint; run `lazytower train` with this config")
    if config.polyak.tail:
        open_tail(recommender, directory, opened, config.polyak.tail)
    if first and opened not in first:
        chosen = f"in place of step {first[0]}, which cannot be read"
        logging.warning("step %d is used %s", opened, chosen)
    return Trained(config, dataset, items, recommender, opened, reading, chosen)

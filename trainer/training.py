"""What a run trains, built from its config and dataset: input, model with tables, and step."""

from typing import NamedTuple

from configs.dataset import Dataset
from configs.schema import RunConfig
from trainer.catalog import Items
from trainer.data import TrainData
from trainer.recommender import Recommender, run_steps
from trainer.step import TrainStep


class Training(NamedTuple):
    """All of it; weights are made, not initialised."""

    data: TrainData
    num_steps: int
    """Steps of the whole run."""
    recommender: Recommender
    step: TrainStep


def build_training(config: RunConfig, dataset: Dataset, items: Items) -> Training:
    """Allocates the tables. Raises DataError: fewer train rows than a batch; ConfigError: too many steps."""
    data = TrainData(dataset, config.train.batch_size, config.train.seed)
    num_steps = run_steps(config, data.steps_per_epoch)
    recommender = Recommender(config, dataset, items.counts, num_steps)
    return Training(data, num_steps, recommender, TrainStep(config, recommender, num_steps))

"""What a run trains, built from its config and dataset: input, model with tables, and step."""

from typing import NamedTuple

from configs.dataset import Dataset
from configs.schema import RunConfig
from configs.tpu import tpu_slice
from trainer.catalog import Items
from trainer.data import TrainData
from trainer.embeddings.engine_table import EngineTable
from trainer.forecast import check_memory
from trainer.recommender import Recommender, run_steps
from trainer.step import Step, TrainStep
from trainer.strategy import connect_tpu


class Training(NamedTuple):
    """All of it; weights are made, not initialised."""

    data: TrainData
    num_steps: int
    """Steps of the whole run."""
    recommender: Recommender
    step: Step


def build_training(config: RunConfig, dataset: Dataset, items: Items) -> Training:
    """Connects to the TPU, if any, and allocates the tables.

    Raises:
      DataError: fewer train rows than a batch.
      ConfigError: too many steps, or tables that do not fit in the TPU's memory.
      UserError: the TPU cannot be had.
    """
    data = TrainData(dataset, config.train.batch_size, config.train.seed)
    num_steps = run_steps(config, data.steps_per_epoch)
    if config.device.kind == "tpu":
        check_memory(config, dataset)
        return Training(data, num_steps, *_on_tpu(config, dataset, items, num_steps))
    recommender = Recommender(config, dataset, items.counts, num_steps)
    return Training(data, num_steps, recommender, TrainStep(config, recommender, num_steps))


def _on_tpu(config: RunConfig, dataset: Dataset, items: Items, num_steps: int) -> tuple[Recommender, Step]:
    from trainer.engines import ENGINES
    from trainer.tpu_step import TpuStep

    strategy = connect_tpu(config.device)
    engine = ENGINES[tpu_slice(config.device.slice).engine]
    with strategy.scope():
        recommender = Recommender(config, dataset, items.counts, num_steps, EngineTable)
    return recommender, TpuStep(config, recommender, num_steps, strategy, engine)

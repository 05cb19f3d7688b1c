"""What a run trains, built from its config and dataset: input, model with tables, and step."""

from typing import NamedTuple

import tensorflow as tf

from configs.manifest import Dataset
from configs.schema import RunConfig
from configs.sections.devices import TpuDeviceConfig
from trainer.data.batches import TrainData, steps_per_epoch
from trainer.data.catalog import Items
from trainer.data.lookups import FeatureLookup, catalog_lookups
from trainer.data.run_length import run_steps
from trainer.embeddings.engines.tensorcore import tpu_tables
from trainer.models.recommender import Recommender
from trainer.resources.forecast import check_slice_memory
from trainer.tpu.connect import connect_tpu
from trainer.training.step import Step, TrainStep

FIRST_HELD_OUT = "valid"  # its view of items holds what train rows alone say


class Training(NamedTuple):
    """What `build_training` makes; variables are allocated, not initialised."""

    items: Items
    data: TrainData
    num_steps: int
    """Steps of the whole run."""
    recommender: Recommender
    step: Step


def build_training(config: RunConfig, dataset: Dataset) -> Training:
    """Connects to the TPU, if any, reads the catalog and allocates the tables.

    No TensorFlow operation may run before a TPU is connected: once TensorFlow's context has started, a call
    that waits for the hosts of another machine blocks all Python threads.

    Raises:
      DataError: fewer train rows than a batch, or a catalog that cannot be read.
      ConfigError: too many steps, or tables that do not fit in the TPU's memory.
      UserError: the TPU cannot be reached.
    """
    per_epoch = steps_per_epoch(dataset, config.train.batch_size, config.model.trains_on_positives)
    num_steps = run_steps(config, per_epoch)
    if isinstance(config.device, TpuDeviceConfig):
        check_slice_memory(config, config.device, dataset)
        strategy = connect_tpu(config.device)
        items = Items.load(dataset)
        trained = _on_tpu(config, config.device, dataset, items, num_steps, strategy)
        return Training(items, train_data(config, dataset, items), num_steps, *trained)
    items = Items.load(dataset)
    recommender = Recommender(
        config, dataset, items.table_counts, num_steps, drawn_items=drawn_items(config, items)
    )
    step = TrainStep(config, recommender, num_steps)
    return Training(items, train_data(config, dataset, items), num_steps, recommender, step)


def train_data(config: RunConfig, dataset: Dataset, items: Items) -> TrainData:
    """The run's input; DataError as TrainData and catalog_lookups."""
    names = config.model.inputs
    return TrainData(
        dataset,
        config.train.batch_size,
        config.train.seed,
        config.model.trains_on_positives,
        names,
        catalog_lookups(dataset, names, items),
    )


def drawn_items(config: RunConfig, items: Items) -> FeatureLookup | None:
    """The features of items that the model samples; None: it samples none, or reads none."""
    names = [name for name in config.model.drawn(config.train.batch_size) if name in items.features]
    columns = items.as_of(FIRST_HELD_OUT).features
    return FeatureLookup(items.infos, {name: columns[name] for name in names}) if names else None


def _on_tpu(
    config: RunConfig,
    device: TpuDeviceConfig,
    dataset: Dataset,
    items: Items,
    num_steps: int,
    strategy: tf.distribute.Strategy,
) -> tuple[Recommender, Step]:
    from trainer.tpu.engines import TPU_ENGINES
    from trainer.training.tpu_step import TpuStep

    engine = TPU_ENGINES[device.slice_type.engine]
    with strategy.scope():
        drawn = drawn_items(config, items)
        recommender = Recommender(config, dataset, items.table_counts, num_steps, tpu_tables(config), drawn)
    return recommender, TpuStep(config, recommender, num_steps, strategy, engine)

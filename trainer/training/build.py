"""What a run trains, built from its config and dataset: input, model with tables, and step."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from configs.errors import ConfigError
from configs.manifest import Dataset
from configs.rules.towers import split_group
from configs.schema import RunConfig
from configs.sections.devices import ClusterDeviceConfig, TpuDeviceConfig
from configs.sections.models import TwoTowerConfig
from trainer.cluster.connect import Cluster, connect_cluster
from trainer.cluster.tables import cluster_tables
from trainer.data.batches import TrainData
from trainer.data.catalog import Items
from trainer.data.chain.item_counts import item_counts
from trainer.data.lookups import FeatureLookup, catalog_lookups
from trainer.data.run_length import run_steps
from trainer.data.train_rows import TrainRows
from trainer.embeddings.engines.tensorcore import tpu_tables
from trainer.models.recommender import Recommender
from trainer.resources.forecast import check_slice_memory
from trainer.tpu.connect import connect_tpu
from trainer.training.step import Step, TrainStep
from trainer.training.steps.cluster_step import ClusterStep

FIRST_HELD_OUT = "valid"  # its view of items holds what train rows alone say


class Training(NamedTuple):
    """What `build_training` makes; variables are allocated, not initialised."""

    items: Items
    data: TrainData
    num_steps: int
    """Steps of the whole run."""
    recommender: Recommender
    step: Step


def build_training(config: RunConfig, dataset: Dataset, rows: TrainRows | None = None) -> Training:
    """Connects to the TPU or the cluster, if any, reads the catalog and allocates the tables.

    No TensorFlow operation may run before a TPU is connected: once TensorFlow's context has started, a call
    that waits for the hosts of another machine blocks all Python threads. Connecting a cluster replaces that
    context.

    Args:
      rows: which rows train, if they have been opened already.

    Raises:
      DataError: fewer train rows than a batch, or a catalog that cannot be read.
      ConfigError: too many steps, or tables that do not fit in the TPU's memory.
      UserError: the TPU, or a host of the cluster, cannot be reached or used.
    """
    rows = TrainRows.of(config, dataset) if rows is None else rows
    if isinstance(config.device, TpuDeviceConfig):
        check_slice_memory(config, config.device, dataset)
        if rows.is_whole:  # otherwise counting them starts TensorFlow
            rows.steps_per_epoch(config.train.batch_size)
        strategy = connect_tpu(config.device)
        items = Items.load(dataset)
        data = train_data(config, dataset, items, rows)
        num_steps = run_steps(config, data.steps_per_epoch)
        trained = _on_tpu(config, config.device, dataset, items, data.rows, num_steps, strategy)
        return Training(items, data, num_steps, *trained)
    cluster = None
    if isinstance(config.device, ClusterDeviceConfig):
        cluster = connect_cluster(config.device, config.output.path)
        if odd := config.uneven(cluster.count):  # the config may not know the hosts
            raise ConfigError(f"{odd} is not divisible by the {cluster.count} hosts; use a multiple of them")
        if wrong := split_group(config, cluster.count):
            raise ConfigError(wrong)
    rows.steps_per_epoch(config.train.batch_size)  # before the catalog is read
    items = Items.load(dataset)
    data = train_data(config, dataset, items, rows)
    num_steps = run_steps(config, data.steps_per_epoch)
    counts, drawn = _counts(config, rows, items), drawn_items(config, items)
    tables = None if cluster is None else cluster_tables(config, cluster)
    recommender = Recommender(config, dataset, counts, num_steps, tables, drawn)
    return Training(items, data, num_steps, recommender, _step(config, recommender, num_steps, cluster))


def _step(config: RunConfig, recommender: Recommender, num_steps: int, cluster: Cluster | None) -> Step:
    if cluster is None:
        return TrainStep(config, recommender, num_steps)
    return ClusterStep(config, recommender, num_steps, cluster)


def train_data(config: RunConfig, dataset: Dataset, items: Items, rows: TrainRows | None = None) -> TrainData:
    """The run's input; DataError as TrainData and catalog_lookups."""
    names = config.model.inputs
    return TrainData(
        dataset,
        config.train.batch_size,
        config.train.seed,
        config.model.trains_on_positives,
        names,
        catalog_lookups(dataset, names, items),
        TrainRows.of(config, dataset) if rows is None else rows,
        config.train.half_life_days,
        config.model.loss.group if isinstance(config.model, TwoTowerConfig) else None,
    )


def _counts(config: RunConfig, rows: TrainRows, items: Items) -> np.ndarray:
    """As `item_counts`; models that train on other than positive rows only ask which items there are."""
    exact = config.model.trains_on_positives and not rows.sequences  # whose targets are in other rows
    return item_counts(rows, items, exact=exact)


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
    rows: TrainRows,
    num_steps: int,
    strategy: tf.distribute.Strategy,
) -> tuple[Recommender, Step]:
    from trainer.tpu.engines import TPU_ENGINES
    from trainer.training.steps.tpu_step import TpuStep

    engine = TPU_ENGINES[device.slice_type.engine]
    with strategy.scope():
        counts, drawn = _counts(config, rows, items), drawn_items(config, items)
        recommender = Recommender(config, dataset, counts, num_steps, tpu_tables(config), drawn)
    return recommender, TpuStep(config, recommender, num_steps, strategy, engine)

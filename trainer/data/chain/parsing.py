"""Serialized record blocks as columns, with the ids of the first dataset of a chain."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from configs.chain import LEFT
from configs.columns import label_column
from configs.dataset_parts import FeatureInfo
from configs.manifest import Dataset
from trainer.data.chain.layers import Layer
from trainer.data.chain.tensors import ChainIds
from trainer.data.features import LENGTH, WEIGHT
from trainer.data.numbers import model_numbers

OWNERS = ("user", "item")
"""Columns of ids, if the source has them."""


def parse_blocks(
    dataset: Dataset, blocks: tf.Tensor, features: Mapping[str, FeatureInfo]
) -> dict[str, tf.Tensor]:
    """Columns of serialized record blocks.

    Args:
      dataset: the manifest, which defines the columns.
      blocks: string [n] of columnar tf.train.Example.
      features: those to read, which live in records.

    Returns:
      Dict of columns, each [rows of all blocks] (history: [rows, history_length], padded with -1); features
      as trainer.data.features.model_inputs.
    """
    return parse_chain(dataset, blocks, features, None, tf.zeros([tf.size(blocks)], tf.int32))[0]


def parse_chain(
    dataset: Dataset,
    blocks: tf.Tensor,
    features: Mapping[str, FeatureInfo],
    ids: ChainIds | None,
    layers: tf.Tensor,
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """As `parse_blocks`, of blocks of several datasets, with the ids of the first.

    Args:
      dataset, blocks, features: as there.
      ids: from `chain_ids`; None: all blocks are of `dataset`.
      layers: int32 [n], place in the chain of each block's dataset.

    Returns:
      (the columns, histories without items that have left; the block of each row, int64 [rows]).
    """
    types = {"label": tf.float32, "timestamp": tf.int64}
    types |= {owner: tf.int64 for owner in OWNERS if owner in dataset.tables}
    types |= {label_column(name): tf.float32 for name in dataset.labels}
    if dataset.has_weight:
        types["weight"] = tf.float32
    types |= {name: tf.as_dtype(info.dtype) for name, info in features.items() if info.kind != "list"}
    spec: dict[str, tf.io.RaggedFeature] = {name: tf.io.RaggedFeature(dtype) for name, dtype in types.items()}
    lists = _list_columns(dataset, features)
    for name, (dtype, lengths, _, _) in lists.items():
        partition = tf.io.RaggedFeature.RowLengths(lengths)
        spec[name] = tf.io.RaggedFeature(dtype, value_key=name, partitions=[partition])
    parsed = tf.io.parse_example(blocks, spec)
    columns = {name: parsed[name].flat_values for name in types}
    ragged = {name: parsed[name].merge_dims(0, 1) for name in lists}
    block = parsed["timestamp"].value_rowids()
    if ids is not None:
        columns, ragged = _translated(ids, features, columns, ragged, tf.gather(layers, block))
    for name, (_, _, length, padding) in lists.items():
        columns[name] = ragged[name].to_tensor(padding, shape=[None, length])
    for name, info in features.items():
        if info.is_numeric:
            columns[name] = model_numbers(info, columns[name], tf)
    return columns, block


def chain_ids(layers: Sequence[Layer], features: Mapping[str, FeatureInfo]) -> ChainIds | None:
    """What `parse_chain` needs of the datasets of a chain; None: there is only one."""
    if len(layers) == 1:
        return None
    owners = [owner for owner in OWNERS if owner in layers[0].dataset.tables]
    return ChainIds(layers, [*owners, *_table_of(features).values()])


def _table_of(features: Mapping[str, FeatureInfo]) -> dict[str, str]:
    """By feature, the table of the ids that records hold; buckets are found later."""
    return {name: info.table for name, info in features.items() if info.table and not info.is_numeric}


def _translated(
    ids: ChainIds,
    features: Mapping[str, FeatureInfo],
    columns: dict[str, tf.Tensor],
    ragged: dict[str, tf.RaggedTensor],
    layer: tf.Tensor,
) -> tuple[dict[str, tf.Tensor], dict[str, tf.RaggedTensor]]:
    """Columns and lists with the ids of the first dataset; layer: int32 [rows]."""
    columns, ragged = dict(columns), dict(ragged)
    tables = _table_of(features)
    for name, table in (tables | {owner: owner for owner in OWNERS if owner in columns}).items():
        if name in columns:
            columns[name] = ids.known(table, columns[name], layer)
        else:
            lists = ragged[name]
            own = tf.gather(layer, lists.value_rowids())
            ragged[name] = lists.with_values(ids.known(table, lists.values, own))
    if "history" in ragged:
        lists = ragged["history"]
        items = ids.translated("item", lists.values, tf.gather(layer, lists.value_rowids()))
        ragged["history"] = tf.ragged.boolean_mask(lists.with_values(items), lists.with_values(items != LEFT))
    return columns, ragged


def _list_columns(
    dataset: Dataset, features: Mapping[str, FeatureInfo]
) -> dict[str, tuple[tf.DType, str, int, float]]:
    """By column with lists: (type, column of their lengths, longest list, padding)."""
    found: dict[str, tuple[tf.DType, str, int, float]] = {}
    if dataset.history_length:
        found["history"] = (tf.int64, "history_length", dataset.history_length, -1)
    for name, info in features.items():
        if info.kind == "list":
            found[name] = (tf.int64, name + LENGTH, info.max_length, -1)
            if info.weighted:
                found[name + WEIGHT] = (tf.float32, name + LENGTH, info.max_length, 0.0)
    return found

"""Features that live in a catalog, looked up by catalog id while training."""

from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from configs.dataset_parts import FeatureInfo, TableInfo
from configs.manifest import Dataset
from trainer.data.catalog import Items
from trainer.data.chain.catalogs import load_features
from trainer.data.features import WEIGHT, Column, ListColumn, VectorFiles, model_inputs


class FeatureLookup:
    """Features of users or items by catalog id, as models read them.

    Ids, numbers and lists are in memory; vectors stay in their files, of which the pages in use are cached by
    the system. Tensors are made here, not inside functions, so that no graph holds a copy of them.

    Args:
      infos: features by name.
      columns: as stored, by name, each of all catalog ids.
    """

    def __init__(self, infos: Mapping[str, FeatureInfo], columns: Mapping[str, Column]):
        self._infos = {name: infos[name] for name in columns}
        self._vectors = {n: column for n, column in columns.items() if isinstance(column, VectorFiles)}
        lists = {n: column for n, column in columns.items() if isinstance(column, ListColumn)}
        scalars = {n: column for n, column in columns.items() if n not in self._vectors and n not in lists}
        with tf.device("CPU:0"):  # on the host, also beside accelerators
            inputs = model_inputs(self._infos, scalars)
            self._scalars = {name: tf.constant(values) for name, values in inputs.items()}
            self._lists = {name: _Lists(column, infos[name].max_length) for name, column in lists.items()}

    def of(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """Inputs of catalog ids int64 [n], by name, as trainer.data.features.model_inputs."""
        found = {name: tf.gather(values, ids) for name, values in self._scalars.items()}
        for name, lists in self._lists.items():
            found[name], weights = lists.of(ids)
            if weights is not None:
                found[name + WEIGHT] = weights
        for name, files in self._vectors.items():
            rows = tf.numpy_function(files.__getitem__, [ids], tf.float32)
            found[name] = tf.ensure_shape(rows, [ids.shape[0], files.dim])
        return found


class _Lists:
    """Lists as tensors."""

    def __init__(self, column: ListColumn, length: int):
        splits = np.concatenate([[0], np.cumsum(column.ids.lengths)])
        self._splits, self._ids = tf.constant(splits, tf.int64), tf.constant(column.ids.values, tf.int64)
        self._weights = None if column.weights is None else tf.constant(column.weights, tf.float32)
        self._length = length

    def of(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """(ids int64 [n, length], padded with -1; weights, padded with 0, or None) of rows int64 [n]."""
        where = tf.ragged.range(tf.gather(self._splits, rows), tf.gather(self._splits, rows + 1))
        ids = self._padded(where, self._ids, -1, rows.shape[0])
        return ids, None if self._weights is None else self._padded(where, self._weights, 0.0, rows.shape[0])

    def _padded(
        self, where: tf.RaggedTensor, values: tf.Tensor, fill: float, number: int | None
    ) -> tf.Tensor:
        lists = where.with_values(tf.gather(values, where.values))
        padded = lists.to_tensor(fill, shape=[None, self._length])
        return tf.ensure_shape(padded, [number, self._length])


def table_rows(table: TableInfo, ids: tf.Tensor) -> tf.Tensor:
    """Rows of a table, int64 [n], of catalog ids int64 [n]; as TableInfo.row_of."""
    if table.oov is None:
        return ids
    rows, oov = tf.constant(table.rows, ids.dtype), tf.constant(table.oov, ids.dtype)
    return tf.where(ids < rows, ids, oov + (ids - rows) % table.oov_rows)


def catalog_lookups(dataset: Dataset, names: Iterable[str], items: Items) -> dict[str, FeatureLookup]:
    """Lookups of the features among `names` that live in catalogs, by the record column with their ids.

    Raises:
      DataError: a catalog cannot be read.
    """
    found = {}
    for of in ("user", "item"):
        infos = dataset.features
        mine = [n for n in names if n in infos and (infos[n].of, infos[n].lives) == (of, "catalog")]
        if not mine:
            continue
        if of == "item":
            columns = {name: items.features[name] for name in mine}
        else:
            table = dataset.tables[of]
            columns = load_features(dataset, of, mine, max(table.rows, table.catalog_rows))
        found[of] = FeatureLookup(infos, columns)
    return found

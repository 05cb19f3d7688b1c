"""Weights of a served model, copied out of the checkpoint once, and the look-up that reads them."""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from configs.errors import ExportError
from trainer.data.lookups import table_rows
from trainer.embeddings.engines.rows import assign_rows
from trainer.embeddings.pooling import fetch_distinct
from trainer.evaluation.trained import Trained
from trainer.models.base import inputs_of

_TABLE_OF = {"user": "user", "item": "item", "history": "item"}
"""Of inputs with catalog ids, the table whose rows they become."""


def averaged(trained: Trained) -> bool:
    """Whether the export holds averaged weights."""
    return trained.config.export.weights == "average" and trained.recommender.has_averages


def tables_of(trained: Trained, inputs: Iterable[str]) -> dict[str, tf.Variable]:
    """Served weights, by name, of the tables that these inputs of the model are looked up in.

    Raises:
      ExportError: weights are not finite.
    """
    table_of = trained.recommender.config.table_of_input
    names = {table_of[name] for name in inputs if name in table_of}
    return {name: _table_weights(trained, name) for name in sorted(names)}


def _table_weights(trained: Trained, name: str) -> tf.Variable:
    """Served weights of a table, read chunk by chunk."""
    table = trained.recommender.storages[name]
    weights = tf.Variable(tf.zeros([table.rows, table.dim]), trainable=False, name=f"table_{name}")
    for start, chunk in table.all_weights(averaged(trained), float(trained.step)):
        write_rows(weights, start, chunk, f"table {name}")
    return weights


def write_rows(variable: tf.Variable, start: int, chunk: tf.Tensor, what: str) -> None:
    """Overwrites rows of a variable from `start`; ExportError when the values are not finite."""
    if not np.isfinite(chunk.numpy()).all():
        raise ExportError(f"{what}: holds values that are not finite; the run diverged, see its loss")
    assign_rows(variable, start, chunk)


def served_lookup(recommender, tables: dict[str, tf.Variable], names: Iterable[str]) -> Callable:
    """The recommender's own look-up, fed from serving tables: training and serving share its code.

    Args:
      tables: from `tables_of`.
      names: inputs of the model that it reads.

    Returns:
      Function from inputs, by name, to (their activations, the inputs): catalog ids of `user` and `item`
      int64 [n], of items as `history` int64 [n, length] padded with -1, and features as
      trainer.data.features.model_inputs. Inputs may differ in n.
    """
    tables_info, names = recommender.dataset.tables, list(names)
    fetch = fetch_distinct(lambda table, ids: table.served(tables[table.label], ids))

    def lookup(inputs):
        inputs = inputs_of(inputs, names)
        for name in [name for name in _TABLE_OF if name in inputs]:
            inputs[name] = table_rows(tables_info[_TABLE_OF[name]], inputs[name])
        return recommender.activations(inputs, fetch, trains=False), inputs

    return lookup

"""A model with its tables: built from the config and the dataset, the same for training and serving."""

import contextlib

import numpy as np
import tensorflow as tf

from configs.manifest import Dataset
from configs.schema import RunConfig
from trainer.averages import DenseAverages, make_average
from trainer.embeddings import TABLE_KINDS
from trainer.embeddings.base import Embedding
from trainer.embeddings.pooling import Fetch, divided, fetch_distinct, joined, pooled
from trainer.models import MODELS
from trainer.optimizers import ROW_OPTIMIZERS


class Recommender(tf.Module):
    """Tables, model and averages of one run.

    Args:
      config: the run.
      dataset: its dataset.
      item_counts: int64 [item table rows], positive train rows of each item.
      num_steps: length of the run, which places the start of averaging.
      table_type: class of what stores all tables, whatever the config's engines; None: as configured.
      item_features: side features [item table rows] of items, by name; training may draw items.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        item_counts: np.ndarray,
        num_steps: int,
        table_type: type | None = None,
        item_features: dict[str, np.ndarray] | None = None,
    ):
        super().__init__(name="recommender")
        self.config = config
        self._table_type = table_type
        self._tables_info = dataset.tables
        self.average = make_average(config.polyak, num_steps)
        self.tables = {
            name: self._make_table(name, dataset) for name in sorted(set(config.table_of_input.values()))
        }
        self.model = MODELS[config.model.kind](
            config,
            _with_unknown(item_counts, dataset),
            {name: (f.mean, f.stddev) for name, f in dataset.features.items() if f.is_numeric},
            item_features or {},
        )
        self.dense_variables = list(self.model.trainable_variables)
        self.dense_averages = DenseAverages(self.average, self.dense_variables) if self.average else None
        # Averages of dense variables that were not kept while training, arrays
        # (trainer/checkpoints/tail_average.py).
        self.dense_tail: list[np.ndarray] | None = None

    def _make_table(self, name: str, dataset: Dataset) -> Embedding:
        options = self.config.table(name)
        optimizer = ROW_OPTIMIZERS[options.optimizer.kind](options.optimizer)
        rows, batch_size = dataset.table_rows(name), self.config.train.batch_size
        make = TABLE_KINDS[options.kind]
        return make(name, rows, options, optimizer, self.average, batch_size, self._table_type)

    @property
    def has_averages(self) -> bool:
        """Whether there are averaged weights beside the raw ones."""
        return self.average is not None or self.dense_tail is not None

    @property
    def storages(self) -> dict:
        """Tables whose records are the state of the embeddings, by table name."""
        return {name: table.storage for name, table in self.tables.items()}

    @property
    def dense_state(self) -> dict[str, tf.Variable]:
        """Towers, their averages and what rows of tables share, by a name stable from run to run."""
        shadows = self.dense_averages.shadows if self.dense_averages else []
        groups = {"dense": self.dense_variables, "average": shadows}
        numbered = {f"{group}/{i:03d}": v for group, members in groups.items() for i, v in enumerate(members)}
        tables = self.storages.items()
        return numbered | {f"shared/{t}/{n}": v for t, table in tables for n, v in table.shared.items()}

    def initialize(self) -> None:
        """Initial weights of all tables, from the config's seed."""
        for name, table in self.tables.items():
            zero_row = self._tables_info["item" if name == "history" else name].oov
            table.initialize(self.config.table(name).init_stddev, self.config.train.seed, zero_row)

    def activations(self, ids: dict, fetch: Fetch, trains: bool = True) -> dict:
        """Pooled embeddings of inputs.

        Args:
          ids: by input name, int64, [batch] for most, [batch, length] padded with -1 for history. Inputs
            without a table (numeric features) are passed over.
          fetch: gives the rows of the tables.
          trains: as in trainer.embeddings.pooling.pooled.

        Returns:
          By input name, float32 [batch, dim]; [..., dim] of drawn items, in the shape of their ids.
        """
        result = {}
        for table, names in self._by_table(ids).items():
            flat, sizes = joined({name: ids[name] for name in names})
            # What is pooled is read where it lies: a row for each place of a history would be many.
            each = not any(self._pooling(name) for name in names)
            weight, where = fetch(self.tables[table], flat, each)
            parts = divided(weight if where is None else where, sizes)
            for name, part in parts.items():
                rows, places = (part, None) if where is None else (weight, part)
                result[name] = pooled(rows, places, ids[name], self._pooling(name), trains)
        return result

    def pooled_activations(self, rows: dict, history_mask) -> dict:
        """As `activations`, from rows looked up one by one, in static shapes.

        Args:
          rows: by input name, float32 [..., dim], in the shape of the ids.
          history_mask: float32 [batch, length], 0 where history is padded; None without history.
        """
        found = dict(rows)
        if history_mask is not None:
            there = tf.where(history_mask[..., None] > 0, rows["history"], 0.0)
            total = tf.reduce_sum(there, axis=1)
            number = tf.maximum(tf.reduce_sum(history_mask, axis=1, keepdims=True), 1.0)
            divisor = {"sum": 1.0, "mean": number, "sqrtn": tf.sqrt(number)}
            found["history"] = total / divisor[self._pooling("history")]
        return found

    def _by_table(self, names) -> dict[str, list[str]]:
        tables = {name: table for table, inputs in self.config.ids_of_batch.items() for name in inputs}
        grouped: dict[str, list[str]] = {}
        for name in names:
            if name in tables:
                grouped.setdefault(tables[name], []).append(name)
        return grouped

    def _pooling(self, name: str) -> str | None:
        return self.config.model.history.pooling if name == "history" else None

    def user_vectors(self, inputs: dict, averaged: bool, step):
        """Vectors float32 [n, dim] of users.

        Args:
          inputs: every user input of the model: ids int64 [n], history int64 [n, length] padded with -1,
            numeric features float32 [n].
          averaged: weights averaged as of `step`, or raw.
          step: float32 scalar. Dense weights are used as they stand: see `averaged_dense`.
        """
        return self._vectors(self.model.user_vectors, inputs, averaged, step)

    def item_vectors(self, inputs: dict, averaged: bool, step):
        """Vectors float32 [n, dim] of items; as `user_vectors`."""
        return self._vectors(self.model.item_vectors, inputs, averaged, step)

    def _vectors(self, tower, inputs: dict, averaged: bool, step):
        inputs = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        fetch = fetch_distinct(lambda table, ids: table.read_weights(ids, averaged, step))
        return tower(self.activations(inputs, fetch), inputs)

    @contextlib.contextmanager
    def averaged_dense(self, averaged: bool = True):
        """Inside, the towers' weights are their averages (when averaging is on)."""
        if not averaged or not self.has_averages:
            yield
            return
        values = self.dense_averages.shadows if self.dense_averages else self.dense_tail
        raw = [variable.numpy() for variable in self.dense_variables]
        try:
            for variable, value in zip(self.dense_variables, values, strict=True):
                variable.assign(value)
            yield
        finally:
            for variable, value in zip(self.dense_variables, raw, strict=True):
                variable.assign(value)


def _with_unknown(item_counts: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The counts with the positive train rows of all unknown items, which no catalog lists, in their row."""
    oov = dataset.tables["item"].oov
    if oov is None:
        return item_counts
    counts = np.array(item_counts)
    counts[oov] = max(dataset.splits["train"].positives - counts.sum(), 0)
    return counts

"""A model with its tables, built from the config and the dataset, for training and serving."""

import contextlib
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from configs.manifest import Dataset
from configs.schema import RunConfig
from configs.sections.models import DRAWN, DotBiasConfig
from trainer.averages import DenseAverages, make_average
from trainer.data.features import WEIGHT, Column, empty_column, empty_value, model_inputs
from trainer.data.lookups import FeatureLookup
from trainer.embeddings import TABLE_KINDS
from trainer.embeddings.base import Embedding, Skip, Table
from trainer.embeddings.pooling import Fetch, divided, fetch_distinct, joined, pooled, unpooled
from trainer.models import MODELS
from trainer.models.base import inputs_of
from trainer.optimizers import ROW_OPTIMIZERS


class Recommender(tf.Module):
    """Tables, model and averages of one run.

    Args:
      config: the run.
      dataset: its dataset.
      item_counts: int64 [item table rows or more], positive rows of each item that train, by row of the
        table, those of unknown items at the out-of-vocabulary row; empty if the dataset has no items.
      num_steps: length of the run, which determines the start of averaging.
      table_type: class that stores tables, or a function that makes one, instead of the configured engines;
        called with name, rows, dim, optimizer and average. None: as configured.
      drawn_items: the features of items, for models that sample them.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        item_counts: np.ndarray,
        num_steps: int,
        table_type: Callable[..., Table] | None = None,
        drawn_items: FeatureLookup | None = None,
    ):
        super().__init__(name="recommender")
        self.config = config
        self._table_type = table_type
        self.dataset, self._tables_info = dataset, dataset.tables
        self._lists = {name for name, info in dataset.features.items() if info.kind == "list"}
        self._empty: dict[str, float | int] = {}
        self.average = make_average(config.polyak, num_steps)
        self.tables = {
            name: self._make_table(name, dataset) for name in sorted(set(config.table_of_input.values()))
        }
        owners = {name: dataset.tables[name] for name in ("user", "item") if name in dataset.tables}
        unknown: dict[str, tuple[int, int]] = {
            name: (t.oov, t.oov_rows) for name, t in owners.items() if t.oov is not None
        }
        known = item_counts[: dataset.table_rows("item")] if "item" in owners else item_counts
        self.model = MODELS[config.model.kind](config, known, drawn_items, unknown)
        self.dense_variables = list(self.model.trainable_variables)
        self.dense_averages = DenseAverages(self.average, self.dense_variables) if self.average else None
        # Averages of dense variables that were computed after training (trainer/checkpoints/tail_average.py).
        self.dense_tail: list[np.ndarray] | None = None

    def _make_table(self, name: str, dataset: Dataset) -> Embedding:
        options = self.config.table(name)
        optimizer = ROW_OPTIMIZERS[options.optimizer.kind](options.optimizer)
        rows, batch_size = dataset.table_rows(name), self.config.train.batch_size
        make: Callable[..., Embedding] = TABLE_KINDS[options.kind]
        return make(name, rows, options, optimizer, self.average, batch_size, self._table_type)

    @property
    def has_averages(self) -> bool:
        """Whether there are averaged weights in addition to the raw ones."""
        return self.average is not None or self.dense_tail is not None

    @property
    def storages(self) -> dict:
        """The storage of the embeddings, by table name."""
        return {name: table.storage for name, table in self.tables.items()}

    @property
    def dense_state(self) -> dict[str, tf.Variable]:
        """Tower weights, their averages and state shared by rows of tables, by a stable name."""
        shadows = self.dense_averages.shadows if self.dense_averages else []
        groups = {"dense": self.dense_variables, "average": shadows}
        numbered = {f"{group}/{i:03d}": v for group, members in groups.items() for i, v in enumerate(members)}
        tables = self.storages.items()
        return numbered | {f"shared/{t}/{n}": v for t, table in tables for n, v in table.shared.items()}

    def initialize(self, skip: Mapping[str, Skip] | None = None) -> None:
        """Sets the initial weights of all tables, from the config's seed; `skip`, by table, as in
        Embedding.initialize."""
        for name, table in self.tables.items():
            zero_row = self._tables_info["item" if name == "history" else name].oov
            options = {"skip": skip[name]} if skip and name in skip else {}
            stddev = self.config.table(name).init_stddev
            table.initialize(stddev, self.config.train.seed, zero_row, **options)

    def activations(self, ids: dict, fetch: Fetch, trains: bool = True) -> dict:
        """Pooled embeddings of inputs.

        Args:
          ids: by input name, int64 [batch]; lists [batch, length], padded with -1, and their weights, if any,
            as <name>/weight. Inputs without a table (numbers and vectors) are ignored.
          fetch: reads rows of the tables.
          trains: as in trainer.embeddings.pooling.pooled.

        Returns:
          By input name, float32 [batch, dim]; for sampled items and a history that is read in its order
          [..., dim], in the shape of their ids.
        """
        result = {}
        for table, names in self._by_table(ids).items():
            flat, sizes = joined({name: ids[name] for name in names})
            # Pooling reads each distinct row once; expanding the rows of histories would take much memory.
            each = not any(self._is_list(name) for name in names)
            weight, where = fetch(self.tables[table], flat, each)
            parts = divided(weight if where is None else where, sizes)
            for name, part in parts.items():
                rows, places = (part, None) if where is None else (weight, part)
                pooling, shares = self._pooling(name), ids.get(name + WEIGHT)
                if pooling is None and self._is_list(name):
                    result[name] = unpooled(rows, places, ids[name], trains)
                else:
                    result[name] = pooled(rows, places, ids[name], pooling, trains, shares)
        return result

    def ids_read(self, ids: dict) -> dict:
        """Those of `ids` that `activations` reads: of inputs with a table, and weights of lists."""
        read = {name for names in self._by_table(ids).values() for name in names}
        return {name: value for name, value in ids.items() if name.removesuffix(WEIGHT) in read}

    def ids_of_tables(self, ids: dict) -> dict:
        """What `activations` asks of its Fetch, by table in the order of `tables`: (ids int64 [n], each)."""
        groups = self._by_table(ids)
        found = {}
        for table in self.tables:
            names = groups[table]
            flat, _ = joined({name: ids[name] for name in names})
            found[table] = flat, not any(self._is_list(name) for name in names)
        return found

    def pooled_activations(self, rows: dict, weights: dict) -> dict:
        """As `activations`, from one row for each id, in static shapes.

        Args:
          rows: by input name, float32 [..., dim], in the shape of the ids.
          weights: by name of each list, float32 [batch, length]: the weight of each id, 0 for padding.
        """
        found = dict(rows)
        for name, weight in weights.items():
            there = tf.where(weight[..., None] > 0, rows[name] * weight[..., None], 0.0)
            pooling = self._pooling(name)
            if pooling is None:
                found[name] = there
                continue
            total = tf.reduce_sum(there, axis=1)
            if pooling != "sum":
                power = weight if pooling == "mean" else tf.square(weight)
                divisor = tf.reduce_sum(power, axis=1, keepdims=True)
                total = tf.math.divide_no_nan(total, divisor if pooling == "mean" else tf.sqrt(divisor))
            found[name] = total
        return found

    def _by_table(self, names) -> dict[str, list[str]]:
        tables = {name: table for table, inputs in self.config.ids_of_batch.items() for name in inputs}
        grouped: dict[str, list[str]] = {}
        for name in names:
            if name in tables:
                grouped.setdefault(tables[name], []).append(name)
        return grouped

    def _is_list(self, name: str) -> bool:
        """Whether an input has several ids in each row."""
        return bool(self.config.length_of(name.removeprefix(DRAWN)))

    def _pooling(self, name: str) -> str | None:
        """How the ids of an input, sampled ones too, become one vector; None: they do not."""
        name, model = name.removeprefix(DRAWN), self.config.model
        if name == "history":
            ordered = getattr(model, "sequence", None)
            return None if isinstance(model, DotBiasConfig) or ordered else model.history.pooling
        if name not in self._lists:
            return None
        return self.config.table(self.config.table_of_input[name]).combiner

    def user_inputs(self, ids: np.ndarray, history: np.ndarray, features: dict[str, Column]) -> dict:
        """What the model reads of users; of the context nothing is known.

        Args:
          ids: catalog ids, int64 [n].
          history: catalog ids of items, int64 [n, length], padded with -1.
          features: as stored, by name, of n rows.

        Returns:
          As trainer.data.features.model_inputs, with table rows for catalog ids.
        """
        rows = self._tables_info["user"].row_of(ids), self._tables_info["item"].row_of(history)
        columns = dict(zip(("user", "history"), rows, strict=True)) | features
        wanted = {
            name: columns[name] if name in columns else self._unknown(name, len(ids))
            for name in self.model.user_inputs
        }
        return model_inputs(self.dataset.features, wanted)

    def _unknown(self, name: str, number: int) -> Column:
        """An empty column of a feature of the context."""
        if name not in self._empty and name not in self._lists:
            self._empty[name] = empty_value(self.dataset, name)
        return empty_column(self.dataset.features[name], self._empty.get(name, 0), number)

    def user_vectors(self, inputs: dict, averaged: bool, step):
        """User vectors, float32 [n, dim].

        Args:
          inputs: all user inputs of the model, by name, as from `user_inputs`.
          averaged: whether to use table weights averaged as of `step`. Dense weights are used as they are;
            see `averaged_dense`.
          step: float32 scalar.
        """
        return self._of_weights(self.model.user_vectors, inputs, averaged, step)

    def item_vectors(self, inputs: dict, averaged: bool, step):
        """Item vectors, float32 [n, dim]; arguments as `user_vectors`."""
        return self._of_weights(self.model.item_vectors, inputs, averaged, step)

    def predictions(self, inputs: dict, averaged: bool, step) -> dict:
        """What a ranking model serves, by task: float32 [n].

        Args:
          inputs: all inputs of the model, by name, as from trainer.data.split_rows; others are ignored.
          averaged, step: as `user_vectors`.
        """
        return self._of_weights(self.model.predictions, inputs_of(inputs, self.model.inputs), averaged, step)

    def _of_weights(self, function: Callable, inputs: dict, averaged: bool, step):
        """function(activations, inputs) with the weights as of `step`."""
        inputs = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        fetch = fetch_distinct(lambda table, ids: table.read_weights(ids, averaged, step))
        return function(self.activations(inputs, fetch), inputs)

    @contextlib.contextmanager
    def averaged_dense(self, averaged: bool = True):
        """Within the context, the tower weights are their averages, if there are averages."""
        values = self.dense_averages.shadows if self.dense_averages else self.dense_tail
        if not averaged or values is None:
            yield
            return
        raw = [variable.numpy() for variable in self.dense_variables]
        try:
            for variable, value in zip(self.dense_variables, values, strict=True):
                variable.assign(value)
            yield
        finally:
            for variable, value in zip(self.dense_variables, raw, strict=True):
                variable.assign(value)

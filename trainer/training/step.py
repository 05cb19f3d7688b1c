"""One training step: look up, differentiate, update rows, towers and averages."""

import abc
import contextlib
from typing import Any

import tensorflow as tf

from configs.schema import RunConfig
from configs.sections.devices import CpuDeviceConfig
from trainer.embeddings.base import Embedding, Lookup
from trainer.embeddings.pooling import Fetched, of_distinct
from trainer.models.recommender import Recommender
from trainer.optimizers import ROW_OPTIMIZERS
from trainer.optimizers.clipping import half_square, scale_to_norm
from trainer.optimizers.schedules import rate_multiplier
from trainer.training.guard import Guard
from trainer.training.replicas import Replicas


class Step(tf.Module, abc.ABC):
    """A training step with its own state: the step counter, the guard and the towers' optimizer.

    Args:
      config: the run.
      recommender: what is trained.
      num_steps: steps of the run, for the schedule.
      scope: context manager in which the optimizer creates its variables; None: the current scope.

    Attributes:
      step: steps done, int64 variable.
      guard: trainer.training.guard.Guard.
      looks_each_step: whether the loop may look at each step's outcome before it starts the next.
      leaves_bad_batches_out: whether a batch with a loss or gradient that is not finite moves no weight.
    """

    looks_each_step = True
    leaves_bad_batches_out = True

    def __init__(self, config: RunConfig, recommender: Recommender, num_steps: int, scope=None):
        super().__init__(name="train_step")
        with tf.device("CPU:0"):  # on the host, also beside accelerators
            self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self._recommender = recommender
        self._multiplier = rate_multiplier(config.schedule, num_steps)
        self._rate = config.optimizer.learning_rate
        with scope or contextlib.nullcontext():
            self._optimizer = ROW_OPTIMIZERS[config.optimizer.kind](config.optimizer).dense()
            # Built now, so that restoring a checkpoint can assign its slots.
            self._optimizer.build(recommender.dense_variables)
        parts = [f"table {name}" for name in recommender.tables]
        self.guard = Guard(parts + [v.name.partition(":")[0] for v in recommender.dense_variables])

    @property
    def dense_state(self) -> dict[str, tf.Variable]:
        """All variables outside the tables, by names that do not change from run to run."""
        optimizer = {f"optimizer/{i:03d}": v for i, v in enumerate(self._optimizer.variables)}
        state = {"step": self.step, "skipped": self.guard.skipped}
        return {**state, **self._recommender.dense_state, **optimizer}

    def learning_rate(self, step):
        """Rate of the towers at `step` (from 1), float32 scalar."""
        return self._rate * self._multiplier(step)

    def learning_rates(self, step) -> dict:
        """Rates at `step` by their name in metrics.jsonl: of the towers, if any, and each table."""
        multiplier = self._multiplier(step)
        rates = {"learning_rate": self._rate * multiplier} if self._recommender.dense_variables else {}
        for name, table in self._recommender.tables.items():
            rates[f"learning_rate_{name}"] = table.optimizer.learning_rate * multiplier
        return rates

    def batches(self, data, start_step: int) -> tf.data.Dataset:
        """The input of `__call__` from step `start_step` (0: the first) on.

        Args:
          data: trainer.data.batches.TrainData.
          start_step: steps done.
        """
        return data.batches(start_step)

    @contextlib.contextmanager
    def readable_rows(self):
        """Makes the tables' rows readable inside, for checkpoints and evaluation."""
        yield

    def send_rows(self) -> None:
        """Sends rows written into the tables to the device, before the first step."""

    @abc.abstractmethod
    def __call__(self, batch: dict):
        """Trains on one element of `batches`.

        Returns:
          (loss before the step, float32 scalar; whether the batch was applied, bool scalar).
        """


class TrainStep(Step):
    """The step on this machine's processor; see Step for the arguments."""

    def __init__(self, config: RunConfig, recommender: Recommender, num_steps: int):
        super().__init__(config, recommender, num_steps)
        self._clip_norm = config.train.clip_norm
        replicas = config.device.replicas if isinstance(config.device, CpuDeviceConfig) else 1
        self._replicas = Replicas(replicas) if replicas > 1 else None

    @tf.autograph.experimental.do_not_convert  # which takes as long as tracing
    def __call__(self, batch: dict):
        """As Step; unless loss and gradients are finite only the step is counted."""
        self.step.assign_add(1)
        lookups, loss, gradients = self._differentiated(batch)
        total = half_square(gradients)
        finite = self.guard.check(loss, gradients, total * _most_parts(lookups))
        # One branch around all updates: a bad batch changes no row, no slot and no optimizer's iteration.
        tf.cond(finite, lambda: self._apply(lookups, gradients, total), lambda: tf.constant(False))
        if self._recommender.dense_averages is not None:
            # Also after a bad batch: unchanged weights enter the average at each step, as in tables.
            self._recommender.dense_averages.update(tf.cast(self.step, tf.float32))
        return loss, finite

    def _differentiated(self, batch):
        """(lookups by table, loss, gradients of the looked-up rows, followed by the dense variables')."""
        model = self._recommender.model
        with tf.GradientTape() as tape:
            # Clipping by norm needs the summed gradient of each row.
            fetch = _WatchedFetch(tape, distinct=bool(self._clip_norm))
            ids = model.lookups(batch, self.step)
            activations = self._recommender.activations(ids, fetch)
            columns = model.columns(batch, self.step)
            loss = None if self._replicas else model.loss(activations, columns, self.step)
        lookups = {name: fetch.lookups[name] for name in self._recommender.tables}
        weights = [lookup.weight for lookup in lookups.values()]
        dense = self._recommender.dense_variables
        if self._replicas is None:
            gradients = tape.gradient(loss, weights + dense)
        else:
            loss, above, dense = self._replicas.differentiate(
                lambda own, rows, share: model.loss(own, rows, self.step, share), activations, columns, dense
            )
            targets = tf.nest.flatten(activations)
            gradients = tape.gradient(targets, weights, output_gradients=tf.nest.flatten(above)) + dense
        # Sums the gradients of duplicate ids and of features that share a table, unless the table does.
        gradients[: len(weights)] = map(tf.convert_to_tensor, gradients[: len(weights)])
        return lookups, loss, gradients

    def _apply(self, lookups, gradients, total):
        step = tf.cast(self.step, tf.float32)
        multiplier = self._multiplier(step)
        if self._clip_norm:
            gradients = scale_to_norm(gradients, total, self._clip_norm)
        for (name, lookup), gradient in zip(lookups.items(), gradients, strict=False):
            self._recommender.tables[name].update(lookup, gradient, step, multiplier)
        if dense := gradients[len(lookups) :]:
            # Assigned at each step, because a restored rate must not override the configured one.
            self._optimizer.learning_rate.assign(self._rate * multiplier)
            variables = self._recommender.dense_variables
            self._optimizer.apply_gradients(zip(dense, variables, strict=True))
        return tf.constant(True)


class _WatchedFetch:
    """The trainer.embeddings.pooling.Fetch of training.

    Args:
      tape: watches the fetched weights.
      distinct: fetch each row once, even where a row for each id would do.

    Attributes:
      lookups: what was fetched, by table name.
    """

    def __init__(self, tape: tf.GradientTape, distinct: bool):
        self._tape, self._distinct = tape, distinct
        self.lookups: dict[str, Any] = {}

    def __call__(self, table: Embedding, ids: tf.Tensor, each: bool) -> Fetched:
        if each and table.takes_repeats and not self._distinct:
            lookup, where = table.lookup_each(ids), None
        else:
            lookup, where = of_distinct(ids, table.lookup)
        self.lookups[table.label] = lookup
        self._tape.watch(lookup.weight)
        return Fetched(lookup.weight, where)


def _most_parts(lookups: dict):
    """The largest number of gradients that may be summed for one row, float32 scalar.

    The square of a sum of n values is at most n times the sum of their squares.
    """
    parts = [lookup.where for lookup in lookups.values() if isinstance(lookup, Lookup)]
    sizes = [tf.size(where) for where in parts if where is not None]
    return tf.cast(tf.reduce_max([1, *sizes]), tf.float32)

"""The training step on a TPU: large tables in its embedding engine, small ones, dense layers and loss on its
TensorCores.

Every replica trains on its share of the batch, scores its rows against the items of all replicas, and holds a
copy of the dense layers and of small tables. The numbers equal those of the CPU's step, up to rounding
because sums are taken in another order.
"""

import contextlib
from collections.abc import Callable

import tensorflow as tf

from configs.errors import ConfigError
from configs.rules.tpu import MAX_ROWS
from configs.schema import RunConfig
from trainer.embeddings.engines.tensorcore import TensorCoreTable
from trainer.embeddings.engines.tpu import TpuTable
from trainer.kernels.build import graph_only
from trainer.models.recommender import Recommender
from trainer.tpu.batches import InputPlan, prepared, weights_of
from trainer.tpu.engines.base import AVERAGE, Engine, EngineOptimizer, EngineTableSpec, NoEngine
from trainer.tpu.ledger import Ledger
from trainer.training.replicas import Share
from trainer.training.step import Step


class TpuStep(Step):
    """See Step; trainer.tpu.batches prepares the input.

    Args:
      config: the run.
      recommender: what is trained, created in the strategy's scope; its tables are TpuTable (in the engine)
        or TensorCoreTable.
      num_steps: steps of the run.
      strategy: tf.distribute.TPUStrategy.
      make_engine: class of the engine, which is made if it has a table.

    Raises:
      ConfigError: a table has more rows than int32 ids can address.
    """

    # Looking at each outcome would make the host wait for the chips at every step.
    looks_each_step = False
    leaves_bad_batches_out = False

    def __init__(
        self,
        config: RunConfig,
        recommender: Recommender,
        num_steps: int,
        strategy: tf.distribute.Strategy,
        make_engine: Callable[[dict[str, EngineTableSpec], tf.distribute.Strategy], Engine],
    ):
        super().__init__(config, recommender, num_steps, strategy.scope())
        self._strategy = strategy
        tables = recommender.tables
        rows = {name: table.rows for name, table in tables.items()}
        self._in_engine = {name: table for name, table in tables.items() if isinstance(table, TpuTable)}
        self._small = {name: table for name, table in tables.items() if isinstance(table, TensorCoreTable)}
        self._plan = InputPlan.of(config, rows, strategy.num_replicas_in_sync)
        # The step being traced, float32 scalar on a replica; learning rates read it.
        self._now = None
        make_engine = make_engine if self._in_engine else NoEngine
        self._engine = make_engine(self._engine_tables(), strategy)
        self._engine.build()
        stored = {name: self._plan.stored_rows(name) for name in self._in_engine}
        average = recommender.average
        # One ledger of the steps done, one of the steps whose input has been prepared ahead.
        self._ledger = Ledger(stored, average)
        self._ledger_ahead = None if average is None else Ledger(stored, average)
        for name, table in self._in_engine.items():
            table.attach(self._engine, self._ledger, None if average is None else name + AVERAGE)

    def _engine_tables(self) -> dict[str, EngineTableSpec]:
        optimizers: dict[str, EngineOptimizer] = {}
        sgd = tf.tpu.experimental.embedding.SGD(1.0, use_gradient_accumulation=True)
        found = {}
        for name, table in self._in_engine.items():
            rows, ids = self._plan.stored_rows(name), self._plan.ids_of_share(name)
            if rows > MAX_ROWS:
                raise ConfigError(
                    f"tables.{name}: {rows:,} rows exceed the {MAX_ROWS:,} that a TPU addresses; use fewer"
                )
            key = table.optimizer.config.model_dump_json()
            if key not in optimizers:
                optimizers[key] = table.optimizer.tpu(lambda: self._now, self._multiplier)
            found[name] = EngineTableSpec(rows, table.dim, optimizers[key], ids)
            if table.average is not None:
                found[name + AVERAGE] = EngineTableSpec(rows, table.dim, sgd, ids)
        return found

    @contextlib.contextmanager
    def readable_rows(self):
        """See Step."""
        places = [self._engine, *self._small.values()]
        for place in places:
            place.retrieve()
        try:
            yield
        finally:
            for place in places:
                place.release()

    def send_rows(self):
        """See Step."""
        for name, table in self._in_engine.items():
            if self._plan.stored_rows(name) > table.rows:
                table.write_padding(table.rows)
        for place in (self._engine, *self._small.values()):
            place.load()
        self._ledger.start(int(self.step))
        if self._ledger_ahead is not None:
            self._ledger_ahead.copy(self._ledger)

    def batches(self, data, start_step):
        """See Step."""
        model = self._recommender.model
        return prepared(data.batches(start_step), start_step, model, self._plan, self._ledger_ahead)

    @tf.autograph.experimental.do_not_convert  # which takes as long as tracing
    def __call__(self, batch: dict):
        """As Step, but a batch that is not finite is applied: the run must go back to a checkpoint."""
        self.step.assign_add(1)
        for name in self._in_engine:
            self._ledger.touch(name, tf.reshape(batch["ids"][name], [-1]), tf.cast(self.step, tf.int32))
        ids = {name: batch["ids"][name.removesuffix(AVERAGE)] for name in self._engine.tables}
        fed = self._engine.feed(self._shares(ids))
        small = {name: batch["ids"][name] for name in self._small}
        own = self._shares({"columns": batch["columns"], "shares": batch["shares"], "ids": small})
        values = self._strategy.run(self._replica, args=(own, fed, tf.cast(self.step, tf.float32)))
        loss, bad = (self._strategy.experimental_local_results(value)[0] for value in values)
        return loss, self.guard.note(bad)

    def _shares(self, values: dict):
        """Values [replicas, ...] as per-replica values: each replica has its own slice."""
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.nest.map_structure(lambda v: v[context.replica_id_in_sync_group], values)
        )

    def _replica(self, own: dict, fed, step):
        """One replica's part: (loss of the whole batch, what is not finite in it, bool [1 + parts])."""
        with graph_only():
            return self._traced(own, fed, step)

    def _traced(self, own: dict, fed, step):
        self._now = step
        names, dense = list(self._plan.inputs), self._recommender.dense_variables
        rows, looked_up = self._engine.lookup(fed)
        rows |= {name: table.fetch(own["ids"][name]) for name, table in self._small.items()}
        weights = [rows[name] for name in names]
        loss, gradients = self._differentiated(dict(zip(names, weights, strict=True)), own["columns"], dense)
        by_table = dict(zip(names, gradients, strict=False))
        for name, factor in own["shares"].items():
            by_table[name] = (rows[name] - rows[name.removesuffix(AVERAGE)]) * factor[:, None]
        summed = [table.summed(own["ids"][n], by_table.pop(n)) for n, table in self._small.items()]
        self._engine.apply(by_table, looked_up)
        return self._finish(loss, gradients[: len(names)], gradients[len(names) :], summed)

    def _differentiated(self, rows: dict, columns: dict, dense: list):
        """(this share's part of the loss, its gradients by table and then by dense variable)."""
        with tf.GradientTape() as tape:
            tape.watch(rows)
            arranged = self._plan.arranged(rows)
            weights = {name: columns[weights_of(name)] for name in self._plan.lists & arranged.keys()}
            activations = self._recommender.pooled_activations(arranged, weights)
            share = Share.here()
            step = tf.cast(self._now, tf.int64)
            loss = self._recommender.model.loss(activations, columns, step, share)
        zero = tf.UnconnectedGradients.ZERO
        return loss, tape.gradient(loss, [*rows.values(), *dense], unconnected_gradients=zero)

    def _finish(self, loss, rows: list, dense: list, small: list):
        """Sums over replicas, updates all but the engine's tables; returns as `_replica`."""
        context = tf.distribute.get_replica_context()
        total, *sums = context.all_reduce(tf.distribute.ReduceOp.SUM, [loss, *dense, *small])
        dense, small = sums[: len(dense)], sums[len(dense) :]
        for table, summed in zip(self._small.values(), small, strict=True):
            table.apply(summed, self._now, self._multiplier(self._now))
        averages = self._recommender.dense_averages
        if dense:
            variables = self._recommender.dense_variables
            context.merge_call(self._set_rate, args=(self._rate * self._multiplier(self._now),))
            pairs = zip(dense, variables, strict=True)
            self._optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
            if averages is not None:
                context.merge_call(averages.update_all, args=(self._now,))
        bad = tf.stack([~tf.reduce_all(tf.math.is_finite(value)) for value in (total, *rows, *dense)])
        seen = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(bad, tf.float32))
        return total, seen > 0

    def _set_rate(self, strategy, rate) -> None:
        """Assigns the rate, at each step because a restored rate must not override the configured one."""
        strategy.extended.update(
            self._optimizer.learning_rate, lambda v, value: v.assign(value), args=(rate,)
        )

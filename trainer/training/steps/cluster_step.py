"""The training step over the hosts of a cluster, as one graph that TensorFlow cuts up and runs.

Host 0 reads the batch and sends every host its rows. Each host asks the owners for rows of the tables,
computes the loss of its share against the items of all shares, and sends gradients of rows to their owners
and those of the dense weights to host 0. Host 0 decides whether the batch is applied; then owners update
their rows, and host 0 the dense weights. Each pair of hosts exchanges one message at each of these points
(trainer/cluster/packing.py).
"""

import math
from typing import NamedTuple

import tensorflow as tf

from configs.schema import RunConfig
from trainer.cluster.connect import Cluster
from trainer.cluster.dense import reading
from trainer.cluster.packing import exchange, send_batch
from trainer.cluster.routing import Routing
from trainer.embeddings.pooling import Fetched
from trainer.kernels import ops
from trainer.models.recommender import Recommender
from trainer.optimizers.clipping import half_square, scale_to_norm
from trainer.training.replicas import Share
from trainer.training.step import Step


class ClusterStep(Step):
    """The step on a cluster; see Step for the other arguments.

    Args:
      cluster: its hosts; the recommender's tables are on them.
    """

    def __init__(self, config: RunConfig, recommender: Recommender, num_steps: int, cluster: Cluster):
        super().__init__(config, recommender, num_steps)
        self._cluster, self._devices = cluster, cluster.devices
        self._clip_norm = config.train.clip_norm
        self._gather = exchange(cluster.strategy, cluster.devices)
        shapes = config.ids_of_batch.values()
        self._most_ids = max((sum(map(math.prod, inputs.values())) for inputs in shapes), default=1)

    @tf.autograph.experimental.do_not_convert  # which takes as long as tracing
    def __call__(self, batch: dict):
        """As Step; unless loss and gradients are finite only the step is counted."""
        self.step.assign_add(1)
        now = self.step.read_value()
        shares = self._shares(batch, now)
        names = list(self._recommender.tables)
        ids = [[own.wanted[name][0] for name in names] for own in shares]
        routing = Routing(self._tables, ids, self._devices, bool(self._clip_norm))
        results, above = self._differentiated(shares, routing)
        gradients, results = routing.gradients(above, results)
        loss, squares, dense = self._reduced(results)
        if self._clip_norm:  # of the summed gradient of each row
            squares = tf.add_n([tf.identity(own) for own in routing.half_squares(gradients)])
        total = tf.reduce_sum(squares) + half_square(dense)
        most = 1.0 if self._clip_norm else float(self._most_ids)
        finite = self.guard.check(loss, [*tf.unstack(squares), *dense], total * most)
        self._apply(routing, gradients, dense, total, finite)
        if self._recommender.dense_averages is not None:
            # Also after a bad batch: unchanged weights enter the average at each step, as in tables.
            self._recommender.dense_averages.update(tf.cast(self.step, tf.float32))
        return loss, finite

    @property
    def _tables(self) -> list:
        return list(self._recommender.tables.values())

    def _shares(self, batch: dict, now) -> list["_HostShare"]:
        """Sends each host its rows of what the model reads of a batch."""
        model, recommender = self._recommender.model, self._recommender
        ids = recommender.ids_read(model.lookups(batch, now))
        sent = {_IDS + name: value for name, value in ids.items()}
        sent |= {_COLUMNS + name: value for name, value in model.columns(batch, now).items()}
        shared = [_COLUMNS + name for name in model.gathered_columns]
        values = [now, *(variable.read_value() for variable in recommender.dense_variables)]
        shares = []
        for (own, whole, (step, *dense)), device in zip(
            send_batch(sent, shared, values, self._devices), self._devices, strict=True
        ):
            own_ids = _named(own, _IDS)
            with tf.device(device):
                wanted = {
                    table: (flat, None) if each else ops.unique(flat)
                    for table, (flat, each) in recommender.ids_of_tables(own_ids).items()
                }
            named = _named(own, _COLUMNS), _named(whole, _COLUMNS)
            shares.append(_HostShare(own_ids, *named, wanted, step, dense))
        return shares

    def _differentiated(self, shares: list["_HostShare"], routing: Routing) -> tuple[list, list]:
        """What each host computes of its share.

        Returns:
          (for each host, float32 [values]: its part of the loss, half the squares of its rows' gradients by
          table, and its part of the dense gradients; for each host, the gradients of `routing.rows`), on
          the hosts.
        """
        model, recommender = self._recommender.model, self._recommender

        def replica():
            index = int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))
            own, rows, variables = shares[index], routing.rows[index], recommender.dense_variables
            with tf.GradientTape() as tape, reading(variables, own.dense):
                tape.watch([rows, own.dense])
                activations = recommender.activations(own.ids, own.fetch(recommender.tables, rows))
                loss = model.loss(activations, own.columns, own.step, self._share(index, own))
            above, sent, read = tape.gradient(loss, (rows, own.dense, variables))
            above = [_summed([gradient], row) for gradient, row in zip(above, rows, strict=True)]
            gradients = [_summed(found, value) for *found, value in zip(sent, read, own.dense, strict=True)]
            squares = [tf.nn.l2_loss(gradient) for gradient in above]
            flat = [tf.reshape(gradient, [-1]) for gradient in gradients]
            return tf.concat([tf.stack([loss, *squares]), *flat], axis=0), above

        strategy = self._cluster.strategy
        results, above = strategy.run(replica)
        above = [strategy.experimental_local_results(gradient) for gradient in above]
        by_host = [list(own) for own in zip(*above, strict=True)]
        return list(strategy.experimental_local_results(results)), by_host

    def _share(self, index: int, own: "_HostShare") -> Share:
        known = {id(own.columns[name]): whole for name, whole in own.whole.items()}

        def gather(value):
            """Columns that every host has are not exchanged."""
            return known[id(value)] if id(value) in known else self._gather(value)

        return Share(tf.constant(index), len(self._devices), gather)

    def _reduced(self, results: list) -> tuple:
        """(loss, half the squares of rows' gradients by table, dense gradients) of the whole batch, from what
        hosts computed of their shares; on host 0."""
        dense = self._recommender.dense_variables
        number, sizes = len(self._tables), [variable.shape.num_elements() for variable in dense]
        with tf.device(self._devices[0]):
            total = tf.add_n(results)
            loss, squares, *flat = tf.split(total, [1, number, *sizes])
            gradients = [tf.reshape(g, v.shape) for g, v in zip(flat, dense, strict=True)]
            return loss[0], squares, gradients

    def _apply(self, routing: Routing, gradients: list, dense: list, total, finite) -> None:
        """One step of the rows on their owners and of the dense weights on host 0, if the batch is finite."""
        step = tf.cast(self.step, tf.float32)
        multiplier = self._multiplier(step)
        with tf.device(self._devices[0]):
            scalars = tf.stack([tf.cast(finite, tf.float32), step, multiplier, total])
        for k, (own, device) in enumerate(zip(gradients, self._devices, strict=True)):
            with tf.device(device):
                here = tf.identity(scalars)
                tf.cond(here[0] > 0.0, self._update_of(routing, k, own, here), lambda: tf.constant(False))
        if dense:
            tf.cond(finite, lambda: self._move(dense, total, multiplier), lambda: tf.constant(False))

    def _update_of(self, routing: Routing, k: int, gradients: list, scalars):
        def update():
            with tf.device(self._devices[k]):
                _, step, multiplier, total = tf.unstack(scalars)
                clipped = gradients
                if self._clip_norm:
                    clipped = scale_to_norm(gradients, total, self._clip_norm)
                routing.update(k, clipped, step, multiplier)
                return tf.constant(True)

        return update

    def _move(self, gradients: list, total, multiplier):
        if self._clip_norm:
            gradients = scale_to_norm(gradients, total, self._clip_norm)
        # Assigned at each step, because a restored rate must not override the configured one.
        self._optimizer.learning_rate.assign(self._rate * multiplier)
        variables = self._recommender.dense_variables
        self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return tf.constant(True)


def _summed(gradients: list, value):
    """The sum of those gradients of a value that there are (None: there is none), as a dense tensor."""
    found = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    return tf.add_n(found) if found else tf.zeros_like(value)


_IDS, _COLUMNS = "ids/", "columns/"


class _HostShare(NamedTuple):
    """One host's share of a batch; its tensors are on the host."""

    ids: dict
    """As Recommender.activations takes them."""
    columns: dict
    """As Model.loss takes them."""
    whole: dict
    """Those of Model.gathered_columns, of all hosts."""
    wanted: dict
    """By table, (ids whose rows it needs; the place of each id that it reads among them, or None: all in
    order)."""
    step: tf.Tensor
    """int64 scalar."""
    dense: list
    """Values of Recommender.dense_variables."""

    def fetch(self, tables: dict, rows: list):
        """A trainer.embeddings.pooling.Fetch that gives the rows of `wanted`, in the order of the tables."""
        of_table = dict(zip(tables, rows, strict=True))

        def fetch(table, ids, each: bool) -> Fetched:
            return Fetched(of_table[table.label], self.wanted[table.label][1])

        return fetch


def _named(columns: dict, prefix: str) -> dict:
    """The columns whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in columns.items() if name.startswith(prefix)}

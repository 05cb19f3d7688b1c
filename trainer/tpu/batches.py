"""A TPU's training input: what the host computes for each step, ahead of it, cut into replicas' shares.

The same batches as on the CPU, in the same order. The process that drives the TPU prepares them for all hosts
of a slice: ids and a few columns, some 20 bytes a row, are little to send, and only who sees the whole batch
knows how often it holds a row (see trainer/tpu/ledger.py).
"""

import dataclasses
import math

import tensorflow as tf

from configs.schema import RunConfig
from trainer.tpu.engines.base import AVERAGE


@dataclasses.dataclass(frozen=True)
class InputPlan:
    """Which ids a batch looks up in each table, in which order.

    Args:
      inputs: by table name, the model's inputs that read it and the shape of their ids in a share.
      rows: by table name, rows of the table. Padding looks up one more, which stays zero.
      replicas: number of shares.
    """

    inputs: dict[str, dict[str, tuple[int, ...]]]
    rows: dict[str, int]
    replicas: int

    @classmethod
    def of(cls, config: RunConfig, rows: dict[str, int], replicas: int) -> "InputPlan":
        """That of a run whose tables have so many rows."""
        whole = config.ids_of_batch
        inputs = {
            table: {name: (size // replicas, *rest) for name, (size, *rest) in whole[table].items()}
            for table in rows
        }
        return cls(inputs, rows, replicas)

    def stored_rows(self, table: str) -> int:
        """Rows of the engine's table: one more than there are ids, for padding, where there is any."""
        return self.rows[table] + ("history" in self.inputs[table])

    def ids_of_share(self, table: str) -> int:
        """Ids that a share looks up in a table."""
        return sum(map(math.prod, self.inputs[table].values()))

    def flat_ids(self, table: str, lookups: dict):
        """Ids to look up in a table, int32 [replicas, ids of a share], input after input within a share.

        Args:
          table: name.
          lookups: by input, int64, [batch] for most, -1 where history is padded.

        Raises (when run):
          InvalidArgumentError: an id is outside the table; engines would take any.
        """
        shares = []
        for name in self.inputs[table]:
            ids, padding = lookups[name], tf.constant(self.rows[table], tf.int64)
            inside = tf.reduce_all((ids < padding) & (ids >= (-1 if name == "history" else 0)))
            message = f"an id of {name} is not in 0..{self.rows[table] - 1}: run `lazytower prepare` again"
            with tf.control_dependencies([tf.debugging.Assert(inside, [message])]):
                ids = tf.where(ids < 0, padding, ids)
            shares.append(tf.reshape(tf.cast(ids, tf.int32), [self.replicas, -1]))
        return tf.concat(shares, axis=1)

    def arranged(self, activations: dict) -> dict:
        """Rows of a share by input, float32 [..., dim], in the shapes of their ids.

        Args:
          activations: by table name, float32 [ids of a share, dim], in the order of `flat_ids`.
        """
        found = {}
        for table, inputs in self.inputs.items():
            rows = activations[table]
            pieces = tf.split(rows, [math.prod(shape) for shape in inputs.values()], axis=0)
            for (name, shape), piece in zip(inputs.items(), pieces, strict=True):
                found[name] = tf.reshape(piece, [*shape, rows.shape[-1]])
        return found


def prepared(batches: tf.data.Dataset, start_step: int, model, plan: InputPlan, ledger) -> tf.data.Dataset:
    """Batches as the TPU's step takes them.

    Args:
      batches: from trainer.data.batches.TrainData, from step `start_step` (0: the first) on.
      start_step: steps done.
      model: trainer.models.base.Model; its lookups and columns are computed here.
      plan: where ids go.
      ledger: trainer.tpu.ledger.Ledger, moved ahead as batches are prepared; None without averages.

    Returns:
      Dataset of dicts: `step` int64 scalar from 1; `ids` by table, int32 [replicas, ids]; `shares`, of the
      averages' gradients, by table, float32 as ids (empty without averages); `columns` by name,
      [replicas, share, ...], integers as int32, and `history_mask`, float32, 0 where history is padded.
    """

    def prepare(step, batch):
        lookups = model.lookups(batch, step)
        ids = {table: plan.flat_ids(table, lookups) for table in plan.inputs}
        columns = {name: _narrow(value) for name, value in model.columns(batch, step).items()}
        if "history" in lookups:
            columns["history_mask"] = tf.cast(lookups["history"] >= 0, tf.float32)
        shares = {}
        if ledger is not None:
            for table, flat in ids.items():
                whole = tf.reshape(flat, [-1])
                part = ledger.shares(table, whole, tf.cast(step, tf.int32))
                with tf.control_dependencies([part]):
                    ledger.touch(table, whole, tf.cast(step, tf.int32))
                shares[table + AVERAGE] = tf.reshape(part, tf.shape(flat))
        cut = {name: _cut(value, plan.replicas) for name, value in columns.items()}
        return {"step": step, "ids": ids, "shares": shares, "columns": cut}

    # One after the other: the ledger must see the batches in their order.
    return batches.enumerate(start=start_step + 1).map(prepare, num_parallel_calls=None).prefetch(4)


def _narrow(value):
    """int64 as int32: the chips gather from each other nothing wider."""
    return tf.cast(value, tf.int32) if value.dtype == tf.int64 else value


def _cut(value, replicas: int):
    """[batch, ...] as [replicas, share, ...]."""
    return tf.reshape(value, [replicas, value.shape[0] // replicas, *value.shape[1:]])

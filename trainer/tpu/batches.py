"""Training input of a TPU, which the host prepares ahead of each step and splits by replica.

Batches and their order are those of the CPU. The process that drives the TPU prepares them for all hosts of a
slice: ids and a few columns, some 20 bytes per example, are cheap to send, and counting the occurrences of a
row requires the whole batch (see trainer/tpu/ledger.py).
"""

import dataclasses
import math

import tensorflow as tf

from configs.schema import RunConfig
from configs.sections.models import DRAWN
from trainer.data.features import WEIGHT
from trainer.tpu.engines.base import AVERAGE


@dataclasses.dataclass(frozen=True)
class InputPlan:
    """The ids that a batch looks up in each table, of the engine or not, and their order.

    Args:
      inputs: by table name, the model's inputs that read it, with the shape of one replica's ids.
      rows: by table name, rows of the table. Padding looks up an additional row, which stays zero.
      replicas: number of replicas; each gets an equal share of the batch.
      lists: inputs with several ids in each row, padded.
    """

    inputs: dict[str, dict[str, tuple[int, ...]]]
    rows: dict[str, int]
    replicas: int
    lists: frozenset[str] = frozenset({"history"})

    @classmethod
    def of(cls, config: RunConfig, rows: dict[str, int], replicas: int) -> "InputPlan":
        """The plan of a run; `rows` and `replicas` as for the class."""
        whole = config.ids_of_batch
        inputs = {
            table: {name: (size // replicas, *rest) for name, (size, *rest) in whole[table].items()}
            for table in rows
        }
        names = [name for shapes in inputs.values() for name in shapes]
        lists = frozenset(name for name in names if config.length_of(name.removeprefix(DRAWN)))
        return cls(inputs, rows, replicas, lists)

    def stored_rows(self, table: str) -> int:
        """Rows of the engine's table, including the additional row if the table is read with padding."""
        return self.rows[table] + any(name in self.lists for name in self.inputs[table])

    def ids_of_share(self, table: str) -> int:
        """Number of ids that a share looks up in a table."""
        return sum(map(math.prod, self.inputs[table].values()))

    def flat_ids(self, table: str, lookups: dict):
        """Ids to look up in a table, int32 [replicas, ids of a share]; inputs are concatenated in a share.

        Args:
          table: name.
          lookups: by input name, int64 [batch]; lists [batch, length], padded with -1.

        Raises (when run):
          InvalidArgumentError: an id is outside the table; engines do not check.
        """
        shares = []
        for name in self.inputs[table]:
            ids, padding = lookups[name], tf.constant(self.rows[table], tf.int64)
            inside = tf.reduce_all((ids < padding) & (ids >= (-1 if name in self.lists else 0)))
            message = f"an id of {name} is not in 0..{self.rows[table] - 1}; run `lazytower prepare` again"
            with tf.control_dependencies([tf.debugging.Assert(inside, [message])]):
                ids = tf.where(ids < 0, padding, ids)
            shares.append(tf.reshape(tf.cast(ids, tf.int32), [self.replicas, -1]))
        return tf.concat(shares, axis=1)

    def arranged(self, activations: dict) -> dict:
        """Looked-up rows of a share by input, float32 [..., dim], in the shapes of their ids.

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
    """Batches for the training step of a TPU.

    Args:
      batches: from trainer.data.batches.TrainData, beginning with step `start_step` (0: the first).
      start_step: number of completed steps.
      model: trainer.models.base.Model; its lookups and columns are computed here.
      plan: the order of ids.
      ledger: trainer.tpu.ledger.Ledger of the tables in the engine, updated as batches are prepared; None
        without averages.

    Returns:
      Dataset of dicts: `step`, int64 scalar counted from 1; `ids` by table, int32 [replicas, ids]; `shares`,
      factors of the averages' gradients, by table of averages, float32 as ids (empty without averages);
      `columns` by name, [replicas, share, ...], integers as int32, and the weights of lists, float32 (see
      weights_of), 0 for padding.
    """

    def prepare(step, batch):
        lookups = model.lookups(batch, step)
        ids = {table: plan.flat_ids(table, lookups) for table in plan.inputs}
        columns = {name: _narrow(value) for name, value in model.columns(batch, step).items()}
        for name in plan.lists & lookups.keys():
            there = tf.cast(lookups[name] >= 0, tf.float32)
            columns[weights_of(name)] = there * lookups[name + WEIGHT] if name + WEIGHT in lookups else there
        shares = {}
        if ledger is not None:
            for table in ledger.tables:
                flat = ids[table]
                whole = tf.reshape(flat, [-1])
                part = ledger.shares(table, whole, tf.cast(step, tf.int32))
                with tf.control_dependencies([part]):
                    ledger.touch(table, whole, tf.cast(step, tf.int32))
                shares[table + AVERAGE] = tf.reshape(part, tf.shape(flat))
        cut = {name: _cut(value, plan.replicas) for name, value in columns.items()}
        return {"step": step, "ids": ids, "shares": shares, "columns": cut}

    # Sequential, because the ledger must see the batches in order.
    return batches.enumerate(start=start_step + 1).map(prepare, num_parallel_calls=None).prefetch(4)


def weights_of(name: str) -> str:
    """Column with the weight of each id of a list; 1 where it has none of its own."""
    return "history_mask" if name == "history" else name + "/mask"


def _narrow(value):
    """int64 as int32, because gathers between chips do not support int64."""
    return tf.cast(value, tf.int32) if value.dtype == tf.int64 else value


def _cut(value, replicas: int):
    """[batch, ...] as [replicas, share, ...]."""
    return tf.reshape(value, [replicas, value.shape[0] // replicas, *value.shape[1:]])

"""100 steps on rows under lazy Adam with exponential averages, by TF-Addons and by row records."""

import numpy as np
import tensorflow as tf

from configs.sections.optimizers import LazyAdamConfig
from trainer.averages import Exponential
from trainer.embeddings.engines.rows import RecordTable
from trainer.embeddings.engines.tfa import AddonsTable
from trainer.optimizers.lazy_adam import LazyAdam
from trainer.tpu.ledger import Ledger

STEPS, ROWS, IDS, DIM, DECAY = 100, 150, 48, 64, 0.95


def write_references(path: str) -> None:
    """Writes an .npz.

    It holds `ids` int64 [steps, ids], with repeats; `gradients` float32 [steps, ids, dim]; `weights` float32
    [rows, dim] before the first step; what the TPU's step is given, `rates` float32 [steps] of the table's
    learning rate and `shares` float32 [steps, ids] of the averages' gradients; and the records after the last
    step, `addons` and `rows`, float32 [rows, 4 dim + 1].
    """
    draw = np.random.default_rng(0)
    weights = draw.normal(scale=0.1, size=(ROWS, DIM)).astype(np.float32)
    ids = np.minimum(draw.zipf(1.3, (STEPS, IDS)) - 1, draw.integers(0, ROWS, (STEPS, IDS)))
    gradients = draw.normal(scale=0.01, size=(STEPS, IDS, DIM)).astype(np.float32)
    optimizer = LazyAdam(LazyAdamConfig(kind="lazy_adam"))
    average = Exponential(DECAY)
    found = {
        kind.engine: _trained(kind("user", ROWS, DIM, optimizer, average), weights, ids, gradients)
        for kind in (AddonsTable, RecordTable)
    }
    rates, shares = _as_the_tpu_is_told(optimizer, average, ids)
    np.savez(
        path,
        ids=ids,
        gradients=gradients,
        weights=weights,
        rates=rates,
        shares=shares,
        addons=found["tfa"],
        rows=found["rows"],
    )


def _trained(table, weights, ids, gradients) -> np.ndarray:
    zeros = np.zeros_like(weights)
    table.write_records(0, np.concatenate([weights, zeros, zeros, weights, zeros[:, :1]], axis=1))
    for step, (touched, gradient) in enumerate(zip(ids, gradients, strict=True), start=1):
        unique, where = tf.unique(touched)
        summed = tf.math.unsorted_segment_sum(gradient, where, tf.size(unique))
        table.update(table.lookup(unique), summed, tf.constant(float(step)), tf.constant(1.0))
    return table.read_records(np.arange(ROWS)).numpy()


def _as_the_tpu_is_told(optimizer, average, ids):
    """(rates, shares) of each step, see write_references."""
    now = [tf.constant(0.0)]
    rate = optimizer.tpu(lambda: now[0], lambda step: tf.constant(1.0)).learning_rate
    ledger = Ledger({"user": ROWS}, average)
    rates, shares = [], []
    for step, touched in enumerate(ids.astype(np.int32), start=1):
        now[0] = tf.constant(float(step))
        rates.append(rate().numpy())
        shares.append(ledger.shares("user", touched, tf.constant(step)).numpy())
        ledger.touch("user", touched, tf.constant(step))
    return np.array(rates), np.array(shares)

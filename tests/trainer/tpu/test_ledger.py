"""Averages in a second table against the average of the whole table taken at every step, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.test_averages import RULES, dense_average
from trainer.tpu.ledger import Ledger

pytestmark = pytest.mark.any_python

ROWS, DIM, STEPS, BATCH = 60, 3, 240, 24


def walk(seed: int):
    """Ids [steps, batch], with repeats, and weights [steps + 1, rows, dim] that move where ids are."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, ROWS + 1) ** 1.2
    ids = rng.choice(ROWS, (STEPS, BATCH), p=share / share.sum()).astype(np.int32)
    weights = [rng.normal(size=(ROWS, DIM)).astype(np.float32)]
    for touched in ids:
        after = weights[-1].copy()
        rows = np.unique(touched)
        after[rows] += 0.1 * rng.normal(size=(len(rows), DIM)).astype(np.float32)
        weights.append(after)
    return ids, np.stack(weights)


def train(ledger: Ledger, table: np.ndarray, ids, weights, steps) -> None:
    """What the chips do: the table of averages under SGD(1), repeated ids summed."""
    for step in steps:
        touched = ids[step - 1]
        shares = ledger.shares("t", tf.constant(touched), tf.constant(step)).numpy()
        ledger.touch("t", tf.constant(touched), tf.constant(step))
        summed = np.zeros_like(table)
        np.add.at(summed, touched, (table[touched] - weights[step - 1][touched]) * shares[:, None])
        table -= summed


def averages(ledger: Ledger, rule, table, weight, step: int) -> np.ndarray:
    """All averages as of `step`, from what a checkpoint keeps."""
    rows = np.arange(ROWS)
    kept = ledger.averages("t", rows, weight, table)
    last = tf.cast(ledger.last_steps("t", rows), tf.float32)[:, None]
    return rule.catch_up(kept, weight, last, float(step)).numpy()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_second_table_holds_the_average_of_every_step(rule):
    ids, weights = walk(1)
    ledger, table = Ledger({"t": ROWS}, rule), weights[0].copy()
    for step, expected in enumerate(dense_average(rule, weights), start=1):
        train(ledger, table, ids, weights, [step])
        if step in (1, 2, 57, 58, 59, 101, 150, STEPS):
            got = averages(ledger, rule, table, weights[step], step)
            np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("saved", [30, 120])
def test_averages_go_on_from_a_checkpoint(rule, saved):
    ids, weights = walk(2)
    ledger, table = Ledger({"t": ROWS}, rule), weights[0].copy()
    train(ledger, table, ids, weights, range(1, saved + 1))
    rows = np.arange(ROWS)
    kept = ledger.averages("t", rows, weights[saved], table)
    again = Ledger({"t": ROWS}, rule)
    again.write("t", rows, np.float32(ledger.last_steps("t", rows)))
    again.start(saved)
    # Exactly what was saved, as often as it is saved.
    np.testing.assert_array_equal(again.averages("t", rows, weights[saved], kept), kept)
    table = kept.copy()
    train(again, table, ids, weights, range(saved + 1, STEPS + 1))
    *_, expected = dense_average(rule, weights)
    got = averages(again, rule, table, weights[STEPS], STEPS)
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6)


def test_a_copy_is_as_the_original():
    ledger, other = Ledger({"t": 4}, RULES[0]), Ledger({"t": 4}, RULES[0])
    ledger.write("t", np.array([1, 3]), np.array([5.0, 2.0]))
    ledger.start(5)
    other.copy(ledger)
    np.testing.assert_array_equal(other.last_steps("t", np.arange(4)), [0, 5, 0, 2])
    assert int(other._start) == 5

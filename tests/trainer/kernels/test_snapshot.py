"""Records as of one moment, read while kernels update the table."""

import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from configs.sections.optimizers import LazyAdamConfig
from trainer.averages import Exponential
from trainer.embeddings.engines.native import NativeTable
from trainer.kernels.snapshot import RecordSnapshot
from trainer.optimizers import LazyAdam

ROWS, DIM, PIECE = 20_000, 5, 700
PLENTY = 1 << 30


def made() -> NativeTable:
    table = NativeTable("user", ROWS, DIM, LazyAdam(LazyAdamConfig(learning_rate=0.01)), Exponential(0.9))
    table.initialize(0.1, seed=4)
    return table


def trained(table: NativeTable, first: int, steps: int, rows: int = 900) -> None:
    for step in range(first, first + steps):
        draw = np.random.default_rng(step)
        ids = tf.constant(draw.choice(ROWS, rows, replace=False))
        gradient = tf.constant(draw.normal(size=[rows, DIM]), tf.float32)
        table.update(table.lookup(ids), gradient, tf.constant(float(step)), 1.0)


def records(table: NativeTable) -> np.ndarray:
    return table.read_records(np.arange(ROWS)).numpy()


def joined(snapshot: RecordSnapshot, number: int) -> np.ndarray:
    return np.concatenate([snapshot.read(i) for i in range(-(-number // PIECE))])


@pytest.mark.parametrize("ids", [None, np.arange(3, ROWS, 7), np.array([0, ROWS - 1])])
def test_what_is_read_is_as_of_the_moment(ids):
    table, undisturbed = made(), made()
    for one in (table, undisturbed):
        trained(one, 1, 3)
    wanted = records(table)[slice(None) if ids is None else ids]
    snapshot = table.snapshot(ids, PIECE, PLENTY)
    trained(table, 4, 2)  # rows are updated before, while and after they are read
    trainer = threading.Thread(target=trained, args=(table, 6, 30))
    trainer.start()
    np.testing.assert_array_equal(joined(snapshot, len(wanted)), wanted)
    trainer.join()
    assert snapshot.end() == 0.0
    trained(undisturbed, 4, 32)
    np.testing.assert_array_equal(records(table), records(undisturbed))


def test_two_snapshots_of_different_moments():
    table = made()
    first, wanted = table.snapshot(None, PIECE, PLENTY), records(table)
    trained(table, 1, 2)
    second, later = table.snapshot(None, PIECE, PLENTY), records(table)
    trained(table, 3, 2)
    np.testing.assert_array_equal(joined(second, ROWS), later)
    np.testing.assert_array_equal(joined(first, ROWS), wanted)
    first.end()
    second.end()


def test_updates_wait_for_memory_and_lose_nothing():
    table, block = made(), 64 * (4 * DIM + 1) * 4
    wanted = records(table)
    snapshot = table.snapshot(None, PIECE, 3 * block)
    trainer = threading.Thread(target=trained, args=(table, 1, 20))
    trainer.start()
    trainer.join(1.0)
    assert trainer.is_alive()
    np.testing.assert_array_equal(joined(snapshot, ROWS), wanted)
    trainer.join()
    assert snapshot.end() > 0


def test_tables_share_the_memory_of_a_moment():
    tables, block = (made(), made()), 64 * (4 * DIM + 1) * 4
    wanted = records(tables[0])
    first = tables[0].snapshot(None, PIECE, 3 * block)
    second = tables[1].snapshot(None, PIECE, PLENTY, first)
    trained(tables[1], 1, 1, rows=2)  # in two pieces, of a block each
    trainer = threading.Thread(target=trained, args=(tables[0], 1, 2))
    trainer.start()
    time.sleep(0.1)
    assert trainer.is_alive()
    np.testing.assert_array_equal(joined(second, ROWS), wanted)
    trainer.join(0.1)
    assert trainer.is_alive(), "one table's rows alone are more"
    first_piece = first.read(0)
    first.end()  # the other one outlives it
    trainer.join(300)
    assert second.end() == 0.0
    np.testing.assert_array_equal(first_piece, wanted[:PIECE])


def test_the_end_releases_an_update_that_waits():
    table = made()
    snapshot = table.snapshot(None, PIECE, 1)
    trainer = threading.Thread(target=trained, args=(table, 1, 2))
    trainer.start()
    time.sleep(0.1)
    assert trainer.is_alive()
    snapshot.end()
    trainer.join(300)
    assert not trainer.is_alive()
    other = made()
    trained(other, 1, 2)
    np.testing.assert_array_equal(records(table), records(other))
    with pytest.raises(ValueError, match="has ended"):
        snapshot.read(0)


@pytest.mark.parametrize("number", [-1, 3])
def test_a_piece_that_is_not_there(number):
    snapshot = made().snapshot(np.arange(2 * PIECE + 1), PIECE, PLENTY)
    with pytest.raises(ValueError, match=f"no piece {number}"):
        snapshot.read(number)
    snapshot.end()

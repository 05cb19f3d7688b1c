"""Tensors of several dtypes travel as one, and arrive as they were, bit by bit."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.cluster.packing import Packing, send_batch

COLUMNS = {
    "id": np.array([1, -1, 2**40, 7], np.int64),
    "label": np.array([0.5, np.nan, -0.0, np.inf], np.float32),
    "there": np.array([True, False, True, True]),
    "list": np.arange(12, dtype=np.int64).reshape(4, 3),
    "place": np.array([3, 2, 1, 0], np.int32),
}


def test_what_is_packed_is_unpacked():
    tensors = {name: tf.constant(value) for name, value in COLUMNS.items()}
    packing = Packing(tensors)
    found = packing.unpacked(packing.packed(tensors))
    assert {name: value.dtype for name, value in found.items()} == {n: t.dtype for n, t in tensors.items()}
    for name, value in COLUMNS.items():
        assert found[name].numpy().tobytes() == value.tobytes()


def test_nothing_can_be_packed():
    assert Packing({}).unpacked(Packing({}).packed({})) == {}


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError, match="name: string"):
        Packing({"name": tf.constant(["text"])})


def test_hosts_get_their_rows_whole_columns_and_values():
    tensors = {name: tf.constant(value) for name, value in COLUMNS.items()}
    values = [tf.constant(2**40, tf.int64), tf.constant([[0.5, np.nan], [-0.0, 1.0]])]
    received = send_batch(tensors, ["label"], values, ["CPU:0", "CPU:0"])
    for h, (rows, whole, found) in enumerate(received):
        assert set(rows) == set(COLUMNS) and set(whole) == {"label"}
        assert whole["label"].numpy().tobytes() == COLUMNS["label"].tobytes()
        for name, value in COLUMNS.items():
            assert rows[name].numpy().tobytes() == value[2 * h : 2 * h + 2].tobytes()
        for value, own in zip(values, found, strict=True):
            assert own.dtype == value.dtype and own.shape == value.shape
            assert own.numpy().tobytes() == value.numpy().tobytes()

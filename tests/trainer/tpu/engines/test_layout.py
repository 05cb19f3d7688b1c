"""Where rows are on SparseCores, against TensorFlow's own unshuffling of its checkpoints."""

import numpy as np
import pytest
from tensorflow.python.tpu import tpu_embedding_v3_utils as tensorflow_utils

from trainer.tpu.engines.layout import SparseCoreLayout

pytestmark = pytest.mark.any_python


def layout(**changes) -> SparseCoreLayout:
    """100 rows x 5 on 8 SparseCores of 4 chips, the second table of a stack, rotated."""
    given = {"rows": 100, "dim": 5, "cores": 8, "cores_per_chip": 2, "shard_rows": 48, "width": 8}
    return SparseCoreLayout("stack", **{**given, "offset": 16, "rotation": 3, **changes})


@pytest.mark.parametrize("changes", [{}, {"rotation": 0, "offset": 0, "cores_per_chip": 4}])
def test_rows_are_where_tensorflow_puts_them(changes):
    made = layout(**changes)
    rng = np.random.default_rng(0)
    stacked = rng.normal(size=(made.cores * made.shard_rows, made.width)).astype(np.float32)
    padded_rows = -(-made.rows // made.cores)
    whole = tensorflow_utils.unshuffle_from_sc_to_cpu(
        tensorflow_utils.tf_constant(stacked), made.cores, made.offset, padded_rows, made.rotation
    )
    expected = tensorflow_utils.remove_padding_from_sc(whole, (made.rows, made.dim)).numpy()
    chips = np.split(stacked, made.chips)
    ids = rng.permutation(made.rows)
    np.testing.assert_array_equal(made.read(chips, ids), expected[ids])


def test_written_rows_are_read_again_and_nothing_else_changes():
    made = layout()
    chips = [np.zeros(made.chip_shape, np.float32) for _ in range(made.chips)]
    ids = np.arange(0, 100, 3)
    values = np.random.default_rng(1).normal(size=(len(ids), 5)).astype(np.float32)
    made.write(chips, ids, values)
    np.testing.assert_array_equal(made.read(chips, ids), values)
    assert not made.read(chips, np.setdiff1d(np.arange(100), ids)).any()
    assert sum(np.count_nonzero(chip) for chip in chips) == values.size

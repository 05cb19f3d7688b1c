"""Graphs run as they were traced, for tests of what they compute."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def plain_graphs() -> Iterator[None]:
    """Without TensorFlow's graph optimizer, until the last test of a file.

    It takes longer than all else in a small model's first answer. Tests that start processes, among them the
    replay of one export of each family and index, run graphs as a server does. Not for tests that compare
    with a process that trains, nor with other optimizers of a table: rounding differs.
    """
    import tensorflow as tf

    before = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before})

"""Names the rows of the data that a batch consists of, for batches that training could not use."""

import itertools

import numpy as np
import tensorflow as tf

from configs.columns import LABEL
from trainer.data.batches import TrainData

MOST_ROWS, MOST_FILES = 3, 8  # named in a message


def blame(data: TrainData, step: int) -> str:
    """Where the batch of a step (1: the first) came from, as one clause.

    Names the rows with a value that is not finite; without any, the blocks that the rows came from. Files are
    relative to the dataset's directory; blocks and rows count from 0.
    """
    try:
        [batch] = itertools.islice(data.batches(step - 1).as_numpy_iterator(), 1)
    except tf.errors.OpError as error:
        return f"its rows are unknown because they cannot be read again ({error.message.splitlines()[0]})"
    places = data.origin(step - 1)
    names = data.rows.names
    rows = []
    for column, values in batch.items():
        if values.dtype.kind == "f":
            flat = values.reshape(len(values), -1)
            # A further label is NaN where it is not known.
            wrong = np.isinf(flat) if column.startswith(LABEL) else ~np.isfinite(flat)
            for i in np.flatnonzero(wrong.any(axis=1)):
                file, block, row = places[i]
                bad = flat[i][wrong[i]][0]
                rows.append(f"row {row} of block {block} of {names[file]} ({column} is {bad})")
    if rows:
        return f"its data is not finite: {_some(rows, MOST_ROWS)}"
    return f"its data is finite; it holds rows of {_some(_blocks(names, places), MOST_FILES)}"


def _blocks(names: list[str], places: np.ndarray) -> list[str]:
    """The blocks that rows are from, a text per file."""
    found = []
    for file in dict.fromkeys(places[:, 0]):
        blocks = np.unique(places[places[:, 0] == file, 1])
        word = "block" if len(blocks) == 1 else "blocks"
        found.append(f"{word} {', '.join(map(str, blocks))} of {names[file]}")
    return sorted(found, key=lambda text: text.rpartition(" of ")[2])


def _some(texts: list[str], most: int) -> str:
    more = len(texts) - most
    return "; ".join(texts[:most] + ([f"and {more:,} more"] if more > 0 else []))

"""Rows as TFRecord files of tf.train.Example, written by TensorFlow."""

import numpy as np
import tensorflow as tf


def write_examples(path, rows: list[dict], compression: str = "") -> str:
    """Writes a file.

    Args:
      rows: values by name: text, bytes, numbers, lists of them; None is a missing feature.
      compression: as TFRecordWriter names it.
    """
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for row in rows:
            writer.write(example(row).SerializeToString())
    return str(path)


def example(row: dict) -> tf.train.Example:
    """A row as an Example. Floats that float32 does not hold become text."""
    values = {name: feature(value) for name, value in row.items() if value is not None}
    return tf.train.Example(features=tf.train.Features(feature=values))


def feature(value) -> tf.train.Feature:
    """One value, or a list, in which None is empty text."""
    parts = value if isinstance(value, list) else [value]
    if all(isinstance(part, int) for part in parts):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=parts))
    if all(isinstance(part, float) and _fits(part) for part in parts):
        return tf.train.Feature(float_list=tf.train.FloatList(value=parts))
    texts = ["" if part is None else part if isinstance(part, bytes) else str(part) for part in parts]
    texts = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))


def _fits(value: float) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isnan(value) or float(np.float32(value)) == value)

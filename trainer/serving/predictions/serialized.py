"""Serialized tf.train.Example as inputs of the served ranking model.

A feature of an Example has the name of an input of `score`: keys as bytes_list, numbers, weights and vectors
as float_list. A single value is one value or none; what is left out, or has no values, says nothing. Features
of other names are ignored, as tf.io.parse_example does.
"""

import tensorflow as tf


def parse_examples(
    serialized: tf.Tensor, specs: list[tuple[tf.TensorSpec, tf.Tensor]]
) -> dict[str, tf.Tensor]:
    """Inputs by name, of one row for each Example.

    Args:
      serialized: string [n].
      specs: inputs, as trainer.serving.inputs.kinds.BaseInput.specs.

    It fails as INVALID_ARGUMENT if an Example cannot be parsed, or holds several values where one is
    expected, or other than `dim` values of a vector, or other than one weight for each key.
    """
    wanted = {spec.name: tf.io.RaggedFeature(spec.dtype) for spec, _ in specs}
    if not wanted:
        return {}
    parsed = tf.io.parse_example(serialized, wanted)
    return {spec.name: _dense(spec, nothing, parsed) for spec, nothing in specs}


def _dense(spec: tf.TensorSpec, nothing: tf.Tensor, parsed: dict[str, tf.RaggedTensor]) -> tf.Tensor:
    values = parsed[spec.name]
    lengths = values.row_lengths()
    if spec.shape.rank == 1:
        _check(lengths <= 1, f"{spec.name}: an Example has several values, expected one, found", lengths)
        return values.to_tensor(nothing[0], shape=[None, 1])[:, 0]
    width = spec.shape[1]
    if width is not None:
        message = f"{spec.name}: an Example needs {width} values, found"
        _check((lengths == 0) | (lengths == width), message, lengths)
        return values.to_tensor(nothing[0, 0], shape=[None, width])
    if spec.dtype == tf.string:
        return values.to_tensor("")
    # Weights in the shape of the keys beside them; 1 for all keys of an Example without weights.
    keys = parsed[spec.name.removeprefix("weight_")].row_lengths()
    message = f"{spec.name}: an Example needs a weight for each key, found"
    _check((lengths == 0) | (lengths == keys), message, lengths)
    shape = tf.stack([tf.shape(lengths)[0], tf.reduce_max(tf.concat([keys, [0]], axis=0))])
    return tf.where((lengths == 0)[:, None], 1.0, values.to_tensor(0.0, shape=shape))


def _check(fine: tf.Tensor, message: str, lengths: tf.Tensor) -> None:
    tf.debugging.Assert(tf.reduce_all(fine), [message, lengths])

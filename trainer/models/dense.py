"""Dense layers of models: their initial weights and dropout follow from the seed, not from the replicas."""

import zlib

import tensorflow as tf
import tf_keras

_SEEDS = 2**31 - 2**16
"""Bound of seeds made from names: each layer adds its place, and the ops that receive them take int32."""


def seed_of(seed: int, name: str) -> int:
    """A seed for a named part of a model, from the run's."""
    return (seed + zlib.crc32(name.encode())) % _SEEDS


def dense_layers(
    name: str, units: list[int], width: int, seed: int, activation: str | None, last: str | None
) -> list[tf_keras.layers.Dense]:
    """Built dense layers, one after the other.

    Args:
      name: begins their names.
      units: their widths.
      width: of the first one's input.
      seed: of the first one's initial weights, Glorot uniform; the others count on from it.
      activation: between them.
      last: activation of the last one.
    """
    layers = []
    for i, number in enumerate(units):
        layer = tf_keras.layers.Dense(
            number,
            activation=last if i == len(units) - 1 else activation,
            kernel_initializer=tf_keras.initializers.GlorotUniform(seed=seed + i),
            name=f"{name}_dense_{i}",
        )
        with tf.name_scope(layer.name):  # gives its variables distinct names
            layer.build([None, width])
        layers.append(layer)
        width = number
    return layers


class DenseStack(tf.Module):
    """Dense layers with ReLU, also after the last one, and dropout of the outputs of each.

    Args:
      name: of the stack and, with their place, of its layers; its seed follows from it.
      units: widths of the layers; [] passes inputs through.
      width: of the input.
      seed: of the run.
      dropout: fraction of the outputs set to zero in training.

    Attributes:
      width: of the output.
    """

    def __init__(self, name: str, units: list[int], width: int, seed: int, dropout: float = 0.0):
        super().__init__(name=name)
        self._seed, self._dropout = seed_of(seed, name), dropout
        self.layers = dense_layers(name, units, width, self._seed, "relu", "relu")
        self.width = units[-1] if units else width

    def __call__(self, inputs, step=None, share=None):
        """float32 [batch, width] of inputs [batch, ...].

        Args:
          inputs: float32.
          step: int64 scalar that seeds dropout in training; None otherwise.
          share: as in Model.loss.
        """
        for place, layer in enumerate(self.layers):
            inputs = layer(inputs)
            if step is not None and self._dropout:
                seed = self._seed + place
                inputs *= dropout_mask(tf.ones_like(inputs), self._dropout, step, share, seed)
        return inputs


def dropout_mask(ones, rate: float, step, share, seed: int):
    """0 or 1 / (1 - rate), shaped as `ones`; the mask of the batch does not depend on the replicas.

    Args:
      ones: float32 [rows of this share, ...].
      rate: fraction of zeros.
      step: int64 scalar.
      share: as in Model.loss.
      seed: with the step, fixes the mask.
    """
    seeds = tf.stack([tf.constant(seed, tf.int64), step])
    whole = ones if share is None else tf.tile(ones, [share.count] + [1] * (ones.shape.rank - 1))
    # Philox explicitly, because the default algorithm differs on TPUs.
    mask = tf.nn.experimental.stateless_dropout(whole, rate=rate, seed=seeds, rng_alg="philox")
    return mask if share is None else share.rows_of(mask)


def as_columns(values):
    """Numbers [n] or vectors [n, dim] as float32 [n, width]."""
    values = tf.convert_to_tensor(values, tf.float32)
    return values[:, None] if values.shape.rank == 1 else values

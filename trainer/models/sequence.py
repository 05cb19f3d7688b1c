"""The user tower that reads the history in its order: a causal transformer.

The layers are Keras' own, without their dropout, which would depend on state. Histories are stored oldest
first with padding at the end, so the causal mask alone hides padding from the items, and positions are
counted from the oldest item: a position gives the same in training, where further items follow, as in
serving, where it is the last one.
"""

import itertools

import tensorflow as tf
import tf_keras

from configs.schema import RunConfig
from configs.sections.models import SequenceConfig, TowerConfig
from trainer.models.dense import dense_layers, dropout_mask, seed_of

NORM_EPSILON = 1e-6
"""Added to variances in layer normalization."""
POSITION_STDDEV = 0.02
"""Of the initial vectors of the positions."""


class SequenceTower(tf.Module):
    """Vectors of all positions of histories, each from the items up to it (Kang and McAuley 2018,
    Self-Attentive Sequential Recommendation, section III). Layer normalization comes before each part of a
    block, as in Xiong et al. 2020, and once more at the end.

    Args:
      config: the run.
      options: of the tower; has a sequence.
      seed: for initial weights and dropout.
    """

    def __init__(self, config: RunConfig, options: TowerConfig, seed: int):
        super().__init__(name="user_tower")
        sequence = options.sequence
        assert sequence is not None
        self._dropout, self._seed = sequence.dropout, seed
        width, (length,) = config.input_width("history"), config.length_of("history")
        drawn = tf.random.stateless_normal([length, width], [seed, seed], stddev=POSITION_STDDEV)
        self.positions = tf.Variable(drawn, name="positions")
        self.blocks = [Block(f"block_{i}", sequence, width, length, seed) for i in range(sequence.layers)]
        self.norm = _norm("last_norm", width)
        self.layers = dense_layers("user", options.layers, width, seed, options.activation, None)

    def __call__(self, rows, step=None, share=None):
        """Vectors of positions, float32 [batch, length, width].

        Args:
          rows: float32 [batch, length, dim], of the items, oldest first; padding may have any.
          step: int64 scalar that seeds dropout in training; None otherwise.
          share: as in Model.loss.
        """
        # Rows are scaled as in SASRec, so that positions do not drown them.
        vectors = rows * rows.shape[-1] ** 0.5 + self.positions
        vectors = dropped(vectors, self._dropout, step, share, seed_of(self._seed, "sequence"))
        for block in self.blocks:
            vectors = block(vectors, step, share)
        vectors = self.norm(vectors)
        for layer in self.layers:
            vectors = layer(vectors)
        return vectors


class Block(tf.Module):
    """Causal self-attention and two dense layers.

    Args:
      name: of the block; its seed follows from it.
      options: the tower's sequence.
      width: of its input and output.
      length: positions.
      seed: of the tower.
    """

    def __init__(self, name: str, options: SequenceConfig, width: int, length: int, seed: int):
        super().__init__(name=name)
        self._dropout, self._seed = options.dropout, seed_of(seed, name)
        self.attention_norm, self.dense_norm = _norm(f"{name}_norm_0", width), _norm(f"{name}_norm_1", width)
        # Without biases: the softmax does not see that of the keys, so its gradient would be rounding alone,
        # which Adam turns into steps of full size; the others follow a normalization that has one.
        self.attention = tf_keras.layers.MultiHeadAttention(
            options.heads,
            width // options.heads,
            use_bias=False,
            kernel_initializer=_Glorot(itertools.count(self._seed)),
            name=f"{name}_attention",
        )
        one = tf.zeros([1, length, width])
        with tf.name_scope(self.attention.name):  # gives its variables distinct names
            self.attention(one, one, use_causal_mask=True)
        units = [options.hidden or width, width]
        self.dense = dense_layers(name, units, width, self._seed + 8, "relu", None)

    def __call__(self, inputs, step=None, share=None):
        """float32 [batch, length, width] of inputs of that shape; arguments as SequenceTower."""
        normed = self.attention_norm(inputs)
        added = self.attention(normed, normed, use_causal_mask=True)
        inputs += dropped(added, self._dropout, step, share, self._seed)
        added = self.dense_norm(inputs)
        for layer in self.dense:
            added = layer(added)
        return inputs + dropped(added, self._dropout, step, share, self._seed + 1)


def dropped(values, rate: float, step, share, seed: int):
    """Values [batch, ...] after dropout; unchanged without a step. Arguments as dropout_mask."""
    if step is None or not rate:
        return values
    return values * dropout_mask(tf.ones_like(values), rate, step, share, seed)


def last_positions(values, lengths):
    """The last position of each history, zero for empty ones.

    Args:
      values: float32 [batch, length, width].
      lengths: int [batch], items of each history.

    Returns:
      float32 [batch, width].
    """
    lengths = tf.cast(lengths, tf.int32)
    last = tf.gather(values, tf.maximum(lengths - 1, 0), axis=1, batch_dims=1)
    return tf.where(lengths[:, None] > 0, last, 0.0)


def next_items(history, item):
    """The item that follows each position: that of the next one, and the row's own after the last.

    Args:
      history: int64 [batch, length], oldest first, padded with -1.
      item: int64 [batch].

    Returns:
      int64 [batch, length]; padding has the row's own item, so that it touches no other row of a table.
    """
    shifted = tf.concat([history[:, 1:], -tf.ones_like(history[:, :1])], axis=1)
    return tf.where(shifted < 0, item[:, None], shifted)


def _norm(name: str, width: int) -> tf_keras.layers.LayerNormalization:
    layer = tf_keras.layers.LayerNormalization(epsilon=NORM_EPSILON, name=name)
    with tf.name_scope(name):
        layer.build([None, None, width])
    return layer


class _Glorot(tf_keras.initializers.Initializer):
    """Glorot uniform of a matrix whose output or input is divided among heads, each with the next seed.

    Keras makes the kernels of an attention layer with copies of one initializer, which would give queries,
    keys and values equal weights.
    """

    def __init__(self, seeds: itertools.count):
        self._seeds = seeds

    def __call__(self, shape, dtype=None, **unused):
        width = shape[0] if shape[0] == shape[1] * shape[2] else shape[-1]
        drawn = tf_keras.initializers.GlorotUniform(seed=next(self._seeds))([width, width], dtype)
        return tf.reshape(drawn, shape)

    def get_config(self):
        return {"seeds": self._seeds}

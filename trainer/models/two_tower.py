"""Retrieval by two towers and a dot product, trained by in-batch sampled softmax."""

import tensorflow as tf
import tf_keras

from configs.schema import RunConfig
from trainer.losses import in_batch_softmax
from trainer.models.base import Model, row_weights, split_last


class TwoTower(Model):
    """See configs.models.TwoTower for the options.

    Args:
      config: the run.
      item_counts: float32 [item table rows], train rows of each item, for the logQ correction.
      scales: (mean, standard deviation) of each numeric feature, which towers see standardized.
    """

    def __init__(self, config: RunConfig, item_counts, scales: dict):
        super().__init__(name="two_tower")
        self._options, self._scales = config.model, scales
        self._bias_in_rows = config.item_rows_carry_bias
        # An item without train rows is drawn in no batch; the floor keeps the logarithm finite.
        counts = tf.maximum(tf.cast(item_counts, tf.float32), 1.0)
        self._log_q = tf.math.log(counts / tf.reduce_sum(counts))
        seed = config.train.seed
        self._user = Tower(config, self._options.user_tower, "user", seed, scales)
        self._item = Tower(config, self._options.item_tower, "item", seed + 100, scales)

    @property
    def user_inputs(self):
        return self._options.user_tower.inputs

    @property
    def item_inputs(self):
        return self._options.item_tower.inputs

    def lookups(self, batch, step):
        return {name: batch[name] for name in self._options.inputs}

    def columns(self, batch):
        weight = row_weights(batch)
        columns = {"item": batch["item"], "weight": weight, "log_q": tf.zeros_like(weight)}
        if self._options.loss.logq:
            columns["log_q"] = tf.gather(self._log_q, batch["item"])
        return columns | {name: batch[name] for name in self._options.inputs if name in self._scales}

    def loss(self, activations, columns, step, share=None):
        user = self._user_vectors(activations, columns, step, share)
        item = self._item_vectors(activations, columns, step, share)
        options = self._options.loss
        item_ids, log_q, weight = (columns[name] for name in ("item", "log_q", "weight"))
        mask = options.mask_accidental_hits
        return in_batch_softmax(user, item, item_ids, log_q, weight, options.temperature, mask, share)

    def user_vectors(self, activations, features):
        return self._user_vectors(activations, features, None)

    def item_vectors(self, activations, features):
        return self._item_vectors(activations, features, None)

    def _user_vectors(self, activations, features, step, share=None):
        if self._bias_in_rows and "history" in activations and self._options.history.table == "item":
            activations = {**activations, "history": split_last(activations["history"])[0]}
        vector = self._user(activations, features, step, share)
        if self._options.normalize:
            vector = tf.math.l2_normalize(vector, axis=-1)
        if self._options.item_bias:
            vector = tf.concat([vector, tf.ones([tf.shape(vector)[0], 1])], axis=1)
        return vector

    def _item_vectors(self, activations, features, step, share=None):
        vector = self._item(activations, features, step, share)
        if not self._options.normalize:
            return vector
        if not self._options.item_bias:
            return tf.math.l2_normalize(vector, axis=-1)
        direction, bias = split_last(vector)
        return tf.concat([tf.math.l2_normalize(direction, axis=-1), bias], axis=1)


class Tower(tf.Module):
    """Joins inputs and passes them through dense layers.

    Args:
      config: the run, for widths.
      options: configs.models.TowerConfig.
      side: user or item.
      seed: of the initial weights and of dropout.
      scales: (mean, standard deviation) of each numeric feature.
    """

    def __init__(self, config: RunConfig, options, side: str, seed: int, scales: dict):
        super().__init__(name=f"{side}_tower")
        self._options, self._seed, self._scales = options, seed, scales
        width = sum(config.input_width(name) for name in options.inputs)
        if options.combine == "sum":
            width = config.input_width(options.inputs[0])
        self.layers = []
        for i, units in enumerate(options.layers):
            layer = tf_keras.layers.Dense(
                units,
                activation=None if i == len(options.layers) - 1 else options.activation,
                kernel_initializer=tf_keras.initializers.GlorotUniform(seed=seed + i),
                name=f"{side}_dense_{i}",
            )
            with tf.name_scope(layer.name):  # so that its variables can be told apart
                layer.build([None, width])
            self.layers.append(layer)
            width = units

    def __call__(self, activations, features, step, share=None):
        """Vectors float32 [batch, width]; `step` (int64 scalar) seeds dropout while training, else None;
        `share` as Model.loss."""
        inputs = [
            activations[name] if name in activations else self._standardized(name, features[name])
            for name in self._options.inputs
        ]
        vector = tf.concat(inputs, axis=1) if self._options.combine == "concat" else tf.add_n(inputs)
        if step is not None and self._options.dropout:
            vector *= self._dropout_mask(tf.ones_like(vector), step, share)
        for layer in self.layers:
            vector = layer(vector)
        return vector

    def _dropout_mask(self, ones, step, share):
        """0 or 1 / (1 - rate), shaped as `ones`: drawn for the whole batch, whoever works on it."""
        seed = tf.stack([tf.constant(self._seed, tf.int64), step])
        whole = ones if share is None else tf.tile(ones, [share.count, 1])
        # Philox by name: a TPU would draw by another algorithm.
        mask = tf.nn.experimental.stateless_dropout(
            whole, rate=self._options.dropout, seed=seed, rng_alg="philox"
        )
        return mask if share is None else share.rows_of(mask)

    def _standardized(self, name, value):
        mean, stddev = self._scales[name]
        return ((tf.cast(value, tf.float32) - mean) / stddev)[:, None]

"""Retrieval by two towers and a dot product, trained by in-batch sampled softmax."""

import tensorflow as tf
import tf_keras

from configs.schema import RunConfig
from configs.sections.models import DRAWN
from trainer.models.base import Model, row_weights, split_last
from trainer.models.drawn import Pool
from trainer.models.losses import in_batch_softmax


class TwoTower(Model):
    """See configs.sections.models.TwoTowerConfig for the options.

    Args:
      config: the run.
      item_counts: float32 [item table rows], positive train rows of each item, for the logQ
        correction.
      scales: (mean, standard deviation) of each numeric feature, which towers see standardized.
      item_features: side features [item table rows] of items, for those that are drawn.
    """

    def __init__(self, config: RunConfig, item_counts, scales: dict, item_features: dict):
        super().__init__(name="two_tower")
        self._options, self._scales = config.model, scales
        self._bias_in_rows = config.item_rows_carry_bias
        self._features, self._extra = item_features, config.model.loss.extra_negatives
        seed = config.train.seed
        self._pool = Pool(item_counts, seed)
        self._log_q = self._log_probability(item_counts, config.train.batch_size)
        self._user = Tower(config, self._options.user_tower, "user", seed, scales)
        self._item = Tower(config, self._options.item_tower, "item", seed + 100, scales)

    def _log_probability(self, item_counts, batch_size: int):
        """log of the share of each item among the candidates that are to be expected, float32 [rows]: those
        of the batch by their train rows, the drawn ones uniform (Yang et al. 2020, Mixed Negative Sampling
        for Learning Two-tower Neural Networks in Recommendations, section 3.2)."""
        # An item without train rows is in no batch; the floor keeps the logarithm finite.
        counts = tf.maximum(tf.cast(item_counts, tf.float32), 1.0)
        probability = counts / tf.reduce_sum(counts)
        if self._extra:
            uniform = tf.where(tf.convert_to_tensor(item_counts) > 0, 1.0 / self._pool.size, 0.0)
            drawn = self._extra / (batch_size + self._extra)
            probability = (1.0 - drawn) * probability + drawn * uniform
        return tf.math.log(probability)

    @property
    def user_inputs(self):
        return self._options.user_tower.inputs

    @property
    def item_inputs(self):
        return self._options.item_tower.inputs

    def lookups(self, batch, step):
        return {name: batch[name] for name in self._options.inputs} | self._drawn(step)

    def _drawn(self, step):
        """Inputs of the items that are drawn at a step, [extra]."""
        if not self._extra:
            return {}
        ids = self._pool.draw([self._extra], step)
        others = {name: tf.gather(self._features[name], ids) for name in self.item_inputs if name != "item"}
        return {DRAWN + name: value for name, value in {"item": ids, **others}.items()}

    def columns(self, batch, step):
        weight = row_weights(batch)
        columns = {"item": batch["item"], "weight": weight, "log_q": tf.zeros_like(weight)}
        if self._options.loss.logq:
            columns["log_q"] = tf.gather(self._log_q, batch["item"])
        columns |= {name: batch[name] for name in self._options.inputs if name in self._scales}
        if not self._extra:
            return columns
        drawn = self._drawn(step)
        columns[DRAWN + "log_q"] = tf.zeros([self._extra])
        if self._options.loss.logq:
            columns[DRAWN + "log_q"] = tf.gather(self._log_q, drawn[DRAWN + "item"])
        needed = [DRAWN + name for name in ("item", *self._scales)]
        return columns | {name: value for name, value in drawn.items() if name in needed}

    def loss(self, activations, columns, step, share=None):
        user = self._user_vectors(activations, columns, step, share)
        item = self._item_vectors(activations, columns, step, share)
        options = self._options.loss
        item_ids, log_q, weight = (columns[name] for name in ("item", "log_q", "weight"))
        extra = self._extra_candidates(activations, columns, step, share) if self._extra else None
        mask = options.mask_accidental_hits
        return in_batch_softmax(user, item, item_ids, log_q, weight, options.temperature, mask, share, extra)

    def _extra_candidates(self, activations, columns, step, share):
        """(vectors, ids, log_q) of the drawn items."""
        rows, features = (
            {name.removeprefix(DRAWN): value for name, value in values.items() if name.startswith(DRAWN)}
            for values in (activations, columns)
        )
        vectors = self._item_vectors(rows, features, step, share, drawn=True)
        return vectors, features["item"], features["log_q"]

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

    def _item_vectors(self, activations, features, step, share=None, drawn=False):
        vector = self._item(activations, features, step, share, drawn)
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
      options: configs.sections.models.TowerConfig.
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

    def __call__(self, activations, features, step, share=None, drawn=False):
        """Vectors float32 [batch, width]; `step` (int64 scalar) seeds dropout while training, else None;
        `share` as Model.loss; `drawn`: whether these are the drawn items, which drop values of their own."""
        inputs = [
            activations[name] if name in activations else self._standardized(name, features[name])
            for name in self._options.inputs
        ]
        vector = tf.concat(inputs, axis=1) if self._options.combine == "concat" else tf.add_n(inputs)
        if step is not None and self._options.dropout:
            vector *= self._dropout_mask(tf.ones_like(vector), step, share, self._seed + 50 * drawn)
        for layer in self.layers:
            vector = layer(vector)
        return vector

    def _dropout_mask(self, ones, step, share, seed):
        """0 or 1 / (1 - rate), shaped as `ones`: drawn for the whole batch, however it is shared."""
        seed = tf.stack([tf.constant(seed, tf.int64), step])
        whole = ones if share is None else tf.tile(ones, [share.count, 1])
        # Philox by name: a TPU would draw by another algorithm.
        mask = tf.nn.experimental.stateless_dropout(
            whole, rate=self._options.dropout, seed=seed, rng_alg="philox"
        )
        return mask if share is None else share.rows_of(mask)

    def _standardized(self, name, value):
        mean, stddev = self._scales[name]
        return ((tf.cast(value, tf.float32) - mean) / stddev)[:, None]

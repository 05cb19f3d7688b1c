"""Two-tower retrieval model, trained with in-batch sampled softmax."""

from collections.abc import Mapping

import tensorflow as tf

from configs.schema import RunConfig
from configs.sections.models import DRAWN, TowerConfig, TwoTowerConfig
from trainer.data.lookups import FeatureLookup
from trainer.models.base import RetrievalModel, inputs_of, row_weights, split_last
from trainer.models.dense import as_columns, dense_layers, dropout_mask
from trainer.models.drawn import Pool
from trainer.models.losses import in_batch_softmax

_ID_SEED = 200
"""Added to the run's seed where ids are dropped; the towers add up to 150 where they drop inputs."""


class TwoTower(RetrievalModel):
    """See configs.sections.models.TwoTowerConfig for the options.

    Args:
      config: the run.
      item_counts: [item table rows], positive train rows of each item, for the logQ correction.
      drawn_items: the features of items, for sampled ones; None: the model samples none, or reads none.
      unknown_rows: (first out-of-vocabulary row, number of them) of the tables user and item, for id_dropout.
    """

    gathered_columns = ("item", "log_q", "weight", DRAWN + "item", DRAWN + "log_q")

    def __init__(
        self,
        config: RunConfig,
        item_counts,
        drawn_items: FeatureLookup | None = None,
        unknown_rows: Mapping[str, tuple[int, int]] | None = None,
    ):
        super().__init__(name="two_tower")
        options = config.model
        assert isinstance(options, TwoTowerConfig) and options.user_tower is not None
        self._options = options
        self._dense = [name for name in options.inputs if name not in config.table_of_input]
        self._bias_in_rows = config.item_rows_carry_bias
        self._drawn_items, self._extra = drawn_items, options.loss.extra_negatives
        seed = config.train.seed
        self._seed, self._unknown_rows = seed, unknown_rows or {}
        self._pool = Pool(item_counts, seed)
        self._log_q = self._log_probability(item_counts, options.loss.group or config.train.batch_size)
        self._user = Tower(config, options.user_tower, "user", seed)
        self._item = Tower(config, options.item_tower, "item", seed + 100)

    def _log_probability(self, item_counts, rows: int):
        """Log of each item's expected share of a row's candidates, float32 [items].

        Items of the batch follow the train rows, sampled items are uniform (Yang et al. 2020, Mixed Negative
        Sampling for Learning Two-tower Neural Networks in Recommendations, section 3.2). Any row of the batch
        is as likely as others to be in a group, so each of its N places has item j with probability
        p_j = rows of j / all train rows, as in the batch. With m sampled items out of M, j is expected
        N p_j + m / M times among N + m candidates: q_j = (N p_j + m / M) / (N + m).

        Args:
          item_counts: as for the class.
          rows: N, of the batch or of a group.
        """
        # Items without train rows are in no batch; the minimum keeps the logarithm finite.
        counts = tf.maximum(tf.cast(item_counts, tf.float32), 1.0)
        probability = counts / tf.reduce_sum(counts)
        if self._extra:
            uniform = tf.where(tf.convert_to_tensor(item_counts) > 0, 1.0 / self._pool.size, 0.0)
            drawn = self._extra / (rows + self._extra)
            probability = (1.0 - drawn) * probability + drawn * uniform
        return tf.math.log(probability)

    @property
    def user_inputs(self):
        return self._options.user_tower.inputs

    @property
    def item_inputs(self):
        return self._options.item_tower.inputs

    def lookups(self, batch, step):
        ids = inputs_of(batch, self._options.inputs) | self._drawn(step)
        user, item = self._options.user_tower.id_dropout, self._options.item_tower.id_dropout
        shares = {"user": user, "item": item, DRAWN + "item": item}
        for number, (name, share) in enumerate(shares.items()):
            if share and name in ids:
                unknown = self._unknown_rows[name.removeprefix(DRAWN)]
                ids[name] = _without_some(ids[name], unknown, share, self._seed + _ID_SEED + number, step)
        return ids

    def _drawn(self, step):
        """Inputs of the items sampled at a step, each [extra, ...]."""
        if not self._extra:
            return {}
        ids = self._pool.draw([self._extra], step)
        features = self._drawn_items.of(ids) if self._drawn_items else {}
        return {DRAWN + name: value for name, value in {"item": ids, **features}.items()}

    def columns(self, batch, step):
        weight = row_weights(batch)
        columns = {"item": batch["item"], "weight": weight, "log_q": tf.zeros_like(weight)}
        if self._options.loss.logq:
            columns["log_q"] = tf.gather(self._log_q, batch["item"])
        columns |= {name: batch[name] for name in self._dense}
        if not self._extra:
            return columns
        drawn = self._drawn(step)
        columns[DRAWN + "log_q"] = tf.zeros([self._extra])
        if self._options.loss.logq:
            columns[DRAWN + "log_q"] = tf.gather(self._log_q, drawn[DRAWN + "item"])
        needed = [DRAWN + name for name in ("item", *self._dense)]
        return columns | {name: value for name, value in drawn.items() if name in needed}

    def loss(self, activations, columns, step, share=None):
        user = self._user_vectors(activations, columns, step, share)
        item = self._item_vectors(activations, columns, step, share)
        options = self._options.loss
        item_ids, log_q, weight = (columns[name] for name in ("item", "log_q", "weight"))
        extra = self._extra_candidates(activations, columns, step, share) if self._extra else None
        mask = options.mask_accidental_hits
        return in_batch_softmax(
            *(user, item, item_ids, log_q, weight, options.temperature, mask, share, extra),
            *(options.group, options.precision),
        )

    def _extra_candidates(self, activations, columns, step, share):
        """(vectors, ids, log_q) of the sampled items."""
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
    """Combines inputs and applies dense layers.

    Args:
      config: the run, for widths.
      options: of this tower.
      side: user or item.
      seed: for initial weights and dropout.
    """

    def __init__(self, config: RunConfig, options: TowerConfig, side: str, seed: int):
        super().__init__(name=f"{side}_tower")
        self._options, self._seed = options, seed
        width = sum(config.input_width(name) for name in options.inputs)
        if options.combine == "sum":
            width = config.input_width(options.inputs[0])
        self.layers = dense_layers(side, options.layers, width, seed, options.activation, None)

    def __call__(self, activations, features, step, share=None, drawn=False):
        """Returns vectors, float32 [batch, width].

        Args:
          activations, features: as in Model.
          step: int64 scalar that seeds dropout in training; None otherwise.
          share: as in Model.loss.
          drawn: whether these are the sampled items, which have a dropout seed of their own.
        """
        inputs = [
            activations[name] if name in activations else as_columns(features[name])
            for name in self._options.inputs
        ]
        vector = tf.concat(inputs, axis=1) if self._options.combine == "concat" else tf.add_n(inputs)
        if step is not None and self._options.dropout:
            seed = self._seed + 50 * drawn
            vector *= dropout_mask(tf.ones_like(vector), self._options.dropout, step, share, seed)
        for layer in self.layers:
            vector = layer(vector)
        return vector


def _without_some(ids, unknown: tuple[int, int], share: float, seed: int, step):
    """Ids [n], a random share of them replaced by an out-of-vocabulary row: of several, always the same one.

    They are drawn on the host for the whole batch, so they do not depend on the replicas.
    """
    seeds = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    shape = ids.shape if ids.shape.is_fully_defined() else tf.shape(ids)
    drawn = tf.random.stateless_uniform(shape, seed=seeds, alg="philox")
    first, number = unknown
    return tf.where(drawn < share, first + ids % number, ids)

"""Two-tower retrieval model; what it is trained with is in trainer/models/tower_losses.py."""

from collections.abc import Mapping

import tensorflow as tf

from configs.schema import RunConfig
from configs.sections.models import DRAWN, TowerConfig, TwoTowerConfig
from trainer.data.lookups import FeatureLookup
from trainer.models.base import RetrievalModel, inputs_of, row_weights, split_last
from trainer.models.dense import as_columns, dense_layers, dropout_mask
from trainer.models.sequence import SequenceTower, last_positions, next_items
from trainer.models.tower_losses import TOWER_LOSSES

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
        self._drawn_items = drawn_items
        seed = config.train.seed
        self._seed, self._unknown_rows = seed, unknown_rows or {}
        self._loss = TOWER_LOSSES[options.loss.kind](config, item_counts)
        self.gathered_columns = self._loss.gathered_columns
        self._sequence = None
        if options.sequence:
            self._sequence = SequenceTower(config, options.user_tower, seed)
        else:
            self._user = Tower(config, options.user_tower, "user", seed)
        self._item = Tower(config, options.item_tower, "item", seed + 100)

    @property
    def user_inputs(self):
        return self._options.user_tower.inputs

    @property
    def item_inputs(self):
        return self._options.item_tower.inputs

    def lookups(self, batch, step):
        own = self._options.inputs if self._loss.reads_targets else self._options.user_tower.inputs
        ids = inputs_of(self._targets(batch), own) | self._drawn(step)
        user, item = self._options.user_tower.id_dropout, self._options.item_tower.id_dropout
        shares = {"user": user, "item": item, DRAWN + "item": item}
        for number, (name, share) in enumerate(shares.items()):
            if share and name in ids:
                unknown = self._unknown_rows[name.removeprefix(DRAWN)]
                ids[name] = _without_some(ids[name], unknown, share, self._seed + _ID_SEED + number, step)
        return ids

    def _targets(self, batch):
        """The batch, in which `item` has the target of each position if the history is read in its order."""
        if self._sequence is None:
            return batch
        return batch | {"item": tf.reshape(next_items(batch["history"], batch["item"]), [-1])}

    def _drawn(self, step):
        """Inputs of the items drawn at a step, each [n, ...]."""
        ids = self._loss.drawn(step)
        if ids is None:
            return {}
        features = self._drawn_items.of(ids) if self._drawn_items else {}
        return {DRAWN + name: value for name, value in {"item": ids, **features}.items()}

    def columns(self, batch, step):
        weight, there, drawn = row_weights(batch), None, self._drawn(step)
        columns = {name: batch[name] for name in self._dense}
        if self._sequence is not None:
            known = batch["history"] >= 0
            there = tf.reshape(known, [-1])
            weight = tf.reshape(tf.where(known, weight[:, None], 0.0), [-1])
        item = self._targets(batch)["item"]
        columns |= {DRAWN + name: drawn[DRAWN + name] for name in self._dense if DRAWN + name in drawn}
        columns |= self._loss.columns(item, weight, there, drawn.get(DRAWN + "item"))
        return columns

    def loss(self, activations, columns, step, share=None):
        user = self._user_vectors(activations, columns, step, share)
        item = drawn = None
        if self._loss.reads_targets:
            item = self._item_vectors(activations, columns, step, share)
        if self._options.loss.drawn(1) is not None:
            drawn = self._drawn_vectors(activations, columns, step, share)
        return self._loss.loss(user, item, drawn, columns, share)

    def _drawn_vectors(self, activations, columns, step, share):
        rows, features = (
            {name.removeprefix(DRAWN): value for name, value in values.items() if name.startswith(DRAWN)}
            for values in (activations, columns)
        )
        return self._item_vectors(rows, features, step, share, drawn=True)

    def user_vectors(self, activations, features):
        return self._user_vectors(activations, features, None)

    def item_vectors(self, activations, features):
        return self._item_vectors(activations, features, None)

    def _user_vectors(self, activations, features, step, share=None):
        if self._bias_in_rows and "history" in activations and self._options.history.table == "item":
            activations = {**activations, "history": split_last(activations["history"])[0]}
        if self._sequence is None:
            vector = self._user(activations, features, step, share)
        else:
            vector = self._read(activations["history"], features, step, share)
        if self._options.normalize:
            vector = tf.math.l2_normalize(vector, axis=-1)
        if self._options.item_bias:
            vector = tf.concat([vector, tf.ones([tf.shape(vector)[0], 1])], axis=1)
        return vector

    def _read(self, history, features, step, share):
        """Vectors of all positions in training, one after the other; without a step of the last ones."""
        positions = self._sequence(history, step, share)
        if step is not None:
            return tf.reshape(positions, [-1, positions.shape[-1]])
        return last_positions(positions, tf.math.count_nonzero(features["history"] >= 0, axis=1))

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

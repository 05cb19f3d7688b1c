"""Logistic matrix factorization: score u . v + b_u + b_i, with biases in the last column of the rows."""

from collections.abc import Mapping

import tensorflow as tf

from configs.schema import RunConfig
from configs.sections.models import DRAWN, DotBiasConfig
from trainer.data.lookups import FeatureLookup
from trainer.models.base import Model, row_weights, split_last
from trainer.models.drawn import Pool
from trainer.models.losses import logistic


class DotBias(Model):
    """See configs.sections.models.DotBiasConfig for the options.

    Args:
      config: the run.
      item_counts: [item table rows], positive train rows of each item; items that have any are sampled as
        negatives.
      drawn_items, unknown_rows: unused; the model has no features and always reads ids.
    """

    def __init__(
        self,
        config: RunConfig,
        item_counts,
        drawn_items: FeatureLookup | None = None,
        unknown_rows: Mapping[str, tuple[int, int]] | None = None,
    ):
        super().__init__(name="dot_bias")
        assert isinstance(config.model, DotBiasConfig)
        self._options = config.model
        self._pool = Pool(item_counts, config.train.seed)

    user_inputs = ["user"]
    item_inputs = ["item"]

    def lookups(self, batch, step):
        ids = {"user": batch["user"], "item": batch["item"]}
        if self._options.negatives:
            shape = [tf.shape(batch["item"])[0], self._options.negatives]
            ids[DRAWN + "item"] = self._pool.draw(shape, step)
        return ids

    def columns(self, batch, step):
        labels = batch["label"]
        if self._options.label_threshold is not None:
            labels = tf.cast(labels >= self._options.label_threshold, tf.float32)
        else:
            # For labels outside 0..1 the loss has no lower bound, so training would diverge silently. NaN
            # passes: the loss becomes NaN, which is detected later.
            outside = tf.reduce_any((labels < 0.0) | (labels > 1.0))
            tf.debugging.Assert(~outside, ["a label is outside 0..1; set model.label_threshold"])
        return {"label": labels, "weight": row_weights(batch)}

    def loss(self, activations, columns, step, share=None):
        user = self.user_vectors(activations, {})
        labels, weight = columns["label"][:, None], columns["weight"][:, None]
        logits = tf.reduce_sum(user * self.item_vectors(activations, {}), axis=1, keepdims=True)
        if self._options.negatives:
            other = self.item_vectors({"item": activations[DRAWN + "item"]}, {})
            logits = tf.concat([logits, tf.einsum("bd,bnd->bn", user, other)], axis=1)
            labels = tf.concat([labels, tf.zeros_like(logits[:, 1:])], axis=1)
            weight = tf.broadcast_to(weight, tf.shape(logits))
        return logistic(logits, labels, weight, share)

    def user_vectors(self, activations, features):
        rows = activations["user"]
        return tf.concat([rows, tf.ones([tf.shape(rows)[0], 1])], axis=1)

    def item_vectors(self, activations, features):
        rows = activations["item"]
        vector, bias = split_last(rows)
        return tf.concat([vector, tf.ones_like(bias), bias], axis=-1)

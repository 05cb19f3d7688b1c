"""What the training step, evaluation and export ask of a model."""

import abc

import tensorflow as tf


class Model(tf.Module, abc.ABC):
    """A model scores a user and an item by the dot product of two vectors.

    `activations` is a dict of pooled embeddings by input name, float32 [batch, dim]; `features` holds the
    numeric inputs, float32 [batch].
    """

    @abc.abstractmethod
    def lookups(self, batch: dict, step) -> dict:
        """Ids to look up for a training batch, by input name; `step` (int64 scalar) seeds sampled ids."""

    @abc.abstractmethod
    def columns(self, batch: dict, step) -> dict:
        """What `loss` needs beside embeddings, by name, [batch, ...] or, of drawn items, [extra, ...]: looked
        up and checked where the data is, because a TPU has neither large tables of constants nor assertions.
        `step`: as in lookups."""

    @abc.abstractmethod
    def loss(self, activations: dict, columns: dict, step, share=None):
        """Training loss, float32 scalar; of one replica's rows when a trainer.training.replicas.Share is
        given, whose losses add up to that of the whole batch. `columns`: from the method of that name."""

    @abc.abstractmethod
    def user_vectors(self, activations: dict, features: dict):
        """float32 [batch, vector_dim]; a constant column carries what is added to the dot product."""

    @abc.abstractmethod
    def item_vectors(self, activations: dict, features: dict):
        """float32 [batch, vector_dim]."""

    @property
    @abc.abstractmethod
    def user_inputs(self) -> list[str]:
        """Inputs of the user's side."""

    @property
    @abc.abstractmethod
    def item_inputs(self) -> list[str]:
        """Inputs of the item's side."""


def row_weights(batch: dict):
    """Weights of the rows, float32 [batch]; ones when the data has none."""
    return batch["weight"] if "weight" in batch else tf.ones_like(batch["label"])


def split_last(rows):
    """Values [..., n] as ([..., n - 1], [..., 1]).

    Not as slices: their gradients, zeros around a part, took more than half of a step of dot_bias.
    """
    return tf.split(rows, [rows.shape[-1] - 1, 1], axis=-1)

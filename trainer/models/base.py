"""The interface of models, for the training step, evaluation and export."""

import abc
from collections.abc import Collection

import tensorflow as tf

from trainer.data.features import WEIGHT


class Model(tf.Module, abc.ABC):
    """What all models share: what they look up for a batch, and their loss.

    Attributes:
      gathered_columns: names of `columns` that `loss` gathers from all shares, unchanged. Hosts of a
        cluster get them whole with the batch; others are exchanged where `loss` gathers them.

    In all methods, `activations` has the pooled embeddings by input name, float32 [batch, dim], and
    `features` the inputs without a table by name: numbers float32 [batch], vectors float32 [batch, dim].
    """

    gathered_columns: tuple[str, ...] = ("weight",)

    @abc.abstractmethod
    def lookups(self, batch: dict, step) -> dict:
        """Ids to look up for a training batch, by input name, and weights of lists as <name>/weight; `step`
        (int64 scalar) seeds sampled items."""

    @abc.abstractmethod
    def columns(self, batch: dict, step) -> dict:
        """The other arrays that `loss` needs, by name: [batch, ...] or, for sampled items, [extra, ...].

        They are looked up and checked on the host, because a TPU has neither large constants nor assertions.
        `step`: as in `lookups`.
        """

    @abc.abstractmethod
    def loss(self, activations: dict, columns: dict, step, share=None):
        """Training loss, float32 scalar.

        Args:
          activations: of the batch.
          columns: from the method `columns`.
          step: as in `lookups`.
          share: trainer.training.replicas.Share if the arrays are one replica's rows; the losses of all
            replicas add up to that of the batch. None if they are the whole batch.
        """


class RetrievalModel(Model):
    """Scores a user and an item by the dot product of two vectors."""

    @abc.abstractmethod
    def user_vectors(self, activations: dict, features: dict):
        """float32 [batch, vector_dim]; for a bias in the item vector, one column is constant 1."""

    @abc.abstractmethod
    def item_vectors(self, activations: dict, features: dict):
        """float32 [batch, vector_dim]."""

    @property
    @abc.abstractmethod
    def user_inputs(self) -> list[str]:
        """Inputs of `user_vectors`."""

    @property
    @abc.abstractmethod
    def item_inputs(self) -> list[str]:
        """Inputs of `item_vectors`."""


class RankingModel(Model):
    """Predicts labels of rows.

    Attributes:
      tasks: names of the predictions, in order.
    """

    tasks: list[str]

    @abc.abstractmethod
    def predictions(self, activations: dict, features: dict) -> dict:
        """What is served, by task: float32 [batch], probabilities with loss bce, corrected for
        dataset.keep_negatives, and numbers with mse."""

    @property
    @abc.abstractmethod
    def inputs(self) -> list[str]:
        """Inputs of `predictions`."""


def inputs_of(batch: dict, names: Collection[str]) -> dict:
    """The inputs of these names and the weights of lists among them."""
    weights = [name + WEIGHT for name in names if name + WEIGHT in batch]
    return {name: batch[name] for name in (*names, *weights)}


def row_weights(batch: dict):
    """Weights of the rows, float32 [batch]; ones if the data has none."""
    return batch["weight"] if "weight" in batch else tf.ones_like(batch["label"])


def split_last(rows):
    """Values [..., n] as ([..., n - 1], [..., 1]).

    tf.split instead of slices: the gradients of slices, padded with zeros, took more than half of a dot_bias
    step.
    """
    return tf.split(rows, [rows.shape[-1] - 1, 1], axis=-1)

"""Ranking model: DLRM, DCN-v2 or plain dense layers over any features, for one or several tasks."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from configs.columns import label_column
from configs.rules.ranking import corrected_tasks
from configs.schema import RunConfig
from configs.sections.ranking import RankingConfig
from trainer.data.lookups import FeatureLookup
from trainer.models.base import RankingModel, inputs_of, row_weights
from trainer.models.dense import DenseStack, as_columns
from trainer.models.heads import HEADS, Head
from trainer.models.interactions import INTERACTIONS, Interaction
from trainer.models.losses import logistic, squared


class Objective(NamedTuple):
    """What a task's loss makes of its logit."""

    loss: Callable
    """(logits, labels, weights, share) -> float32 scalar, a weighted mean over rows."""
    prediction: Callable
    """Logits -> predictions."""
    bounded: bool
    """Whether labels must be in 0..1."""


OBJECTIVES = {
    "bce": Objective(logistic, tf.sigmoid, bounded=True),
    "mse": Objective(squared, tf.identity, bounded=False),
}


class Ranking(RankingModel):
    """See configs.sections.ranking.RankingConfig for the options.

    The loss is the sum over the tasks of weight times the mean of the task's loss over its rows, which are
    those with a label (and, with `where`, a positive other label), weighted by the rows' weights. So a task
    with few rows, as conversion after click, weighs as much as its weight says.

    Args:
      config: the run.
      item_counts, drawn_items, unknown_rows: unused; no negatives are sampled, and no ids dropped.
    """

    def __init__(
        self,
        config: RunConfig,
        item_counts,
        drawn_items: FeatureLookup | None = None,
        unknown_rows: Mapping[str, tuple[int, int]] | None = None,
    ):
        super().__init__(name="ranking")
        options, seed = config.model, config.train.seed
        assert isinstance(options, RankingConfig)
        self._options, self._tasks = options, options.tasks
        self.tasks = [task.name for task in options.tasks]
        self.gathered_columns = tuple(_weight_of(task.name) for task in options.tasks)
        self._keyed = [name for name in options.inputs if name in config.table_of_input]
        self._dense = [name for name in options.inputs if name not in config.table_of_input]
        self._bottom = self._bottom_of(config, options)
        rows = [config.input_width(name) for name in self._keyed]
        bottom = self._bottom.width if self._bottom is not None else 0
        interaction: Callable[..., Interaction] = INTERACTIONS[options.interaction.kind]
        self._interaction = interaction(options.interaction, rows, bottom, seed)
        head: Callable[..., Head] = HEADS[options.sharing.kind]
        self._head = head(options, self._interaction.width, self._interaction.past_width, seed)
        self._shifts = self._corrections(config, options)

    def _bottom_of(self, config: RunConfig, options: RankingConfig) -> DenseStack | None:
        if not self._dense:
            return None
        assert options.bottom is not None, "complete_bottom fills it in"
        width = sum(config.input_width(name) for name in self._dense)
        return DenseStack("bottom", options.bottom, width, config.train.seed)

    @staticmethod
    def _corrections(config: RunConfig, options: RankingConfig) -> list[float]:
        """What is added to the tasks' logits outside training.

        If a share r of the negatives was kept, the odds of a row are 1 / r times what they were, and
        p / (p + (1 - p) / r) is the probability with log(r) added to the logit.
        """
        corrected = corrected_tasks(config.source.roles, options) or []
        shift = math.log(config.dataset.keep_negatives)
        return [shift if task.name in corrected else 0.0 for task in options.tasks]

    @property
    def inputs(self):
        return self._options.inputs

    def lookups(self, batch, step):
        return inputs_of(batch, self._keyed)

    def columns(self, batch, step):
        columns = {name: batch[name] for name in self._dense}
        for task in self._tasks:
            label, weight = batch[label_column(task.label)], row_weights(batch)
            there = ~tf.math.is_nan(label)
            if OBJECTIVES[task.loss].bounded:
                # Otherwise the loss has no lower bound, so training would diverge silently.
                outside = tf.reduce_any((label < 0.0) | (label > 1.0))
                advice = f"a label of task {task.name} is outside 0..1; use loss: mse, or labels of 0 and 1"
                tf.debugging.Assert(~outside, [advice])
            if task.where is not None:
                there &= batch[label_column(task.where)] > 0.0
            columns[_label_of(task.name)] = tf.where(there, label, 0.0)
            columns[_weight_of(task.name)] = tf.where(there, weight, 0.0)
        return columns

    def loss(self, activations, columns, step, share=None):
        logits = self._logits(activations, columns, [0.0] * len(self._tasks), step, share)
        parts = []
        for task, logit in zip(self._tasks, logits, strict=True):
            label, weight = columns[_label_of(task.name)], columns[_weight_of(task.name)]
            parts.append(task.weight * OBJECTIVES[task.loss].loss(logit, label, weight, share))
        return tf.add_n(parts)

    def predictions(self, activations, features):
        logits = self._logits(activations, features, self._shifts)
        pairs = zip(self._tasks, logits, strict=True)
        return {task.name: OBJECTIVES[task.loss].prediction(logit) for task, logit in pairs}

    def _logits(self, activations, features, shifts, step=None, share=None) -> list:
        """As Head; `step` and `share` in training only."""
        bottom = None
        if self._bottom is not None:
            dense = tf.concat([as_columns(features[name]) for name in self._dense], axis=1)
            bottom = self._bottom(dense)
        inputs, past = self._interaction([activations[name] for name in self._keyed], bottom)
        return self._head(inputs, past, shifts, step, share)


def _label_of(task: str) -> str:
    """Column of the loss with a task's labels; 0 where there is none."""
    return f"{task}/label"


def _weight_of(task: str) -> str:
    """Column of the loss with the weights of a task's rows; 0 where it has no label."""
    return f"{task}/weight"

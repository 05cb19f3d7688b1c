"""What a two-tower model compares each target with, by `model.loss.kind`: columns and loss of a batch.

A target is a row's item or, with user_tower.sequence, the next item of a position: then each row has as many
targets as its history has places, one after the other, and those at padding have weight 0.
"""

import abc

import numpy as np
import tensorflow as tf

from configs.schema import RunConfig
from configs.sections.models import (
    DRAWN,
    FullSoftmaxLossConfig,
    GbceLossConfig,
    SoftmaxLossConfig,
    TwoTowerConfig,
)
from trainer.models.drawn import Pool
from trainer.models.losses import generalized_bce, in_batch_softmax, whole_softmax

_NO_CANDIDATE = 1e30
"""log q of padding: exp of its logit underflows to exactly 0."""

_PLACE = DRAWN + "place"
"""Column with the place of each target among the drawn items; no feature can have such a name."""


class TowerLoss(abc.ABC):
    """Interface of the losses of two towers.

    Args:
      config: the run.
      item_counts: [item table rows], positive train rows of each item.

    Attributes:
      gathered_columns: as Model.gathered_columns.
      reads_targets: whether `loss` takes the targets' vectors.
    """

    gathered_columns: tuple[str, ...] = ("weight",)
    reads_targets = True

    def __init__(self, config: RunConfig, item_counts):
        assert isinstance(config.model, TwoTowerConfig)
        self._options, self._pool = config.model.loss, Pool(item_counts, config.train.seed)

    def drawn(self, step):
        """Items that are looked up as negatives at a step (int64 scalar), int64 [n]; None: none."""
        return None

    @abc.abstractmethod
    def columns(self, item, weight, there, drawn) -> dict:
        """What `loss` reads beside vectors, by name; `item` and `weight` among them where it does.

        Args:
          item: targets, int64 [targets].
          weight: of the targets, float32 [targets].
          there: which targets are not padding, bool [targets]; None: all.
          drawn: from `drawn`.
        """

    @abc.abstractmethod
    def loss(self, user, item, drawn, columns: dict, share):
        """Training loss, float32 scalar.

        Args:
          user: float32 [targets, dim].
          item: vectors of the targets, float32 [targets, dim]; None unless `reads_targets`.
          drawn: vectors of drawn items, float32 [n, dim]; None without them.
          columns: from the method `columns`.
          share: as in Model.loss.
        """


class InBatch(TowerLoss):
    """Softmax over the targets of the batch and sampled items."""

    gathered_columns = ("item", "log_q", "weight", DRAWN + "item", DRAWN + "log_q")

    def __init__(self, config: RunConfig, item_counts):
        super().__init__(config, item_counts)
        assert isinstance(config.model, TwoTowerConfig) and isinstance(self._options, SoftmaxLossConfig)
        self._extra = self._options.extra_negatives
        self._biased = config.model.item_bias
        positions = config.examples_per_step // config.train.batch_size
        self._group = self._options.group and self._options.group * positions
        self._log_q = self._log_probability(item_counts, self._group or config.examples_per_step)

    def _log_probability(self, item_counts, rows: int):
        """Log of each item's expected share of a row's candidates, float32 [items].

        Items of the batch follow the train rows, sampled items are uniform (Yang et al. 2020, Mixed Negative
        Sampling for Learning Two-tower Neural Networks in Recommendations, section 3.2). Any row of the batch
        is as likely as others to be in a group, so each of its N places has item j with probability
        p_j = rows of j / all train rows, as in the batch. With m sampled items out of M, j is expected
        N p_j + m / M times among N + m candidates: q_j = (N p_j + m / M) / (N + m).

        Args:
          item_counts: as for the class.
          rows: N, targets of the batch or of a group; of histories, their padding included.
        """
        # Items without train rows are in no batch; the minimum keeps the logarithm finite.
        counts = tf.maximum(tf.cast(item_counts, tf.float32), 1.0)
        probability = counts / tf.reduce_sum(counts)
        if self._extra:
            uniform = tf.where(tf.convert_to_tensor(item_counts) > 0, 1.0 / self._pool.size, 0.0)
            drawn = self._extra / (rows + self._extra)
            probability = (1.0 - drawn) * probability + drawn * uniform
        return tf.math.log(probability)

    def drawn(self, step):
        return self._pool.draw([self._extra], step) if self._extra else None

    def columns(self, item, weight, there, drawn):
        columns = {"item": item, "weight": weight, "log_q": self._correction(item)}
        if there is not None:
            columns["log_q"] = tf.where(there, columns["log_q"], _NO_CANDIDATE)
        if drawn is not None:
            columns |= {DRAWN + "item": drawn, DRAWN + "log_q": self._correction(drawn)}
        return columns

    def _correction(self, ids):
        return tf.gather(self._log_q, ids) if self._options.logq else tf.zeros_like(ids, tf.float32)

    def loss(self, user, item, drawn, columns, share):
        options, extra = self._options, None
        if drawn is not None:
            extra = drawn, columns[DRAWN + "item"], columns[DRAWN + "log_q"]
        item_ids, log_q, weight = (columns[name] for name in ("item", "log_q", "weight"))
        mask = options.mask_accidental_hits
        return in_batch_softmax(
            *(user, item, item_ids, log_q, weight, options.temperature, mask, share, extra),
            *(self._group, options.precision, self._biased),
        )


class FullSoftmax(TowerLoss):
    """Softmax over all items with positive train rows."""

    reads_targets = False

    def __init__(self, config: RunConfig, item_counts):
        super().__init__(config, item_counts)
        assert isinstance(self._options, FullSoftmaxLossConfig)
        items = self._pool.items
        places = np.full(len(item_counts), -1, np.int64)
        places[items] = np.arange(len(items))
        self._places = tf.constant(places)

    def drawn(self, step):
        return self._pool.items

    def columns(self, item, weight, there, drawn):
        place = tf.gather(self._places, item)
        return {_PLACE: place, "weight": tf.where(place < 0, 0.0, weight)}

    def loss(self, user, item, drawn, columns, share):
        assert share is None, "configs.rules.sequence refuses devices with shares"
        return whole_softmax(user, drawn, columns[_PLACE], columns["weight"], self._options.temperature)


class Gbce(TowerLoss):
    """Binary cross-entropy against items sampled for each row."""

    def __init__(self, config: RunConfig, item_counts):
        super().__init__(config, item_counts)
        assert isinstance(self._options, GbceLossConfig)
        self._batch = config.train.batch_size
        self._positions = config.examples_per_step // self._batch
        rate = min(self._options.negatives / max(self._pool.size - 1, 1), 1.0)
        self._power = 1.0 + self._options.calibration * (rate - 1.0)  # eq. 14 with alpha = rate

    def drawn(self, step):
        return self._pool.draw([self._batch * self._options.negatives], step)

    def columns(self, item, weight, there, drawn):
        return {"weight": weight}

    def loss(self, user, item, drawn, columns, share):
        width = user.shape[-1]
        targets = tf.reshape(user, [-1, self._positions, width])
        others = tf.reshape(drawn, [-1, self._options.negatives, width])
        negative = tf.reshape(tf.matmul(targets, others, transpose_b=True), [-1, self._options.negatives])
        positive = tf.reduce_sum(user * item, axis=1)
        return generalized_bce(positive, negative, columns["weight"], self._power, share)


TOWER_LOSSES: dict[str, type[TowerLoss]] = {
    "in_batch": InBatch,
    "full_softmax": FullSoftmax,
    "gbce": Gbce,
}

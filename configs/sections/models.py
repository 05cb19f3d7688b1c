"""The `model` section: towers, inputs and losses."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from configs.sections.base import Section, of_kind
from configs.sections.ranking import RankingConfig


class HistoryConfig(Section):
    """How the items of the user's history enter a tower."""

    table: Literal["item", "history"] = "item"
    """item: share the items' table; history: a separate table with the same ids."""
    pooling: Literal["mean", "sum", "sqrtn"] = "mean"
    """How the rows of the history become one vector; an empty history is zero. Defaults to sqrtn when
    model.user_tower is not given either, so that a longer history weighs more beside the user's row."""


class SequenceConfig(Section):
    """A causal transformer over the history (Kang and McAuley 2018, SASRec)."""

    layers: int = Field(2, ge=1, le=64)
    """Number of blocks: self-attention and two dense layers, each with layer normalization before it and a
    residual connection around it."""
    heads: int = Field(1, ge=1, le=256)
    """Attention heads; they must divide the width of the history's rows, which is that of the blocks."""
    hidden: int | None = Field(None, ge=1, le=65536)
    """Width of the first of the two dense layers, with ReLU. Defaults to the width of the blocks."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Fraction of the inputs of the first block, and of what each part of a block adds, set to zero in
    training."""


class TowerConfig(Section):
    """What one tower reads and how it combines it."""

    inputs: list[str] = Field(min_length=1)
    """user, item, history, or names of side features."""
    combine: Literal["concat", "sum"] = "concat"
    """How inputs are combined; sum requires equal widths."""
    layers: list[Annotated[int, Field(ge=1)]] = []
    """Widths of the dense layers; if empty, the combined inputs are the vector."""
    activation: Literal["relu", "gelu", "tanh", "selu"] = "relu"
    """Activation between the dense layers; the last layer is linear."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Fraction of the combined inputs set to zero in training."""
    id_dropout: float = Field(0.0, ge=0, lt=1)
    """Fraction of the training rows, drawn anew at each step, whose user (in the user tower) or item (in the
    item tower, sampled items too) is looked up in the out-of-vocabulary row, so that the tower learns to do
    without the id: cold users and items share that row. Requires the id, a further input, and a table with
    such a row (not hashed ids). Histories keep their items."""
    sequence: SequenceConfig | None = None
    """Of the user tower: reads the history in its order, and each of its items is a training target, from the
    ones before it; null: the history is pooled. The history must be the only input of the user tower, the
    item's id that of the item tower, and dataset.history_of earlier. Train rows of a user that only repeat
    targets are left out, so train.batch_size counts histories."""

    @model_validator(mode="after")
    def _inputs_differ(self) -> "TowerConfig":
        for name in self.inputs:
            if self.inputs.count(name) > 1:
                raise ValueError(f"inputs names {name!r} twice; name it once")
        return self


DRAWN = "negative/"
"""Prefix of the inputs of items sampled as negatives."""


class _Temperature(Section):
    """What the softmax losses share."""

    temperature: float | None = Field(None, gt=0)
    """The scores are divided by it. Defaults to 1 without normalize; with it, to 0.1 if the user tower reads
    the history, else 0.15."""


class SoftmaxLossConfig(_Temperature):
    """Softmax over the items of the batch."""

    kind: Literal["in_batch"] = "in_batch"
    """In-batch sampled softmax (Yi et al. 2019): the items of the batch are candidates for all its rows."""
    logq: bool = True
    """Subtract log of each candidate's sampling probability (Yi et al. 2019, eq. 3)."""
    mask_accidental_hits: bool = True
    """Do not count candidates equal to the row's own item as negatives."""
    extra_negatives: int = Field(0, ge=0, le=1_000_000)
    """Items sampled for each batch, uniformly from those with train rows, as further candidates for all its
    rows (mixed negative sampling, Yang et al. 2020); logq then uses the probability under the mixture."""
    group: int | None = Field(None, ge=2)
    """Rows that share their in-batch candidates: each step divides its batch at random into groups of so many
    rows, and a row's candidates are the items of its group and extra_negatives. Cost then grows with
    train.batch_size, not with its square; logq uses the probability under that mixture. Must divide
    train.batch_size. Defaults to the whole batch."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products of user and item vectors, and of their gradients' products: bfloat16 rounds the operands;
    all sums, the largest logits and exponentials are float32. Faster where the processor has AVX512-BF16,
    slower elsewhere, which is reported. TPUs round operands either way unless told otherwise; bfloat16 makes
    it explicit."""

    known_number: ClassVar[bool] = True
    """Whether the config says how many items a batch looks up."""

    def drawn(self, batch_size: int) -> int | None:
        """Items of a batch that are looked up as negatives; None: none."""
        return self.extra_negatives or None


class FullSoftmaxLossConfig(_Temperature):
    """Softmax over the whole catalog."""

    kind: Literal["full_softmax"]
    """Cross-entropy of the softmax over all items with train rows (Klenitskiy and Vasilev 2023, Turning Dross
    Into Gold Loss), which nothing has to correct. A step scores and updates every item, so it suits catalogs
    of some ten thousand items. On this machine's processor only, in one replica."""
    known_number: ClassVar[bool] = False
    """As SoftmaxLossConfig.known_number."""
    group: ClassVar[None] = None
    """No other rows' items are candidates."""

    def drawn(self, batch_size: int) -> int | None:
        """As SoftmaxLossConfig.drawn: the whole catalog, whose size the config does not know."""
        return 0


class GbceLossConfig(Section):
    """Generalized binary cross-entropy."""

    kind: Literal["gbce"]
    """Binary cross-entropy of a row's item against sampled items, where the likelihood of the item is raised
    to a power below 1 that makes up for the sampling (Petrov and Macdonald 2023, gSASRec, eq. 8 and 14)."""
    negatives: int = Field(256, ge=1, le=100_000)
    """Items sampled for each row, uniformly from those with train rows; with user_tower.sequence all
    positions of a row share them."""
    calibration: float = Field(0.75, ge=0, le=1)
    """t of the paper: 1 calibrates scores to probabilities, 0 is plain binary cross-entropy."""
    known_number: ClassVar[bool] = True
    """As SoftmaxLossConfig.known_number."""
    group: ClassVar[None] = None
    """As FullSoftmaxLossConfig.group."""

    def drawn(self, batch_size: int) -> int | None:
        """As SoftmaxLossConfig.drawn."""
        return batch_size * self.negatives


TwoTowerLoss = Annotated[
    SoftmaxLossConfig | FullSoftmaxLossConfig | GbceLossConfig,
    Field(discriminator="kind"),
    of_kind("in_batch"),
]


class TwoTowerConfig(Section):
    """Retrieval: dot product of a user tower and an item tower."""

    family: ClassVar[Literal["retrieval"]] = "retrieval"
    """What it is for, which decides how it is evaluated and served: retrieval ranks all items for a user,
    ranking predicts the labels of a row."""
    kind: Literal["two_tower"] = "two_tower"
    """User tower, item tower, dot product."""
    user_tower: TowerConfig | None = None
    """Inputs and layers of the user tower. Defaults to the user's row plus the history if
    dataset.history_length is above 0 or, when that is not given either, with the splits leave_last_out and
    given; else to the user's row alone."""
    item_tower: TowerConfig = TowerConfig(inputs=["item"])
    """Inputs and layers of the item tower."""
    history: HistoryConfig = HistoryConfig()
    """Used if a tower reads history."""
    normalize: bool = True
    """Scale both vectors to length 1."""
    item_bias: bool | None = None
    """Add the last value of the item vector to the score as a bias, which learns popularity. Defaults to true
    unless the given widths leave no room for it."""
    loss: TwoTowerLoss = SoftmaxLossConfig()
    """The loss."""

    @property
    def inputs(self) -> list[str]:
        return (self.user_tower.inputs if self.user_tower else []) + self.item_tower.inputs

    @property
    def towers(self) -> list[TowerConfig]:
        """Of the user and the item."""
        return [tower for tower in (self.user_tower, self.item_tower) if tower]

    @property
    def trains_on_positives(self) -> bool:
        """Whether it trains on positive rows alone: the softmax takes every row of a batch as a positive."""
        return True

    def drawn(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs of items sampled as negatives for a batch, by input."""
        number = self.loss.drawn(batch_size)
        return {} if number is None else dict.fromkeys(self.item_tower.inputs, (number,))

    @property
    def sequence(self) -> SequenceConfig | None:
        """How the user tower reads the history in its order; None: it does not."""
        return self.user_tower.sequence if self.user_tower else None

    @model_validator(mode="after")
    def _sides(self) -> "TwoTowerConfig":
        if self.user_tower and "item" in self.user_tower.inputs:
            raise ValueError("user_tower.inputs must not contain item; remove it")
        for name in ("user", "history"):
            if name in self.item_tower.inputs:
                raise ValueError(f"item_tower.inputs must not contain {name}; remove it")
        if self.item_tower.sequence:
            raise ValueError("item_tower.sequence: an item has no history; remove it")
        for side, tower in (("user", self.user_tower), ("item", self.item_tower)):
            if tower and tower.id_dropout and (side not in tower.inputs or len(tower.inputs) < 2):
                raise ValueError(
                    f"{side}_tower.id_dropout requires {side} and another input in {side}_tower.inputs, "
                    f"found {tower.inputs}; add what is missing, or remove id_dropout"
                )
        tower = self.item_tower
        if self.item_bias and not tower.layers and tower.combine == "concat" and tower.inputs[-1] != "item":
            raise ValueError(
                "item_bias without item_tower.layers requires item as the last input; move it to the end"
            )
        return self


class DotBiasConfig(Section):
    """Pointwise collaborative filter."""

    family: ClassVar[Literal["retrieval"]] = "retrieval"
    """As TwoTowerConfig.family."""
    kind: Literal["dot_bias"]
    """sigmoid(u.v + b_u + b_i), where the last column of each row is the bias; logistic loss."""
    label_threshold: float | None = None
    """Labels of at least this value become 1, others 0; without it labels must lie in 0..1."""
    negatives: int = Field(0, ge=0, le=1000)
    """Uniform random items added per row, with label 0; required if the data holds positives only, and
    recommended (4 measured best) if the whole catalog is ranked. With 0 the score stays the probability of
    the label."""

    @property
    def inputs(self) -> list[str]:
        return ["user", "item"]

    @property
    def towers(self) -> list[TowerConfig]:
        """As TwoTowerConfig.towers: the tables' rows are the vectors."""
        return []

    @property
    def trains_on_positives(self) -> bool:
        """As TwoTowerConfig.trains_on_positives; False, because the loss reads labels."""
        return False

    def drawn(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """As TwoTowerConfig.drawn."""
        return {"item": (batch_size, self.negatives)} if self.negatives else {}


ModelConfig = Annotated[
    TwoTowerConfig | DotBiasConfig | RankingConfig, Field(discriminator="kind"), of_kind("two_tower")
]

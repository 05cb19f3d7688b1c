"""The `model` section: towers, inputs and losses."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.sections.base import Section, of_kind


class HistoryConfig(Section):
    """How the user's earlier items enter a tower."""

    table: Literal["item", "history"] = "item"
    """item shares the items' table; history is a table of its own with the same ids."""
    pooling: Literal["mean", "sum", "sqrtn"] = "mean"
    """How the rows of the history become one vector; an empty history is zero. When neither it nor
    model.user_tower is given: sqrtn, so that a longer history weighs more beside the user's row."""


class TowerConfig(Section):
    """What one tower sees and how it mixes it."""

    inputs: list[str] = Field(min_length=1)
    """user, item, history, or names of side features."""
    combine: Literal["concat", "sum"] = "concat"
    """How inputs are joined; sum needs equal widths."""
    layers: list[Annotated[int, Field(ge=1)]] = []
    """Widths of the dense layers; empty means the joined inputs are the vector."""
    activation: Literal["relu", "gelu", "tanh", "selu"] = "relu"
    """Between the dense layers; the last one is linear."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the joined inputs set to zero while training."""

    @model_validator(mode="after")
    def _inputs_differ(self):
        for name in self.inputs:
            if self.inputs.count(name) > 1:
                raise ValueError(f"inputs holds {name!r} twice")
        return self


DRAWN = "negative/"
"""Begins the names of inputs of items that are drawn as negatives."""


class SoftmaxLossConfig(Section):
    """In-batch sampled softmax."""

    temperature: float | None = Field(None, gt=0)
    """Divides the scores. When not given: 1 without normalize; under it 0.1 where the user tower reads the
    history, else 0.15."""
    logq: bool = True
    """Subtract log of each candidate's sampling probability (Yi et al. 2019, eq. 3)."""
    mask_accidental_hits: bool = True
    """Candidates equal to the row's own item are no negatives."""
    extra_negatives: int = Field(0, ge=0, le=1_000_000)
    """Items drawn for each batch, uniformly from those with train rows: candidates of all its rows beside the
    batch's own (mixed negative sampling, Yang et al. 2020); logq is then of the mixture."""


class TwoTowerConfig(Section):
    """Retrieval: dot product of a user tower and an item tower."""

    kind: Literal["two_tower"] = "two_tower"
    """User tower, item tower, dot product; in-batch sampled softmax."""
    user_tower: TowerConfig | None = None
    """Inputs and layers of the user tower. When not given: the user's row, plus the history where
    dataset.history_length keeps one or, when that is not given either, under the splits leave_last_out and
    given."""
    item_tower: TowerConfig = TowerConfig(inputs=["item"])
    """Inputs and layers of the item tower."""
    history: HistoryConfig = HistoryConfig()
    """Used when a tower names history."""
    normalize: bool = True
    """Both vectors get length 1."""
    item_bias: bool | None = None
    """The last value of the item vector is a bias added to the score, free to learn popularity. When not
    given: true, unless the widths that are given leave no room for it."""
    loss: SoftmaxLossConfig = SoftmaxLossConfig()
    """The softmax."""

    @property
    def inputs(self) -> list[str]:
        return (self.user_tower.inputs if self.user_tower else []) + self.item_tower.inputs

    @property
    def towers(self) -> list[TowerConfig]:
        """Of the user and the item."""
        return [tower for tower in (self.user_tower, self.item_tower) if tower]

    @property
    def trains_on_positives(self) -> bool:
        """Whether only positive rows train it: every row of a batch is one under the softmax."""
        return True

    def drawn(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs of items that are drawn for a batch, by input."""
        extra = self.loss.extra_negatives
        return dict.fromkeys(self.item_tower.inputs, (extra,)) if extra else {}

    @model_validator(mode="after")
    def _sides(self):
        if self.user_tower and "item" in self.user_tower.inputs:
            raise ValueError("user_tower.inputs may not hold item")
        for name in ("user", "history"):
            if name in self.item_tower.inputs:
                raise ValueError(f"item_tower.inputs may not hold {name}")
        tower = self.item_tower
        if self.item_bias and not tower.layers and tower.combine == "concat" and tower.inputs[-1] != "item":
            raise ValueError("item_bias without item_tower.layers needs item as the last of its inputs")
        return self


class DotBiasConfig(Section):
    """Pointwise collaborative filter."""

    kind: Literal["dot_bias"]
    """sigmoid(u.v + b_u + b_i), the last column of each row being the bias; logistic loss."""
    label_threshold: float | None = None
    """Labels at or above it are 1, others 0; without it labels must lie in 0..1."""
    negatives: int = Field(0, ge=0, le=1000)
    """Uniform random items per row added with label 0; needed when the data holds positives only, and where
    the whole catalog is ranked (4 were best). 0 keeps the score the probability of the label."""

    @property
    def inputs(self) -> list[str]:
        return ["user", "item"]

    @property
    def towers(self) -> list[TowerConfig]:
        """As TwoTowerConfig.towers: the tables' rows are the vectors."""
        return []

    @property
    def trains_on_positives(self) -> bool:
        """As TwoTower.trains_on_positives: labels tell the rows apart here."""
        return False

    def drawn(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """As TwoTower.drawn."""
        return {"item": (batch_size, self.negatives)} if self.negatives else {}


ModelConfig = Annotated[TwoTowerConfig | DotBiasConfig, Field(discriminator="kind"), of_kind("two_tower")]

"""The `model` section of ranking models: what they read, how features interact, and what they predict."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from configs.sections.base import Section, of_kind

Units = Annotated[int, Field(ge=1, le=65536)]
MAIN_LABEL = "label"
"""Name by which a task reads source.roles.label; other names are keys of source.roles.labels."""


class DotInteractionConfig(Section):
    """Dot products, as in DLRM (Naumov et al. 2019, section 2.1.3)."""

    kind: Literal["dot"]
    """The dot product of each pair of vectors: the rows of all tables, pooled, and the output of `bottom`;
    all must be equally wide. tfrs.layers.feature_interaction.DotInteraction."""


class CrossInteractionConfig(Section):
    """Crosses, as in DCN-v2 (Wang et al. 2021, equations 1 and 2)."""

    kind: Literal["cross"] = "cross"
    """x_(l+1) = x_0 * (W x_l + b) + x_l, where x_0 joins all vectors
    (tfrs.layers.feature_interaction.Cross)."""
    layers: int = Field(3, ge=1, le=16)
    """Number of crosses."""
    rank: Units | None = None
    """W = U V with U of this many columns, which costs less; null: W is a full matrix."""
    structure: Literal["stacked", "parallel"] = "stacked"
    """stacked: `top` reads the crosses; parallel: `top` reads x_0, and the logits read the crosses and the
    output of `top`."""


class NoInteractionConfig(Section):
    """No interaction but that of the dense layers."""

    kind: Literal["none"]
    """`top` reads all vectors joined, as a plain deep model does."""


InteractionConfig = Annotated[
    DotInteractionConfig | CrossInteractionConfig | NoInteractionConfig,
    Field(discriminator="kind"),
    of_kind("cross"),
]


class TaskConfig(Section):
    """One prediction."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Name of the prediction in metrics and in the served model."""
    label: str = MAIN_LABEL
    """What it predicts: label, for source.roles.label, or a key of source.roles.labels. Rows in which it is
    empty do not count for this task."""
    loss: Literal["bce", "mse"] = "bce"
    """bce: binary cross-entropy of labels in 0..1, and the prediction is a probability; mse: squared error,
    and the prediction is a number."""
    weight: float = Field(1.0, gt=0)
    """Factor of its loss in the sum over the tasks."""
    where: str | None = None
    """A label, named as in `label`: only rows in which it is above 0 count, as for conversion after click."""


class SharedBottomConfig(Section):
    """All layers but the last are shared."""

    kind: Literal["shared_bottom"] = "shared_bottom"
    """All tasks share `top`, and each has a linear layer of its own (Caruana 1997)."""


class MmoeConfig(Section):
    """Gated experts."""

    kind: Literal["mmoe"]
    """Each task mixes the outputs of several experts, each with layers as `top`, with weights of its own: a
    softmax of a linear layer of the experts' input (Ma et al. 2018, Multi-gate Mixture-of-Experts, eq. 6)."""
    experts: int = Field(4, ge=2, le=64)
    """Number of experts."""
    tower: list[Units] = []
    """Widths of the dense layers of each task between the mixture and the logit."""


class EsmmConfig(Section):
    """The entire-space product of click and conversion."""

    kind: Literal["esmm"]
    """The first of two tasks is the click, the second the click that converts: its probability is the product
    of the first one's and of a conversion rate that is never trained alone, so it is learnt over all rows (Ma
    et al. 2018, Entire Space Multi-Task Model). Its prediction is the product. Each has layers as `top` of
    its own."""


SharingConfig = Annotated[
    SharedBottomConfig | MmoeConfig | EsmmConfig, Field(discriminator="kind"), of_kind("shared_bottom")
]


class RankingHistoryConfig(Section):
    """How the user's earlier items enter."""

    table: Literal["item", "history"] = "item"
    """item: share the items' table; history: a separate table with the same ids."""
    pooling: Literal["mean", "sum", "sqrtn"] = "mean"
    """How the rows of the history become one vector; an empty history is zero."""


class RankingConfig(Section):
    """Ranking: predicts labels of a row from any features of it (DLRM, DCN-v2)."""

    family: ClassVar[Literal["ranking"]] = "ranking"
    """As TwoTowerConfig.family."""
    kind: Literal["ranking"]
    """Tables for keys, `bottom` for numbers, an interaction, `top`, and a logit for each task."""
    inputs: list[str] = []
    """Names of features, user, item and history. Defaults to all features, and user and item if
    source.roles names them."""
    bottom: list[Units] | None = None
    """Widths of the dense layers with ReLU (also after the last one) that numbers and vectors pass, joined.
    []: they are used as they are, which `dot` does not allow. Defaults to the width of the tables with dot,
    else to []."""
    interaction: InteractionConfig = CrossInteractionConfig()
    """How the vectors interact."""
    top: list[Units] = [256, 128]
    """Widths of the dense layers with ReLU before the logits. They read the output of `bottom` joined with
    that of the interaction, as tfrs.experimental.models.Ranking."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Fraction of the outputs of each layer of `top` set to zero in training."""
    history: RankingHistoryConfig = RankingHistoryConfig()
    """Used if `inputs` has history."""
    tasks: list[TaskConfig] = []
    """What is predicted. Defaults to one task, named and labelled by the only label."""
    sharing: SharingConfig = SharedBottomConfig()
    """What several tasks have in common."""

    @property
    def towers(self) -> list[Any]:
        """As TwoTowerConfig.towers: none."""
        return []

    @property
    def trains_on_positives(self) -> bool:
        """As TwoTowerConfig.trains_on_positives."""
        return False

    @property
    def labels(self) -> list[str]:
        """Labels that training reads, each once."""
        named = [label for task in self.tasks for label in (task.label, task.where) if label]
        return list(dict.fromkeys(named))

    def drawn(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """As TwoTowerConfig.drawn: none."""
        return {}

    @model_validator(mode="after")
    def _names_differ(self) -> "RankingConfig":
        for key, names in (("inputs", self.inputs), ("tasks", [task.name for task in self.tasks])):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{key} names {name!r} twice; name it once")
        return self

    @model_validator(mode="after")
    def _sharing_fits(self) -> "RankingConfig":
        if isinstance(self.sharing, MmoeConfig) and not self.top:
            raise ValueError("sharing: mmoe has experts with layers as top, which is []; name widths")
        if isinstance(self.sharing, EsmmConfig):
            losses = [task.loss for task in self.tasks]
            if losses != ["bce", "bce"] or any(task.where for task in self.tasks):
                raise ValueError(
                    "sharing: esmm requires two tasks with loss bce and without where, the click first; "
                    f"found {len(losses)}; change tasks, or use shared_bottom or mmoe"
                )
        return self

"""Features: what a model may know of a user, an item or a row besides their ids, one class per kind."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from configs.sections.base import Section, choice, chosen_by

# Columns of records and catalogs (configs/manifest.py), and inputs of a model's loss besides features.
RESERVED_NAMES = frozenset(
    "user item label weight timestamp history history_length history_mask log_q negative "
    "id key count sequence sequence_split sequence_length "
    "k exclude_seen exclude include".split()  # inputs of the served model
)
_RESERVED_STARTS = ("where_", "weight_")  # of inputs of the served model

Of = Literal["user", "item", "context"]


def _fits(value: float) -> float:
    if abs(value) > _LARGEST:
        raise ValueError(f"{value:g} is beyond float32, whose largest number is {_LARGEST:.8g}")
    return value


_LARGEST = 3.4028234663852886e38
Float32 = Annotated[float, AfterValidator(_fits)]


class BaseFeatureConfig(Section):
    """What all features share."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Name of the feature in the dataset and the model."""
    of: Of | None = None
    """Whose feature it is: the user's, the item's, or that of the row itself (context). Required in
    source.features; in a side table it is the table's. For a user or an item, training uses the value in the
    row, evaluation the value known at that time, serving the newest known value (configs/manifest.py). An
    empty value does not count as known."""

    @property
    def columns(self) -> list[str]:
        """Columns of the source that it reads."""
        raise NotImplementedError


class ColumnFeatureConfig(BaseFeatureConfig):
    """What features made of one column share."""

    column: str | None = None
    """Column of the source; defaults to the feature's name."""

    @property
    def source_column(self) -> str:
        return self.column or self.name

    @property
    def columns(self) -> list[str]:
        """As BaseFeatureConfig.columns."""
        return [self.source_column]


class KeyedFeatureConfig(ColumnFeatureConfig):
    """One or several keys."""

    table: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*$")
    """Table of its ids and rows, which features may share; defaults to the feature's name."""

    @property
    def table_name(self) -> str:
        return self.table or self.name


class CategoricalFeatureConfig(KeyedFeatureConfig):
    """A key."""

    kind: Literal["categorical"]
    """A key that gets an id according to dataset.feature_ids. A missing one is the empty key."""


class ListFeatureConfig(KeyedFeatureConfig):
    """Several keys."""

    kind: Literal["list"]
    """Keys that get ids according to dataset.feature_ids, pooled into one vector as tables.<table>.combiner
    says. A missing list is empty, and its vector zero. Empty and missing keys inside a list are left out;
    repeated ones count repeatedly."""
    separator: str | None = Field(None, min_length=1, max_length=8)
    """Separator of the keys in delimited text; other files have lists of their own."""
    weights: str | None = None
    """Column with a weight for each key, at least 0, separated or listed like the keys."""
    max_length: int = Field(64, ge=1, le=4096)
    """Longest list kept: the first keys of a longer one; how many lists were cut is counted."""

    @property
    def columns(self) -> list[str]:
        """As BaseFeatureConfig.columns."""
        return [self.source_column, *([self.weights] if self.weights else [])]


class ClipConfig(Section):
    """Limits of a number."""

    clip: tuple[Float32, Float32]
    """Lowest and highest value; others become these."""

    @field_validator("clip")
    @classmethod
    def _ascends(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(f"clip: [{value[0]:g}, {value[1]:g}]: the first limit must be the lower one")
        return value


class QuantilesConfig(Section):
    """Buckets with about equally many training values."""

    quantiles: int = Field(ge=2, le=10_000)
    """Number of buckets; quantiles that fall on one value make one boundary."""


class BoundariesConfig(Section):
    """Given buckets."""

    boundaries: list[Float32] = Field(min_length=1, max_length=10_000)
    """Ascending; n boundaries make n + 1 buckets, and a value equal to a boundary belongs above it."""

    @field_validator("boundaries")
    @classmethod
    def _ascend(cls, value: list[float]) -> list[float]:
        if any(not low < high for low, high in zip(value, value[1:], strict=False)):
            raise ValueError("boundaries must ascend; sort them and name each once")
        return value


Step = Annotated[
    Annotated[Literal["log1p", "standardize"], choice("name")] | Annotated[ClipConfig, choice("clip")],
    chosen_by(lambda value: "name" if isinstance(value, str) else "clip"),
]
BucketsConfig = Annotated[
    Annotated[QuantilesConfig, choice("quantiles")] | Annotated[BoundariesConfig, choice("boundaries")],
    chosen_by(
        lambda value: (
            "boundaries"
            if isinstance(value, BoundariesConfig) or (isinstance(value, dict) and "boundaries" in value)
            else "quantiles"
        )
    ),
]


class NumericFeatureConfig(ColumnFeatureConfig):
    """A number."""

    kind: Literal["numeric"]
    """A float32."""
    missing: Float32 | None = None
    """Value that counts where it is empty or null. Without it such a row of interactions is rejected; with
    `buckets` the empty value has a bucket of its own; in a side table it counts as the mean."""
    transform: list[Step] = ["standardize"]
    """Steps from the stored number to the model's, in order: log1p, {clip: [low, high]}, standardize
    (subtract the mean of training values and divide by their standard deviation; last)."""
    buckets: BucketsConfig | None = None
    """Makes it categorical after the steps before: the number of its bucket is looked up in a table. Either
    {quantiles: 10} or {boundaries: [18, 25, 35]}, which are in the units after `transform`."""

    @property
    def steps(self) -> list[Step]:
        """The steps of `transform` that are used: buckets need no standardization."""
        return [step for step in self.transform if self.buckets is None or step != "standardize"]

    @field_validator("transform", mode="before")
    @classmethod
    def _steps_are_known(cls, value: Any) -> Any:
        for step in value if isinstance(value, list) else []:
            name = next(iter(step), None) if isinstance(step, dict) else step
            if isinstance(name, str) and name not in ("log1p", "standardize", "clip"):
                raise ValueError(
                    f"{name!r} is unknown; allowed: log1p, {{clip: [low, high]}}, standardize"
                    + (" (buckets is a key beside transform)" if name == "buckets" else "")
                )
        return value

    @model_validator(mode="after")
    def _standardize_is_last(self) -> "NumericFeatureConfig":
        names = [step if isinstance(step, str) else "clip" for step in self.transform]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"transform names {name} twice; name it once")
        if "standardize" in names[:-1]:
            raise ValueError("transform: standardize must be the last step; move it to the end")
        return self

    @model_validator(mode="after")
    def _missing_has_a_logarithm(self) -> "NumericFeatureConfig":
        value = self.missing or 0.0
        for step in self.transform:
            if isinstance(step, ClipConfig):
                value = min(max(value, step.clip[0]), step.clip[1])
            elif step == "log1p" and value <= -1:
                raise ValueError(
                    f"missing: {self.missing:g} has no log1p; use a number above -1, or put a clip before it"
                    if self.missing is not None
                    else "transform: after this clip no number has a log1p; raise its limits above -1"
                )
            elif step == "log1p":
                value = math.log1p(value)
        return self


class VectorFeatureConfig(ColumnFeatureConfig):
    """Numbers that come from elsewhere, such as the embedding of a text or an image."""

    kind: Literal["vector"]
    """`dim` float32 values, which are not trained; only in side tables. A missing one is zero."""
    dim: int = Field(ge=1, le=65536)
    """Number of values."""
    separator: str | None = Field(None, min_length=1, max_length=8)
    """Separator of the values in delimited text; other files have lists of their own."""
    normalize: bool = False
    """Scale each vector to length 1 when the dataset is prepared."""


class CrossFeatureConfig(BaseFeatureConfig):
    """One key made of several."""

    kind: Literal["cross"]
    """The combination of the keys of several categorical features, hashed."""
    keys: list[str] = Field(min_length=2, max_length=8)
    """Names of the categorical features; all of one side table, or all of source.features."""
    rows: int = Field(ge=1)
    """Rows of its table: id = Fingerprint64(keys joined by \\x01) mod rows."""

    @property
    def columns(self) -> list[str]:
        """As BaseFeatureConfig.columns: none of its own."""
        return []

    @property
    def table_name(self) -> str:
        return self.name


FeatureConfig = Annotated[
    CategoricalFeatureConfig
    | ListFeatureConfig
    | NumericFeatureConfig
    | VectorFeatureConfig
    | CrossFeatureConfig,
    Field(discriminator="kind"),
]


def table_of(feature: BaseFeatureConfig) -> str | None:
    """Name of the table in which a feature is looked up; None: it enters the model as numbers."""
    if isinstance(feature, NumericFeatureConfig):
        return feature.name if feature.buckets else None
    if isinstance(feature, CategoricalFeatureConfig | ListFeatureConfig | CrossFeatureConfig):
        return feature.table_name
    return None


def check_names(features: Iterable[BaseFeatureConfig]) -> None:
    """Raises ValueError: two features share a name, or one has that of a column of the dataset."""
    names = [feature.name for feature in features]
    for name in names:
        if names.count(name) > 1 or name in RESERVED_NAMES:
            raise ValueError(f"feature name {name!r} is already in use; choose another")
        if name.startswith(_RESERVED_STARTS):
            raise ValueError(
                f"feature name {name!r}: where_ and weight_ begin inputs of the served model; choose another "
                "name"
            )


def check_crosses(features: Iterable[BaseFeatureConfig], where: str) -> None:
    """Checks the crosses among the features of one source or side table.

    Args:
      where: key of the list, for messages.

    Raises:
      ValueError: a cross names a feature that is not categorical or not here.
    """
    by_name = {feature.name: feature for feature in features}
    for feature in by_name.values():
        if not isinstance(feature, CrossFeatureConfig):
            continue
        for key in feature.keys:
            part = by_name.get(key)
            if part is None:
                known = ", ".join(n for n, f in by_name.items() if isinstance(f, CategoricalFeatureConfig))
                raise ValueError(
                    f"cross {feature.name!r}: {key!r} is not a feature of {where}; the categorical ones are: "
                    f"{known or 'none'}"
                )
            if not isinstance(part, CategoricalFeatureConfig):
                kind = getattr(part, "kind", "")
                raise ValueError(
                    f"cross {feature.name!r}: {key!r} is {kind}; a cross joins categorical features only"
                )
            if part.of != feature.of and feature.of != "context":
                raise ValueError(
                    f"cross {feature.name!r} is of the {feature.of}, {key!r} of the {part.of}; set its "
                    "of: context"
                )

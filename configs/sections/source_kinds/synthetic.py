"""Sources that are drawn from planted models; no files are read."""

import functools
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from configs.sections.base import Section, Seed
from configs.sections.features import FeatureConfig
from configs.sections.roles import PLANTED_LABEL, LabelConfig, RolesConfig


class SyntheticSourceConfig(Section):
    """A planted model with a known optimum; configs/planted/interactions.py has the formulas."""

    kind: Literal["synthetic"]
    """Interactions drawn from a planted model; no files are read."""
    rows: int = Field(ge=1)
    """Number of interactions."""
    users: int = Field(ge=1)
    """Number of distinct users; each has at least one row when rows >= users."""
    items: int = Field(ge=2)
    """Number of distinct items."""
    factors: int = Field(8, ge=1, le=128)
    """Rank of the planted user taste."""
    clusters: int = Field(32, ge=1, le=4096)
    """Number of item groups; users have tastes for groups, and popularity within a group is Zipf."""
    sharpness: float = Field(2.0, ge=0)
    """Scale of the taste logits: 0 makes all users alike."""
    user_zipf: float = Field(0.8, ge=0, lt=2)
    """Zipf exponent of the users' activity."""
    item_zipf: float = Field(1.0, ge=0, lt=2)
    """Zipf exponent of the items' popularity within their group."""
    seed: Seed = 0
    """Seed of the planted model and of the draws."""

    @property
    def roles(self) -> RolesConfig:
        return RolesConfig(timestamp="timestamp")

    @property
    def features(self) -> list[FeatureConfig]:
        return []

    @property
    def all_features(self) -> list[FeatureConfig]:
        """As SourceTableConfig.all_features."""
        return []

    @property
    def sides(self) -> list[Any]:
        """As SourceTableConfig.sides."""
        return []

    @property
    def max_rejected_fraction(self) -> float:
        return 0.0


class SyntheticClicksSourceConfig(Section):
    """A click log whose click probabilities are known; configs/planted/clicks.py has the formulas."""

    kind: Literal["synthetic_clicks"]
    """Rows drawn from a planted model; no files are read. Features are c1, c2, ... (keys), n1, n2, ...
    (numbers) and tags (a list). Evaluation prints the best that a model can reach."""
    rows: int = Field(ge=1)
    """Number of rows, one a second."""
    categorical: list[Annotated[int, Field(ge=1, le=2**27)]] = [
        *(1000, 200, 500, 100, 300, 20, 1000, 600, 3, 800, 900, 1000, 700),
        *(27, 400, 800, 10, 600, 300, 4, 800, 18, 15, 500, 80, 400),
    ]
    """Number of keys of each categorical feature."""
    key_zipf: float = Field(1.0, ge=0, lt=2)
    """Zipf exponent of the keys' popularity."""
    numbers: int = Field(13, ge=0, le=1000)
    """Number of numeric features, from 0 to 53.6 with a long tail; the logit is periodic in their log1p."""
    list_keys: int = Field(200, ge=0, le=2**27)
    """Number of keys of the list; 0: no list."""
    list_length: int = Field(5, ge=1, le=64)
    """Longest list; lengths from 0 to this one are equally likely."""
    users: int = Field(0, ge=0, le=2**27)
    """Number of users, one more categorical feature with the role of the user; 0: rows have no user."""
    items: int = Field(0, ge=0, le=2**27)
    """As users, of items."""
    pairs: int = Field(3, ge=0, le=1000)
    """Number of pairs of categorical features that interact."""
    rank: int = Field(1, ge=1, le=64)
    """Rank of an interaction: the dot product of two vectors of this width."""
    rate: float = Field(0.25, gt=0, lt=1)
    """Share of clicks."""
    signal: float = Field(1.4, ge=0)
    """Standard deviation of the logit: 0 makes all rows alike; 1.4 makes the best AUC about 0.8."""
    seed: Seed = 0
    """Seed of the planted model and of the draws."""

    @property
    def roles(self) -> RolesConfig:
        return RolesConfig(
            user="user" if self.users else None,
            item="item" if self.items else None,
            label="label",
            labels={PLANTED_LABEL: LabelConfig(column=PLANTED_LABEL)},
            timestamp="timestamp",
        )

    @property
    def features(self) -> list[FeatureConfig]:
        tags_length = self.list_length if self.list_keys else 0
        return [*_features_of_clicks(len(self.categorical), self.numbers, tags_length)]

    @property
    def all_features(self) -> list[FeatureConfig]:
        return self.features

    @property
    def sides(self) -> list[Any]:
        return []

    @property
    def max_rejected_fraction(self) -> float:
        return 0.0

    @model_validator(mode="after")
    def _has_features(self) -> "SyntheticClicksSourceConfig":
        if not (self.categorical or self.numbers or self.list_keys or self.users or self.items):
            raise ValueError("no features; set categorical, numbers, list_keys, users or items")
        return self


@functools.lru_cache
def _features_of_clicks(keys: int, numbers: int, tags_length: int) -> tuple[FeatureConfig, ...]:
    """Features of so many columns, once: models ask for them often, and validation takes milliseconds."""
    found: list[dict[str, Any]] = [{"name": f"c{i + 1}", "kind": "categorical"} for i in range(keys)]
    transform: dict[str, Any] = {"kind": "numeric", "transform": ["log1p", "standardize"]}
    found += [{**transform, "name": f"n{i + 1}"} for i in range(numbers)]
    found += [{"name": "tags", "kind": "list", "max_length": tags_length}] if tags_length else []
    every = [{**feature, "of": "context"} for feature in found]
    return tuple(TypeAdapter(list[FeatureConfig]).validate_python(every))

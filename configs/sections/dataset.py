"""The `dataset` section: ids, splits, history and the files that `prepare` writes."""

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from configs.sections.base import Path, Section, Seed


class VocabIdsConfig(Section):
    """Exact dense ids."""

    kind: Literal["vocab"] = "vocab"
    """ids 0..n-1 by falling number of positive train rows, ties by key; one more row, n, for other keys."""
    min_count: int = Field(1, ge=1)
    """Keys with fewer positive train rows share the out-of-vocabulary row."""

    @property
    def known_rows(self) -> int | None:
        """Rows of the table before the dataset is prepared; None: they depend on it."""
        return None


class HashIdsConfig(Section):
    """Hashed ids."""

    kind: Literal["hash"]
    """id = FarmHash Fingerprint64(key as text) mod rows, as tf.strings.to_hash_bucket_fast."""
    rows: int = Field(ge=1)
    """Number of rows of the table."""

    @property
    def known_rows(self) -> int | None:
        """As VocabIdsConfig.known_rows."""
        return self.rows


def _vocab_by_default(value):
    return {"kind": "vocab", **value} if isinstance(value, dict) else value


IdsConfig = Annotated[
    VocabIdsConfig | HashIdsConfig, Field(discriminator="kind"), BeforeValidator(_vocab_by_default)
]


class FractionSplitConfig(Section):
    """What splits by shares of the rows have in common."""

    valid_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of rows in valid."""
    test_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of rows in test."""

    @model_validator(mode="after")
    def _something_is_left(self):
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError("valid_fraction + test_fraction must leave rows to train on")
        return self


class TemporalSplitConfig(FractionSplitConfig):
    """One cut in time for all users."""

    kind: Literal["temporal"]
    """The newest rows are test, those before them valid; rows of one instant stay together."""


class LeaveLastOutSplitConfig(Section):
    """The newest interaction of each user."""

    kind: Literal["leave_last_out"]
    """Each user's last positive event is test, the one before it valid. All rows of one item at one instant
    are one event; a row that is not positive goes with the time that it falls in."""
    min_rows: int = Field(3, ge=3)
    """Users with fewer positive events than this are train only."""


class RandomSplitConfig(FractionSplitConfig):
    """A stable random share of rows."""

    kind: Literal["random"]
    """By a hash of the row's place in the source and dataset.seed: stable from run to run."""


class GivenSplitConfig(Section):
    """The source says it."""

    kind: Literal["given"]
    """The column source.roles.split holds train, valid or test."""


SplitConfig = Annotated[
    TemporalSplitConfig | LeaveLastOutSplitConfig | RandomSplitConfig | GivenSplitConfig,
    Field(discriminator="kind"),
]


def rule_text(positive: str | float) -> str:
    """dataset.positive in words."""
    rules = {"all": "every row", "above_zero": "label > 0"}
    return rules.get(positive) or f"label >= {positive:g}"


class DatasetConfig(Section):
    """What `prepare` writes and `train` reads."""

    path: Path
    """Directory of the dataset, local or gs://."""
    user_ids: IdsConfig = VocabIdsConfig()
    """How user keys become table rows."""
    item_ids: IdsConfig = VocabIdsConfig()
    """How item keys become table rows."""
    feature_ids: dict[str, IdsConfig] = {}
    """Per categorical side feature; vocab when not named."""
    positive: Literal["above_zero", "all"] | float = "above_zero"
    """Which rows are positive: above_zero, those of a label above 0 (right for 0/1, -1/+1, counts, ratings
    from 1); a number, those of at least that label; or all. two_tower trains on positives; targets, seen
    items, histories, popularity, counts of keys and logQ are of positives. dot_bias trains on all rows."""
    min_label: float | None = None
    """Rows with a lower label are left out, of everything (counted as filtered, not as rejected)."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Rows of the same user, item and instant: drop keeps the one of the highest label, of equals the first;
    keep keeps them all. Both are counted. Without source.roles.timestamp no two rows are duplicates."""
    split: SplitConfig = Field(default_factory=lambda: RandomSplitConfig(kind="random"))
    """How rows fall into train, valid and test; when not given, temporal where there is
    source.roles.timestamp, else random."""
    history_length: int | None = Field(None, ge=0, le=512)
    """Number of the user's newest earlier positive items kept with each row; 0 keeps none. When not given: 50
    where the model reads history, else 0."""
    num_shards: int = Field(8, ge=1, le=65536)
    """Number of files of the train split."""
    seed: Seed = 0
    """Seed of the shuffle of rows over and inside the shards, and of the random split."""

    @field_validator("positive", mode="before")
    @classmethod
    def _rule_is_known(cls, value):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value in ("above_zero", "all") or is_number:
            return value
        raise ValueError(f"above_zero, all or a number is possible here, found {value!r}")

    def is_positive(self, labels):
        """Which rows are positive: NumPy bool [n]; labels: float32 [n]."""
        if self.positive == "all":
            return labels == labels  # none is NaN
        if self.positive == "above_zero":
            return labels > 0
        return labels >= self.positive

    @property
    def positive_rule(self) -> str:
        """What makes a row positive, in words."""
        return rule_text(self.positive)

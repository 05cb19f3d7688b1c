"""The `dataset` section: ids, splits, history and the files that `prepare` writes."""

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from configs.sections.base import KeptAt, Section, Seed, of_kind


class VocabIdsConfig(Section):
    """Exact dense ids."""

    kind: Literal["vocab"] = "vocab"
    """Ids 0..n-1 by descending number of positive train rows, ties by key; one more row, n, for all other
    keys."""
    min_count: int = Field(1, ge=1)
    """Keys with fewer positive train rows share the out-of-vocabulary row. With dataset.base, rows of earlier
    datasets count too, whatever their split."""
    max_rows: int | None = Field(None, ge=2)
    """Largest number of rows of the table, the out-of-vocabulary row included; null: no limit. The keys with
    the most positive train rows are admitted. With dataset.base, keys that have a row keep it; new keys take
    what is left, and rows of keys that were not seen for longest, see expire_days."""
    expire_days: float | None = Field(None, gt=0)
    """With dataset.base: new keys take the rows of keys that have had no row in the source for this many days
    before the newest row, of those not seen for longest first, and only then new rows; null: keys stay for
    good, and with max_rows new ones find no row once the table is full."""

    @property
    def known_rows(self) -> int | None:
        """Rows of the table before the dataset is prepared; None: they depend on it."""
        return None


class HashIdsConfig(Section):
    """Hashed ids."""

    kind: Literal["hash"]
    """Id = FarmHash Fingerprint64(key as text) mod rows, as tf.strings.to_hash_bucket_fast."""
    rows: int = Field(ge=1)
    """Number of rows of the table."""

    @property
    def known_rows(self) -> int | None:
        """As VocabIdsConfig.known_rows."""
        return self.rows


class GivenIdsConfig(Section):
    """Ids by a vocabulary file."""

    kind: Literal["given"]
    """Id = the key's line in `path`, from 0; other keys share the oov_rows rows after them by their hash."""
    path: KeptAt
    """UTF-8 text with one key a line, each once; local or gs://."""
    oov_rows: int = Field(1, ge=1, le=2**24)
    """Rows for keys that are not in the file: lines + Fingerprint64(key) mod oov_rows."""

    @property
    def known_rows(self) -> int | None:
        """As VocabIdsConfig.known_rows; the file is read by prepare."""
        return None


IdsConfig = Annotated[
    VocabIdsConfig | HashIdsConfig | GivenIdsConfig, Field(discriminator="kind"), of_kind("vocab")
]


class FractionSplitConfig(Section):
    """What splits by fractions of the rows share."""

    valid_fraction: float = Field(0.1, ge=0, lt=1)
    """Fraction of rows in valid."""
    test_fraction: float = Field(0.1, gt=0, lt=1)
    """Fraction of rows in test."""

    @model_validator(mode="after")
    def _something_is_left(self) -> "FractionSplitConfig":
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError("valid_fraction + test_fraction leave no rows to train on; lower one of them")
        return self


class TemporalSplitConfig(FractionSplitConfig):
    """Cuts in time, the same for all users."""

    kind: Literal["temporal"]
    """The newest rows are test, those before them valid; rows of one instant stay in one split."""


class LeaveLastOutSplitConfig(Section):
    """The newest interaction of each user."""

    kind: Literal["leave_last_out"]
    """Each user's last positive event is test, the one before it valid. All rows of one item at one instant
    are one event; a row that is not positive goes to the split of its time."""
    min_rows: int = Field(3, ge=3)
    """Users with fewer positive events have all rows in train."""


class RandomSplitConfig(FractionSplitConfig):
    """A stable random sample of rows."""

    kind: Literal["random"]
    """By a hash of the row's position in the source and dataset.seed, so equal in every run."""


class GivenSplitConfig(Section):
    """A split that the source defines."""

    kind: Literal["given"]
    """The column source.roles.split holds train, valid or test."""


SplitConfig = Annotated[
    TemporalSplitConfig | LeaveLastOutSplitConfig | RandomSplitConfig | GivenSplitConfig,
    Field(discriminator="kind"),
]


def rule_text(positive: str | float) -> str:
    """dataset.positive in words."""
    rules = {"all": "every row", "above_zero": "label > 0"}
    return rules[positive] if isinstance(positive, str) else f"label >= {positive:g}"


class DatasetConfig(Section):
    """What `prepare` writes and `train` reads."""

    path: KeptAt
    """Directory of the dataset, local or gs://."""
    base: KeptAt | None = None
    """An earlier dataset on which this one stands: its keys keep their ids, and its histories, seen items and
    counts continue. The source then holds the rows since. null: the dataset stands alone."""
    refresh_statistics: bool = False
    """With dataset.base: means, deviations and quantiles of numbers are those of this source's rows; by
    default those of the base stay, so that a model trained on it reads equal values alike."""
    user_ids: IdsConfig = VocabIdsConfig()
    """How user keys become table rows."""
    item_ids: IdsConfig = VocabIdsConfig()
    """How item keys become table rows."""
    feature_ids: dict[str, IdsConfig] = {}
    """How keys of categorical and list features become table rows, by table; '*': of all tables that are not
    named. vocab by default."""
    positive: Literal["above_zero", "all"] | float = "above_zero"
    """Which rows are positive: above_zero, those with a label above 0 (right for 0/1, -1/+1, counts, ratings
    from 1); a number, those with at least that label; or all. two_tower trains on positive rows; targets,
    seen items, histories, popularity, counts of keys and logQ use positive rows. dot_bias trains on all
    rows."""
    counted_rows: Literal["positive", "all"] | None = None
    """Which train rows count: in vocabularies with their min_count, and in means and quantiles of numbers.
    Defaults to all with model.kind ranking, which trains on all rows, else to positive."""
    keep_negatives: float = Field(1.0, gt=0, le=1)
    """Share of the negative train rows that are kept, by a hash of the row, the same in every run; valid and
    test keep all. Only with model.kind ranking, which corrects its probabilities for it: p / (p + (1 - p) /
    keep_negatives). A row is negative if all of its labels are 0 or empty."""
    min_label: float | None = None
    """Leave out rows with a lower label altogether; they are counted as filtered, not as rejected."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Rows with the same user, item and instant: drop keeps the one with the highest label (the first of
    equal ones), keep keeps all. Both count them. Without source.roles.timestamp no two rows are
    duplicates."""
    split: SplitConfig = Field(default_factory=lambda: RandomSplitConfig(kind="random"))
    """How rows are divided into train, valid and test; defaults to temporal if source.roles.timestamp is set,
    else to random."""
    history_length: int | None = Field(None, ge=0, le=512)
    """Largest number of the user's other positive items stored with each row, see history_of; 0: none.
    Defaults to 50 if the model reads history, else to 0."""
    history_of: Literal["earlier", "others"] | None = None
    """Which items a history holds. earlier: the newest ones of earlier rows. others: for rows without an
    order, the user's distinct train items except the row's own item; of more than history_length, a sample
    that is the same in every run. Defaults to earlier if source.roles.timestamp is set or the split is
    leave_last_out; to others if the split is random; else, with the split given, to earlier, unless the
    source's first 200,000 rows are sorted by item within each user. others requires the split random or
    given."""
    num_shards: int = Field(8, ge=1, le=65536)
    """Number of files of the train split."""
    seed: Seed = 0
    """Seed of the random split, and of the shuffle of rows across and within the shards."""

    @model_validator(mode="after")
    def _history_suits_the_split(self) -> "DatasetConfig":
        if self.history_of == "others" and self.split.kind in ("temporal", "leave_last_out"):
            raise ValueError(
                "history_of: others ignores the order of rows, by which split.kind "
                f"{self.split.kind} divides them; use earlier, or split.kind random or given"
            )
        return self

    @field_validator("positive", mode="before")
    @classmethod
    def _rule_is_known(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value in ("above_zero", "all") or is_number:
            return value
        raise ValueError(f"must be above_zero, all or a number, found {value!r}")

    def is_positive(self, labels: np.ndarray) -> np.ndarray:
        """Which rows are positive: NumPy bool [n]; labels: float32 [n]."""
        if self.positive == "all":
            return np.ones(len(labels), bool)
        if isinstance(self.positive, str):  # above_zero
            return np.asarray(labels > 0)
        return np.asarray(labels >= self.positive)

    def is_counted(self, labels: np.ndarray) -> np.ndarray:
        """Which train rows count, according to counted_rows: NumPy bool [n]; labels: float32 [n]."""
        return np.ones(len(labels), bool) if self.counted_rows == "all" else self.is_positive(labels)

    @property
    def positive_rule(self) -> str:
        """What makes a row positive, in words."""
        return rule_text(self.positive)

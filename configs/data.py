"""The `dataset` section: ids, splits, history and the files that `prepare` writes."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.section import Path, Section, Seed


class VocabIds(Section):
    """Exact dense ids."""

    kind: Literal["vocab"] = "vocab"
    """ids 0..n-1 by falling train frequency, ties by key; one more row, n, for all other keys."""
    min_count: int = Field(1, ge=1)
    """Keys with fewer train rows share the out-of-vocabulary row."""


class HashIds(Section):
    """Hashed ids."""

    kind: Literal["hash"]
    """id = FarmHash Fingerprint64(key as text) mod rows, as tf.strings.to_hash_bucket_fast."""
    rows: int = Field(ge=1)
    """Number of rows of the table."""


IdsConfig = Annotated[VocabIds | HashIds, Field(discriminator="kind")]


class FractionSplit(Section):
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


class TemporalSplit(FractionSplit):
    """One cut in time for all users."""

    kind: Literal["temporal"]
    """The newest rows are test, those before them valid; rows of one second stay together."""


class LeaveLastOutSplit(Section):
    """The newest interaction of each user."""

    kind: Literal["leave_last_out"]
    """Each user's last row is test, the one before it valid."""
    min_rows: int = Field(3, ge=3)
    """Users with fewer rows than this are train only."""


class RandomSplit(FractionSplit):
    """A stable random share of rows."""

    kind: Literal["random"]
    """By a hash of the row's place in the source and dataset.seed: stable from run to run."""


class GivenSplit(Section):
    """The source says it."""

    kind: Literal["given"]
    """The column source.roles.split holds train, valid or test."""


SplitConfig = Annotated[
    TemporalSplit | LeaveLastOutSplit | RandomSplit | GivenSplit, Field(discriminator="kind")
]


class DatasetConfig(Section):
    """What `prepare` writes and `train` reads."""

    path: Path
    """Directory of the dataset, local or gs://."""
    user_ids: IdsConfig = VocabIds()
    """How user keys become table rows."""
    item_ids: IdsConfig = VocabIds()
    """How item keys become table rows."""
    feature_ids: dict[str, IdsConfig] = {}
    """Per categorical side feature; vocab when not named."""
    split: SplitConfig = Field(default_factory=lambda: RandomSplit(kind="random"))
    """How rows fall into train, valid and test."""
    history_length: int | None = Field(None, ge=0, le=512)
    """Number of the user's newest earlier items kept with each row; 0 keeps none. When not given: 50 where
    the model reads history, else 0."""
    min_label: float | None = None
    """Rows with a lower label are left out (counted as filtered, not as rejected)."""
    num_shards: int = Field(8, ge=1, le=65536)
    """Number of files of the train split."""
    seed: Seed = 0
    """Seed of the shuffle of rows over and inside the shards, and of the random split."""

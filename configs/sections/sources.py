"""The `source` section: where raw interactions come from, one class per kind of source."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from configs.sections.base import Section, Seed

# Columns of records and catalogs (configs/manifest.py), and inputs of a model's loss besides features.
RESERVED_NAMES = frozenset(
    "user item label weight timestamp history history_length history_mask log_q negative "
    "id key count sequence sequence_split sequence_length".split()
)

# What pandas, R, SQL and the dumps of MySQL and Hive write; pandas reads nearly the same list.
NULLS = (
    *("NULL", "Null", "null", "None", "none", "NaN", "nan", "NAN", "-nan", "-NaN", "NaT", "<NA>"),
    *("NA", "N/A", "n/a", "#N/A", "#NA", "#N/A N/A", "\\N", "nil", "undefined", "(null)", "<null>"),
    *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)


class RolesConfig(Section):
    """Which column of the source has which role."""

    user: str = "user"
    """Column with the user's key (any text or integer)."""
    item: str = "item"
    """Column with the item's key (any text or integer)."""
    label: str | None = None
    """Column with a number: a rating, or 0/1; dataset.positive defines which rows are positive. Without it
    every row is positive, with label 1."""
    timestamp: str | None = None
    """Column with the time of the interaction. Without it rows count as ordered by time."""
    weight: str | None = None
    """Column with the weight of the row in the loss, at least 0."""
    split: str | None = None
    """Column with train, valid or test; only with dataset.split.kind: given."""


class SideFeatureConfig(Section):
    """A further column that describes the user or the item."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Name of the feature in the dataset, the model and the table."""
    column: str | None = None
    """Column of the source; defaults to the feature's name."""
    of: Literal["user", "item"]
    """Whose feature it is. Training uses the value in the row, evaluation the value known at that time,
    serving the newest known value of the user or item (configs/manifest.py). An empty value does not count as
    known."""
    kind: Literal["categorical", "numeric"]
    """categorical: a key that gets an id according to dataset.feature_ids; numeric: a float32."""
    missing: float | None = Field(None, allow_inf_nan=False)
    """Value of a numeric feature in rows where it is empty or null; without it such rows are rejected."""

    @property
    def source_column(self) -> str:
        return self.column or self.name

    @model_validator(mode="after")
    def _keys_have_no_missing(self) -> "SideFeatureConfig":
        if self.kind == "categorical" and self.missing is not None:
            raise ValueError(
                "missing applies to numeric features only; remove it, since an empty category is a category"
            )
        return self


class FileSourceConfig(Section):
    """What all file sources share."""

    paths: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    """Files, directories or globs, local or gs://. Rows are read in this order, inside a directory or glob in
    natural order (events_8 before events_10), each file once; docs/prepare.md lists what is left out. Text
    compressed by gzip, bzip2, xz, zstd or zip (one file inside) is decompressed, whatever its name."""
    roles: RolesConfig = RolesConfig()
    """Which column has which role."""
    features: list[SideFeatureConfig] = []
    """Side features."""
    timestamp_unit: Literal["s", "ms", "us", "ns", "iso8601"] = "s"
    """Unit of numeric timestamps, which may have a fraction, or iso8601 for text (pipelines/rows/times.py
    lists its forms). The dataset stores nanoseconds, so order is kept. Rows of one instant keep the order of
    the source."""
    nulls: list[str] = list(NULLS)
    """Spellings of a missing value, besides empty text. A row with a missing key, label, weight or time is
    rejected; a missing category becomes the empty one; a numeric feature takes its `missing`."""
    clean_keys: bool = True
    """Strip outer blanks from keys, and a fraction of zeros from integers (17.0 becomes 17); false: keep keys
    as they are."""
    max_rejected_fraction: float = Field(0.01, ge=0, le=1)
    """Largest fraction of rejected rows; above it the job fails and publishes nothing."""

    @model_validator(mode="after")
    def _feature_names_differ(self) -> "FileSourceConfig":
        names = [feature.name for feature in self.features]
        for name in names:
            if names.count(name) > 1 or name in RESERVED_NAMES:
                raise ValueError(f"feature name {name!r} is already in use; choose another")
        return self


class DelimitedSourceConfig(FileSourceConfig):
    """Delimited text."""

    kind: Literal["delimited"]
    """Delimited text, one interaction per line."""
    delimiter: str = Field(",", min_length=1, max_length=8)
    """Separator of columns, such as ',', '::' or '\\t' for a tab."""
    header: bool = True
    """Whether each file's first line names the columns."""
    columns: list[str] = []
    """Names of the columns, left to right; required when header is false."""
    quote: str | None = Field('"', min_length=1, max_length=1)
    """Quoting character (RFC 4180); null: quotes are ordinary text. Quoted values may contain newlines."""
    escape: str | None = Field(None, min_length=1, max_length=1)
    """Character that makes the next one ordinary text, such as a backslash; null: none."""

    @field_validator("delimiter")
    @classmethod
    def _unescape(cls, value: str) -> str:
        r"""Decodes \t and \x01, which YAML leaves as they are in plain text and single quotes."""
        if not value.startswith("\\") or len(value) == 1:
            return value
        if found := re.fullmatch(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4}))", value):
            return chr(int(found[1] or found[2], 16))
        if value == "\\t":
            return "\t"
        raise ValueError(
            f"{value!r} is not a delimiter; write '\\t' for a tab, '\\x01' for a control character"
        )

    @model_validator(mode="after")
    def _special_characters_differ(self) -> "DelimitedSourceConfig":
        for name in ("quote", "escape"):
            value = getattr(self, name)
            if value is not None and (value in self.delimiter or not value.isascii() or value in "\r\n"):
                raise ValueError(f"{name} {value!r} must be one ASCII character outside the delimiter")
        if self.quote is not None and self.quote == self.escape:
            raise ValueError("escape equals quote; remove escape, because doubled quotes need none")
        if any(character in self.delimiter for character in "\r\n\0"):
            raise ValueError("delimiter must not contain a line end or a NUL")
        return self

    @model_validator(mode="after")
    def _columns_are_known(self) -> "DelimitedSourceConfig":
        if not self.header and not self.columns:
            raise ValueError("header: false requires columns: [names, left to right]")
        if self.header and self.columns:
            raise ValueError(
                "columns requires header: false, because a header names the columns; remove columns"
            )
        return self


class JsonlSourceConfig(FileSourceConfig):
    """JSON lines."""

    kind: Literal["jsonl"]
    """One JSON object per line."""


class ParquetSourceConfig(FileSourceConfig):
    """Parquet files."""

    kind: Literal["parquet"]
    """Parquet, read by row groups."""


class SyntheticSourceConfig(Section):
    """A planted model with a known optimum; configs/planted.py has the formulas."""

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
    def features(self) -> list[SideFeatureConfig]:
        return []

    @property
    def max_rejected_fraction(self) -> float:
        return 0.0


SourceConfig = Annotated[
    DelimitedSourceConfig | JsonlSourceConfig | ParquetSourceConfig | SyntheticSourceConfig,
    Field(discriminator="kind"),
]

"""The `source` section: where raw interactions come from, one class per kind of source."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.sections.base import Section
from configs.sections.features import (
    FeatureConfig,
    ListFeatureConfig,
    VectorFeatureConfig,
    check_crosses,
    check_names,
)
from configs.sections.roles import RolesConfig
from configs.sections.source_kinds.bigquery import BigQueryFormat
from configs.sections.source_kinds.synthetic import SyntheticClicksSourceConfig, SyntheticSourceConfig

# What pandas, R, SQL and the dumps of MySQL and Hive write; pandas reads nearly the same list.
NULLS = (
    *("NULL", "Null", "null", "None", "none", "NaN", "nan", "NAN", "-nan", "-NaN", "NaT", "<NA>"),
    *("NA", "N/A", "n/a", "#N/A", "#NA", "#N/A N/A", "\\N", "nil", "undefined", "(null)", "<null>"),
    *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)


class FilesConfig(Section):
    """Where the files of a table are."""

    paths: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    """Files, directories or globs, local or gs://. Rows are read in this order, inside a directory or glob in
    natural order (events_8 before events_10), each file once; docs/prepare.md lists what is left out. Text
    compressed by gzip, bzip2, xz, zstd or zip (one file inside) is decompressed, whatever its name."""

    @property
    def where(self) -> str:
        """What is read, for messages."""
        return ", ".join(self.paths)


class TableConfig(Section):
    """What all tables share."""

    features: list[FeatureConfig] = []
    """Features made of further columns."""
    nulls: list[str] = list(NULLS)
    """Spellings of a missing value, besides empty text. A row with a missing key, label, weight or time is
    rejected; a missing category becomes the empty one; a numeric feature takes its `missing`."""
    clean_keys: bool = True
    """Strip outer blanks from keys, and a fraction of zeros from integers (17.0 becomes 17); false: keep keys
    as they are."""
    max_rejected_fraction: float = Field(0.01, ge=0, le=1)
    """Largest fraction of rejected rows; above it the job fails and publishes nothing."""

    @property
    def separates(self) -> bool:
        """Whether lists are text with a separator."""
        return False

    @model_validator(mode="after")
    def _lists_can_be_read(self) -> "TableConfig":
        for feature in self.features:
            if not isinstance(feature, ListFeatureConfig | VectorFeatureConfig):
                continue
            if self.separates and feature.separator is None:
                raise ValueError(
                    f"feature {feature.name!r}: a {feature.kind} in delimited text requires separator, "
                    "such as separator: '|'"
                )
            if not self.separates and feature.separator is not None:
                raise ValueError(
                    f"feature {feature.name!r}: separator applies to delimited text only; remove it, since "
                    "files of this kind have lists of their own"
                )
        return self


class SideTableConfig(TableConfig):
    """What side tables of all kinds share: a table with one row for each user or item."""

    of: Literal["user", "item"]
    """Whose features its columns are."""
    key: str
    """Column with the user's or item's key, which is cleaned like the keys of interactions, so that 1, "1"
    and 1.0 are one key. Users and items without a row have empty values; those that occur only here are in
    the catalog. Two rows of one key must have the same values unless keep says otherwise."""
    keep: Literal["newest"] | None = None
    """newest: of several rows of one key, take the one with the largest order_by (the last of equal ones)."""
    order_by: str | None = None
    """Column with numbers or ISO 8601 times, which tells the newest row; required by keep: newest."""

    @model_validator(mode="before")
    @classmethod
    def _features_are_of_its_owner(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("features"), list):
            return values
        of, features = values.get("of"), []
        for feature in values["features"]:
            if isinstance(feature, dict):
                if feature.get("of", of) != of:
                    raise ValueError(
                        f"feature {feature.get('name')!r}: of: {feature['of']} in a side table of: {of}; "
                        "remove it"
                    )
                feature = feature | {"of": of}
            features.append(feature)
        return values | {"features": features}

    @model_validator(mode="after")
    def _parts_agree(self) -> "SideTableConfig":
        if (self.keep is None) != (self.order_by is None):
            raise ValueError("keep: newest and order_by require each other; set both or neither")
        if not self.features:
            raise ValueError("features: name at least one, or remove the side table")
        check_crosses(self.features, "this side table")
        return self

    @property
    def all_features(self) -> list[FeatureConfig]:
        """As SourceTableConfig.all_features."""
        return self.features

    @property
    def timestamp_unit(self) -> str:
        """How order_by is read: as text of any form."""
        return "iso8601"

    @property
    def has_columns(self) -> bool:
        """Whether a file says which columns it has."""
        return True


class DelimitedFormat(Section):
    """How delimited text is written."""

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
    def _special_characters_differ(self) -> "DelimitedFormat":
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
    def _columns_are_known(self) -> "DelimitedFormat":
        if not self.header and not self.columns:
            raise ValueError("header: false requires columns: [names, left to right]")
        if self.header and self.columns:
            raise ValueError(
                "columns requires header: false, because a header names the columns; remove columns"
            )
        return self


class DelimitedSideConfig(SideTableConfig, FilesConfig, DelimitedFormat):
    """Delimited text."""

    kind: Literal["delimited"]
    """Delimited text, one user or item per line."""

    @property
    def separates(self) -> bool:
        """As FilesConfig.separates."""
        return True


class JsonlSideConfig(SideTableConfig, FilesConfig):
    """JSON lines."""

    kind: Literal["jsonl"]
    """One JSON object per line."""

    @property
    def has_columns(self) -> bool:
        """As SideTableConfig.has_columns."""
        return False


class ParquetSideConfig(SideTableConfig, FilesConfig):
    """Parquet files."""

    kind: Literal["parquet"]
    """Parquet, read by row groups."""


class TFRecordFormat(Section):
    """How TFRecord files are written."""

    compression: Literal["auto", "none", "gzip", "zlib"] = "auto"
    """Compression of whole files, as tf.io.TFRecordOptions names it. auto: recognized by the first bytes of
    each file."""


class TFRecordSideConfig(SideTableConfig, FilesConfig, TFRecordFormat):
    """TFRecord files."""

    kind: Literal["tfrecord"]
    """TFRecord files of tf.train.Example, one user or item per record; columns are features by name."""

    @property
    def has_columns(self) -> bool:
        """As SideTableConfig.has_columns."""
        return False


class BigQuerySideConfig(SideTableConfig, BigQueryFormat):
    """A table or query in BigQuery."""

    kind: Literal["bigquery"]
    """A table or the result of a query in BigQuery, one user or item per row."""


SideConfig = Annotated[
    BigQuerySideConfig | DelimitedSideConfig | JsonlSideConfig | ParquetSideConfig | TFRecordSideConfig,
    Field(discriminator="kind"),
]


class SourceTableConfig(TableConfig):
    """What the tables of interactions of all kinds share."""

    roles: RolesConfig = RolesConfig()
    """Which column has which role."""
    timestamp_unit: Literal["s", "ms", "us", "ns", "iso8601"] = "s"
    """Unit of numeric timestamps, which may have a fraction, or iso8601 for text (pipelines/rows/times.py
    lists its forms). The dataset stores nanoseconds, so order is kept. Rows of one instant keep the order of
    the source."""
    sides: list[SideConfig] = []
    """Side tables with features of users and items, joined by key."""

    @property
    def all_features(self) -> list[FeatureConfig]:
        """The features of the interactions' columns and of all side tables."""
        return [*self.features, *(feature for side in self.sides for feature in side.features)]

    @model_validator(mode="after")
    def _features_are_complete(self) -> "SourceTableConfig":
        for feature in self.features:
            if feature.of is None:
                raise ValueError(f"feature {feature.name!r}: of is required: user, item or context")
            if isinstance(feature, VectorFeatureConfig):
                raise ValueError(
                    f"feature {feature.name!r}: a vector must be in a side table (source.sides), so that it "
                    "is stored once for each user or item; move it there"
                )
        for side in self.sides:
            if any(feature.of == "context" for feature in side.features):
                raise ValueError("source.sides: a side table has no context features")
        check_names(self.all_features)
        check_crosses(self.features, "source.features")
        return self


class FileSourceConfig(SourceTableConfig, FilesConfig):
    """What all file sources share."""


class DelimitedSourceConfig(FileSourceConfig, DelimitedFormat):
    """Delimited text."""

    kind: Literal["delimited"]
    """Delimited text, one interaction per line."""

    @property
    def separates(self) -> bool:
        """As FilesConfig.separates."""
        return True


class JsonlSourceConfig(FileSourceConfig):
    """JSON lines."""

    kind: Literal["jsonl"]
    """One JSON object per line."""


class ParquetSourceConfig(FileSourceConfig):
    """Parquet files."""

    kind: Literal["parquet"]
    """Parquet, read by row groups."""


class TFRecordSourceConfig(FileSourceConfig, TFRecordFormat):
    """TFRecord files."""

    kind: Literal["tfrecord"]
    """TFRecord files of tf.train.Example, one interaction per record; columns are features by name. A missing
    feature, or an empty list, is a missing value."""


class BigQuerySourceConfig(SourceTableConfig, BigQueryFormat):
    """A table or query in BigQuery."""

    kind: Literal["bigquery"]
    """A table or the result of a query in BigQuery, read through the Storage Read API; requires
    `pip install lazytower[bigquery]`."""


def places_of(section: dict[str, Any]) -> list[str]:
    """What the table of a section, as JSON, is read from: its files, or its table in BigQuery."""
    return section.get("paths") or [f"bigquery:{section.get('table') or 'query'}"]


SourceConfig = Annotated[
    BigQuerySourceConfig
    | DelimitedSourceConfig
    | JsonlSourceConfig
    | ParquetSourceConfig
    | TFRecordSourceConfig
    | SyntheticSourceConfig
    | SyntheticClicksSourceConfig,
    Field(discriminator="kind"),
]

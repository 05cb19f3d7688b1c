"""dataset.json: the contract between `prepare`, which writes a dataset, and everything that reads it.

A dataset directory holds
  dataset.json                      written last; a directory without it is not a dataset
  train/ valid/ test/               columnar records (see RECORD COLUMNS)
  positives/                        train's positive rows again; absent if all are, or without users or items
  users/ items/                     catalogs (see CATALOG COLUMNS)
  vocabularies/                     raw values of categorical features with vocab ids: id, key, count
  rejected/                         rejected rows with their reasons, as JSON lines

A row is positive according to dataset.positive and its label. Rows of a user are ordered by time; rows of one
instant keep the order of the source: files as listed, lines from first to last. If dataset.duplicates is
drop, no two rows have the same user, item and instant. Train rows count according to dataset.counted_rows.

Every record file is a GZIP TFRecord of columnar tf.train.Example: each feature lists the values of up to
`block_rows` rows, one after the other. All blocks of a file but the last are full.

RECORD COLUMNS  user, item: int64 ids; label, weight: float32 (weight only if the source has it);
  label/<name>: float32, each further label of source.roles.labels; NaN where it is empty;
  timestamp: int64 nanoseconds since 1970, or, when the source has no timestamp, the row's number, counted
  from 0 over the lines of all files in the order of source.paths (without headers; rejected and blank lines
  leave gaps); each feature that lives in records (see FEATURES), its value in this row; and, when
  history_length > 0, history: int64 item ids, oldest first, of all rows of the block one after the other, and
  history_length: int64 [rows], how many of them belong to each row. A row's history holds the user's newest
  earlier positive in-vocabulary items: from train for train and valid rows, from train and valid for test
  rows. user and item are catalog ids (see IDS). A source without users (source.roles.user) has no column,
  table, catalog rows or features of them; likewise without items. Train rows left out by keep_negatives
  count, and are in catalogs and histories. With history_of `others` a history holds, for rows of every split,
  the distinct in-vocabulary items of the user's positive train rows, without the row's own item, at most
  history_length of them. These m items form a circle by rising configs.splitmix.history_order(dataset.seed,
  user, item). The history of a held-out row begins at the lowest, that of a train row at place h mod m, where
  h = pipelines.rows.hashes.hash_rows(row's number in the source, dataset.seed, 3).
IDS  A table has `rows` rows. With vocab ids, 0..rows - 2 are the admitted keys and rows - 1 is the
  out-of-vocabulary row. Further users and items, which have too few train rows or occur in held-out splits or
  side tables only, have catalog ids from `rows` on, by key: their catalog rows and features are their own,
  and they share the out-of-vocabulary row. So the table row of a catalog id is min(id, rows - 1), and
  catalog_rows is rows plus the further users or items. With hashed ids the catalog id is the table
  row. With given ids, 0..keys - 1 are the lines of the vocabulary file, followed by oov_rows rows for other
  keys, by their hash. Of the further users and items with such a key, those of row keys + r have the catalog
  ids rows + r, rows + r + oov_rows, rows + r + 2 oov_rows ... by key; some ids below catalog_rows are unused.
CATALOG COLUMNS  users/: id (catalog id), key (bytes), count (train rows that count), the user features, and
  sequence, sequence_split: int64, the catalog ids of the items of all the user's positive rows, oldest first,
  and the split of each (0 train, 1 valid, 2 test), with sequence_length: int64 [rows]; none without items.
  items/: id, key and count as of users, the item features.
  A catalog has one row per catalog id in use, never the out-of-vocabulary row; users that are in no side
  table and on the out-of-vocabulary row are in it too. With hashed ids, of the keys that share an id the most
  frequent in train is written (ties: the smallest); count and sequence cover all of them.
FEATURES  Columns by kind, in records and catalogs alike: categorical and cross: int64 ids of the feature's
  table. numeric: float32 as in the source, before its steps; NaN where it is empty and has no `missing`.
  list: int64 ids, those of all rows of the block one after the other, <name>/length: int64 [rows], and, if
  it is weighted, <name>/weight: float32, one per id. vector: no column, but files of its own in the catalog's
  directory: float32 little-endian [rows of the file, dim] by catalog id, VECTOR_ROWS rows to a file and
  catalog_rows in all; zeros where there is none.
  A feature of a side table (`lives: catalog`) is in the catalog only, and has one value for all times. A
  feature of a column of the interactions (`lives: records`) is in the records, and, unless it is of the
  context, in the catalog as of three points in time (FEATURES IN CATALOGS; lists: <name>@valid/length ...).
FEATURES IN CATALOGS  feature: the newest known value, for serving. feature@valid and feature@test: the value
  that evaluation of that split may use. For a user, the newest known value not later than the user's first
  positive row in the split (without such a row: as in feature); for an item, the newest known value in rows
  of earlier splits. A value is known if it is not empty, and that of a cross if all of its keys are. If none
  is known, the empty value is written: the id of the empty key, an empty list, a number's `missing` or NaN.
"""

import json
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator

from configs.errors import DataError
from configs.sections.base import Section
from configs.sections.features import Step
from configs.sections.roles import PLANTED_LABEL
from configs.system.storage import inner_path, read_bytes

MANIFEST_FILE = "dataset.json"
SPLITS = ("train", "valid", "test")
BLOCK_ROWS = 4096
VECTOR_ROWS = 1 << 16
"""Rows of a vector file; the last one holds the rest."""
FORMAT: Literal[3] = 3
Count = Annotated[int, Field(ge=0, lt=2**48)]


class FileInfo(Section):
    """One record file."""

    path: Annotated[str, AfterValidator(inner_path)]
    """Relative to the dataset directory."""
    rows: Count
    """Rows in all blocks."""
    bytes: Count
    """Size of the file."""
    crc32c: str
    """CRC-32C of the file's bytes, eight hexadecimal digits."""


class LabelInfo(Section):
    """A further label in the rows of one split."""

    known: Count
    """Rows in which it is not empty."""
    ones: Count
    """Rows in which it is above 0."""


class SplitInfo(Section):
    """One split."""

    rows: Count
    """Rows in all files."""
    files: list[FileInfo]
    """Files in order."""
    min_timestamp: int | None
    """Oldest row, nanoseconds; null when empty."""
    max_timestamp: int | None
    """Newest row, nanoseconds; null when empty."""
    positives: int
    """Positive rows among them."""
    labels: dict[str, LabelInfo] = {}
    """By name."""
    cold_users: int = 0
    """Users with positive rows here but none in train; with hashed ids they are in the catalog."""
    cold_user_rows: int = 0
    """Their positive rows."""
    rare_users: int = 0
    """Users with positive rows here and in train, but fewer in train than user_ids.min_count."""
    rare_user_rows: int = 0
    """Their positive rows."""


class TableInfo(Section):
    """The ids of one embedding table."""

    ids: Literal["vocab", "hash", "given", "buckets"]
    """How keys become ids; buckets: of a numeric feature, by its boundaries."""
    rows: Count
    """Rows of the table, out-of-vocabulary rows included."""
    oov: Count | None
    """Id of the (first) out-of-vocabulary row; null with hash and buckets."""
    oov_rows: Count = 1
    """Number of out-of-vocabulary rows, which follow each other; more than one with given only."""
    keys: Count
    """Distinct keys with train rows that count (vocab: at least min_count; given: keys of the file; buckets:
    buckets of values that are not empty; side tables: keys of users or items with such rows)."""
    oov_keys: Count = 0
    """Distinct keys of all splits and side tables that share the out-of-vocabulary row; 0 with hash."""
    catalog_rows: Count = 0
    """Bound of the catalog ids, at least `rows`; user and item only."""
    files: list[FileInfo] = []
    """Vocabulary of the table, by rising id; empty for user and item, and with hash and buckets."""

    def row_of(self, ids: Any) -> Any:
        """Table rows of catalog ids, in NumPy; see IDS. In TensorFlow: trainer.data.lookups.table_rows."""
        if self.oov is None:
            return ids
        return np.where(ids < self.rows, ids, self.oov + (ids - self.rows) % self.oov_rows)

    def has_row(self, ids: np.ndarray) -> np.ndarray:
        """Which catalog ids have a row of their own, not the out-of-vocabulary row: bool [n]."""
        return ids < (self.rows if self.oov is None else self.oov)


class FeatureInfo(Section):
    """One feature; FEATURES in the docstring of this module has its columns."""

    of: Literal["user", "item", "context"]
    """Whose feature it is."""
    kind: Literal["categorical", "list", "numeric", "vector", "cross"]
    """As in the config."""
    lives: Literal["records", "catalog"] = "records"
    """records: a column of the interactions; catalog: of a side table."""
    table: str | None = None
    """Table of its ids, of its buckets too; null: it enters models as numbers."""
    max_length: Count = 0
    """Longest list."""
    weighted: bool = False
    """Whether the keys of a list have weights."""
    steps: list[Step] = []
    """Of a numeric feature: from the stored value to the model's, in order."""
    boundaries: list[float] | None = None
    """Of a numeric feature with buckets, in units after `steps`: bucket b has values v with boundaries[b - 1]
    <= v < boundaries[b]; the bucket after the last one, len(boundaries) + 1, is that of empty values. They
    are float32; configs/transforms.py carries them back to stored values, where comparing is exact."""
    mean: float = 0.0
    """Mean of a numeric feature over train rows that count (of a side table: users or items with such rows),
    after the steps before standardize. Models subtract it; empty values count as the mean."""
    stddev: float = 1.0
    """Standard deviation over the same values, by which models divide; 1 if all are equal."""
    dim: Count = 0
    """Values of a vector."""
    keys: list[str] = []
    """Of a cross: the categorical features whose keys it joins, in order."""
    files: list[FileInfo] = []
    """Of a vector: its files, in the order of ids."""
    coverage: Count = 0
    """Users, items or rows with a known value."""
    values: Count = 0
    """Keys in all rows, or in all users or items if it is of a side table; 0 for numbers and vectors."""
    oov_values: Count = 0
    """Those of them that are out of vocabulary."""

    @property
    def is_numeric(self) -> bool:
        """Whether its stored values are numbers, one a row; otherwise they are ids or vectors."""
        return self.kind == "numeric"

    @property
    def has_keys(self) -> bool:
        """Whether its values are keys, one or several a row, which get ids by its table."""
        return self.kind in ("categorical", "list")

    @property
    def dtype(self) -> Literal["float32", "int64"]:
        """Type of its values in records and catalogs."""
        return "float32" if self.kind in ("numeric", "vector") else "int64"


class SideInfo(Section):
    """What became of one side table."""

    of: Literal["user", "item"]
    """Whose rows it has."""
    rows: Count
    """Rows read."""
    rejected: dict[str, int]
    """Rejected rows by reason."""
    duplicates: Count
    """Further rows of a key, left out."""
    matched: Count
    """Its users or items that occur in the interactions."""
    alone: Count
    """Its users or items that do not."""
    missing: Count
    """Users or items of the interactions without a row in it."""


class CatalogInfo(Section):
    """One catalog."""

    rows: Count
    """Rows in all files."""
    files: list[FileInfo]
    """Files in order."""


class SourceFileInfo(Section):
    """One file that was read."""

    path: str
    """Path, as found through source.paths."""
    bytes: Count
    """Size, as stored."""
    version: str
    """Version of the content as reported by its store without reading it: times and inode, or ETag."""
    content: str
    """Checksum of the stored bytes; the version again if the store has none."""


class Dataset(Section):
    """The whole of dataset.json."""

    format: Literal[3] = FORMAT
    """Version of this contract."""
    fingerprint: str
    """SHA-256 over the checksums of all record files: equal for equal content."""
    source_fingerprint: str
    """SHA-256 over the source section and the source files' names, sizes and contents, in order."""
    source_files: list[SourceFileInfo] = []
    """What was read, in order; empty for a source without files."""
    block_rows: Annotated[Count, Field(ge=1)] = BLOCK_ROWS
    """Rows of a full block."""
    history_length: Count
    """Largest number of items in a row's history; 0: the column is absent."""
    history_of: Literal["earlier", "others"] | None = "earlier"
    """Which items histories hold, see RECORD COLUMNS; null if there are none. Absent from datasets that were
    written before there was a choice."""
    has_weight: bool
    """Whether records hold weight."""
    splits: dict[str, SplitInfo]
    """train, valid, test."""
    positives: SplitInfo | None = None
    """Copies of the positive rows of train; null: see positives/."""
    tables: dict[str, TableInfo]
    """user and item, if the source has them, and those of features."""
    labels: list[str] = []
    """Names of the further labels; their columns are label/<name>."""
    keep_negatives: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the negative train rows that were kept, as dataset.keep_negatives."""
    thinned: Count = 0
    """Negative train rows left out by it."""
    features: dict[str, FeatureInfo]
    """Features, by name."""
    sides: list[SideInfo] = []
    """Side tables, as listed in source.sides."""
    users: CatalogInfo
    """Catalog of users."""
    items: CatalogInfo
    """Catalog of items."""
    source_rows: Count
    """Rows read."""
    rejected: dict[str, int]
    """Rejected rows by reason."""
    filtered: int = 0
    """Rows left out by dataset.min_label."""
    duplicates: int = 0
    """Rows with the user, item and instant of another; left out unless dataset.duplicates is keep."""
    short_users: int = 0
    """With leave_last_out, users with fewer positive events than split.min_rows: all rows are in train."""
    notes: dict[str, int] = {}
    """Counts of values that were not taken literally, and of lines that were not rows: repeated_header,
    null_<column>, outer_blanks_<column>, integer_as_float_<column>."""
    source: dict[str, Any]
    """The source section as run."""
    dataset: dict[str, Any]
    """The dataset section as run."""
    path: str = Field("", exclude=True)
    """Directory it was read from; not written."""

    @model_validator(mode="after")
    def _is_whole(self) -> "Dataset":
        owners = [name for name, its in (("user", self.users), ("item", self.items)) if its.files]
        for field, names in (("splits", SPLITS), ("tables", owners)):
            for name in names:
                if name not in getattr(self, field):
                    raise ValueError(f"{field}.{name} is missing")
        return self

    @property
    def section(self) -> dict[str, Any]:
        """The dataset section as run, with the keys that sections of before lack."""
        history_of = self.history_of if self.history_length else None
        return {"counted_rows": "positive", "keep_negatives": 1.0} | self.dataset | {"history_of": history_of}

    def training_split(self, positives_only: bool) -> SplitInfo:
        """The rows that a model trains on: all of train, or the positive ones."""
        return self.positives if positives_only and self.positives else self.splits["train"]

    @property
    def has_label(self) -> bool:
        """Whether the source has `label`, which is 1 in every row otherwise."""
        return PLANTED_LABEL in self.labels or self.source.get("roles", {}).get("label") is not None

    @property
    def record_files(self) -> list[FileInfo]:
        """All files with rows, users or items; rejected rows are not part of the content."""
        splits = [*self.splits.values(), *filter(None, [self.positives])]
        parts: list[SplitInfo | CatalogInfo | TableInfo | FeatureInfo] = [*splits, self.users, self.items]
        parts += [*self.tables.values(), *self.features.values()]
        return [info for part in parts for info in part.files]

    def table_rows(self, name: str) -> int:
        """Rows of table `name`; a separate table for history has the items' rows."""
        return self.tables["item" if name == "history" else name].rows

    def file_path(self, info: FileInfo) -> str:
        """Full path of one of the dataset's files."""
        return f"{self.path}/{info.path}"


def load_dataset(path: str) -> Dataset:
    """Reads <path>/dataset.json.

    Raises:
      DataError: it is missing, or does not follow the contract.
    """
    path = path.rstrip("/")
    name = f"{path}/{MANIFEST_FILE}"
    try:
        content = read_bytes(name)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{path}: no dataset here ({MANIFEST_FILE}, which is written last, is missing). "
            "Run `lazytower prepare` with this config first."
        ) from None
    except (OSError, ValueError, ImportError) as error:  # permissions, networks, protocols unknown to fsspec
        raise DataError(f"{name}: cannot be read ({error})") from None
    try:
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError(f"must be an object, found {type(document).__name__}")
        if document.get("format") in range(1, FORMAT):
            raise DataError(
                f"{name}: written by an older version (format {document['format']}; this one reads "
                f"{FORMAT}). Run `lazytower prepare --overwrite` with this config to rebuild it. "
                "Runs trained on it must be trained again; their exports can still be used."
            )
        return Dataset.model_validate({**document, "path": path})
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{name}: {key}{message}. Run `lazytower prepare` again.") from None
    except (ValueError, RecursionError) as error:  # bad JSON and bad UTF-8 alike
        raise DataError(f"{name}: not valid JSON ({error}). Run `lazytower prepare` again.") from None

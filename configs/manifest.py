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
BASE  A dataset may stand on an earlier one, its base, and that on another: a chain. Records hold the rows of
  the dataset's own source alone. Its ids continue those of the base. Catalog id i of the base is here
    moved[i]              if it is in the table's `moved` files; -1: the key has left, and shares the
                          out-of-vocabulary row
    i                     if i is below the base's out-of-vocabulary row (with hashed ids: always)
    oov                   if it is the base's out-of-vocabulary row
    i + rows - base_rows  above it: further users or items of the base
  New keys have the ids after those of the base's keys, or ids of keys that have left. Counts of the whole
  chain order them, with those of held-out rows of datasets below; of equal ones, further users and items of
  the base come first, then keys are in byte order. New further users and items come after those of the base.
  Ids of features follow the first three rules. Histories of rows continue across the chain. Catalogs hold the
  users and items with rows in the dataset's own source, or in its side tables, with its own rows only: count,
  sequence and sequence_split are of these, and a feature without a known value here has the empty value. The
  whole of a user or item is what the chain says together: sequences one after the other, where rows of
  earlier datasets are older than all splits of later ones; sums of counts, to which held-out rows of earlier
  datasets add; of features the newest known value, `lives: catalog` that of the newest dataset whose side
  table has it. Vocabularies of features are whole in each dataset. With given ids the vocabulary files of
  the chain are equal.
FOLDED  `prepare --compact` replaces the newest dataset of a chain by one that stands alone. Ids are those of
  the newest dataset, as are vocabularies, held-out rows, statistics and distributions. Rows of the datasets
  below, held-out ones too, are train rows and count; histories stay as they were written. Rows of keys that
  have left have the id of the out-of-vocabulary row, which is in sequences, too, but not in histories.
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
  catalog_rows in all; zeros where there is none. On a base, files without any are left out.
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

from pydantic import Field, ValidationError, model_validator

from configs.dataset_parts import (
    BaseInfo,
    CatalogInfo,
    Count,
    DistributionInfo,
    DriftInfo,
    FeatureInfo,
    FileInfo,
    FoldInfo,
    SideInfo,
    SourceFileInfo,
    SplitInfo,
    TableInfo,
)
from configs.errors import DataError
from configs.sections.base import Section
from configs.sections.roles import PLANTED_LABEL
from configs.system.storage import read_bytes

MANIFEST_FILE = "dataset.json"
SPLITS = ("train", "valid", "test")
BLOCK_ROWS = 4096
VECTOR_ROWS = 1 << 16
"""Rows of a vector file; the last one holds the rest."""
FORMAT: Literal[3] = 3


class Dataset(Section):
    """The whole of dataset.json."""

    format: Literal[3] = FORMAT
    """Version of this contract."""
    fingerprint: str
    """SHA-256 over the checksums of all record files, and the fingerprint of the base: equal for equal
    content."""
    source_fingerprint: str
    """SHA-256 over the source section and the source files' names, sizes and contents, in order."""
    source_files: list[SourceFileInfo] = []
    """What was read, in order; empty for a source without files."""
    base: BaseInfo | None = None
    """The dataset on which this one stands."""
    folds: list[FoldInfo] = []
    """Datasets of a chain that `prepare --compact` has folded into this one, newest first; see FOLDED."""
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
    distributions: dict[str, DistributionInfo] = {}
    """Of features, label, label/<name>, user and item, by these names; vectors have none."""
    drift: dict[str, DriftInfo] = {}
    """With a base: how far they are from the base's, by the same names; what only one of the two has is
    absent."""
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
        """All files that readers of the dataset need; rejected rows are not part of the content."""
        splits = [*self.splits.values(), *filter(None, [self.positives])]
        parts: list[SplitInfo | CatalogInfo | TableInfo | FeatureInfo] = [*splits, self.users, self.items]
        parts += [*self.tables.values(), *self.features.values()]
        moved = [info for table in self.tables.values() for info in table.moved]
        return [info for part in parts for info in part.files] + moved

    @property
    def all_files(self) -> list[FileInfo]:
        """These, and the indexes that datasets standing on this one need."""
        return self.record_files + [info for table in self.tables.values() for info in table.index]

    @property
    def fingerprints(self) -> set[str]:
        """Its own, and those of the datasets that it has replaced without changing their ids."""
        return {self.fingerprint, *(fold.fingerprint for fold in self.folds if fold.same_ids)}

    @property
    def all_source_files(self) -> list[SourceFileInfo]:
        """What was read for it and for the datasets that were folded into it."""
        return [*self.source_files, *(info for fold in self.folds for info in fold.source_files)]

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

"""Parts of dataset.json: files, splits, tables, features, catalogs. configs/manifest.py is the whole."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from configs.sections.base import Section
from configs.sections.features import Step
from configs.system.storage import inner_path

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

    @property
    def number(self) -> int:
        """Its number in its directory, which names the ids of a catalog file; a day lacks those without
        rows."""
        return int(self.path.rpartition("-")[2].partition(".")[0])


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
    """Users with positive rows here and in train, but fewer in train than user_ids.min_count, or beyond
    user_ids.max_rows."""
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
    """Distinct keys with train rows that count (vocab: at least min_count, so keys with a row of their own;
    given: keys of the file; buckets: buckets of values that are not empty; side tables: keys of users or
    items with such rows)."""
    oov_keys: Count = 0
    """Distinct keys of all splits and side tables that share the out-of-vocabulary row; 0 with hash. Keys of
    the base without rows here are left out, unless max_rows is all that keeps them out."""
    catalog_rows: Count = 0
    """Bound of the catalog ids, at least `rows`; user and item only."""
    files: list[FileInfo] = []
    """Vocabulary of the table, by rising id; empty for user and item, and with hash and buckets."""
    base_rows: Count | None = None
    """Rows of the base's table; null: there is no base, or it has no such table."""
    base_oov: Count | None = None
    """Out-of-vocabulary row of the base's table; null with hash and buckets, or without base_rows."""
    moved: list[FileInfo] = []
    """Ids that follow no rule of BASE: int64 little-endian pairs (catalog id of the base, own catalog id or
    -1), by the first; FileInfo.rows are pairs."""
    index: list[FileInfo] = []
    """Keys for datasets that stand on this one, with exact ids only: pipelines/base/index.py."""
    left: Count = 0
    """Keys of the base that have lost their row since."""

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


class BaseInfo(Section):
    """The dataset below, see BASE."""

    path: str
    """Its directory, as in dataset.base."""
    fingerprint: str
    """Its fingerprint when this dataset was prepared."""
    depth: Annotated[int, Field(ge=1)]
    """Number of datasets below this one."""
    late: Count = 0
    """Rows of this dataset that are older than the newest train row of those below."""


class FoldInfo(Section):
    """A dataset whose rows are part of this one since `prepare --compact`."""

    path: str
    """Its directory."""
    fingerprint: str
    """Its fingerprint."""
    same_ids: bool
    """Whether its ids are those of this dataset, so that days and warm starts can go on with this one."""
    source_files: list[SourceFileInfo]
    """What it was prepared from; empty for the dataset in whose place this one is."""


class DistributionInfo(Section):
    """How the values of a feature or label, or the rows of users or items, are distributed. Counted are all
    rows of the dataset's own source before keep_negatives, of a side table its users or items, of a list its
    keys."""

    values: Count
    """All that was counted, what is empty or out of vocabulary too."""
    empty: Count = 0
    """Empty values; of a list, empty lists."""
    unknown: Count = 0
    """Keys that are out of vocabulary."""
    boundaries: list[float] | None = None
    """Of numbers as stored, and of ids of users or items: range b has values v with boundaries[b - 1] <= v <
    boundaries[b]."""
    keys: list[Count] | None = None
    """Of other features with ids: those of the most frequent keys."""
    names: list[str] = []
    """These keys as text, if the dataset has them."""
    counts: list[Count]
    """Values in each range, or of each key and, at the end, of all other keys."""


class DriftInfo(Section):
    """How far a distribution is from that of the base, on the base's bins: pipelines/statistics/drift.py."""

    psi: float
    """Population stability index. Of users and items it compares those that the base knows."""
    chance: float
    """What two samples of one distribution, as large as these, exceed once in 20 times."""
    before: list[Count]
    """The base's counts: of its bins, of unknown keys (of features with ids) and of empty values."""
    now: list[Count]
    """This dataset's counts on the same bins; unknown are keys without a row in the base."""
    bins: list[str]
    """What each of them counts, in words."""
    unknown_before: Count = 0
    """Values with keys out of vocabulary in the base."""
    unknown: Count = 0
    """Values here with keys that have no row in the base."""
    values: Count
    """All values here."""
    values_before: Count
    """All values in the base."""
    appeared: list[str] = []
    """Of the most frequent keys here, those that have no row in the base, by falling frequency."""
    vanished: list[str] = []
    """Of the most frequent keys of the base, those that do not occur here, by falling frequency."""

    @property
    def unknown_share(self) -> float:
        """Of the values here, those with keys that have no row in the base."""
        return self.unknown / max(1, self.values)

    @property
    def unknown_share_before(self) -> float:
        """Of the values in the base, those with keys out of vocabulary."""
        return self.unknown_before / max(1, self.values_before)

    @property
    def largest(self) -> tuple[str, float, float] | None:
        """The bin that adds most to the index, its share in the base and here; None: one side is empty."""
        if not sum(self.before) or not sum(self.now):
            return None
        before, now = (np.array(counts) / sum(counts) for counts in (self.before, self.now))
        least = 1e-4
        terms = (now - before) * np.log(np.maximum(now, least) / np.maximum(before, least))
        place = int(np.argmax(terms))
        return self.bins[place], float(before[place]), float(now[place])

    @property
    def level(self) -> Literal["shift", "moderate", "none"]:
        """By the rule of thumb, unless chance explains it."""
        if self.psi <= self.chance or self.psi <= 0.1:
            return "none"
        return "shift" if self.psi > 0.25 else "moderate"

"""What every stage knows about the job: sections of the config, and the sizes of the job's parts.

The sizes do not affect the dataset.
"""

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

from configs.columns import label_column
from configs.manifest import BLOCK_ROWS, SPLITS
from configs.sections.dataset import DatasetConfig, HashIdsConfig, IdsConfig, VocabIdsConfig
from configs.sections.features import (
    CrossFeatureConfig,
    ListFeatureConfig,
    NumericFeatureConfig,
    Step,
    VectorFeatureConfig,
    table_of,
)
from configs.sections.roles import RolesConfig
from configs.sections.sources import SideTableConfig
from pipelines.statistics.distributions import BaseBins

if TYPE_CHECKING:
    from pipelines.base.chain import Base

OWNERS = ("user", "item")
"""Roles whose keys have a table and a catalog, if the source has them."""
RECORDS = (*SPLITS, "positives")
"""Directories of records, in the order of their numbers."""


@dataclasses.dataclass(frozen=True)
class JobLayout:
    """Sizes of a job's parts."""

    spool: str
    """Directory of spool files."""
    staging: str
    """Directory where the dataset is written before it is published."""
    user_shards: int = 1
    """Number of parts of the users; each worker has the rows of one part in memory at a time."""
    key_shards: int = 1
    """Number of parts of the keys of a table."""
    chunk_bytes: int = 2 << 20
    """Bytes of text parsed at once."""
    chunk_rows: int = 1 << 17
    """Rows of other sources read at once."""
    bucket_rows: int = 1 << 18
    """Rows of an output file shuffled at once."""
    threads: int = 1
    """Elements that a worker processes at once."""
    side_shards: tuple[int, ...] = ()
    """Number of parts of the rows of each side table."""

    def first_shard(self, side: int) -> int:
        """Number of a side table's first part among all shards; user shards come first."""
        return self.user_shards + sum(self.side_shards[:side])


def plan_layout(spool: str, staging: str, estimated_rows: int) -> JobLayout:
    """Sizes for a source of about `estimated_rows` rows."""
    user_shards = min(4096, max(2, math.ceil(estimated_rows / (1 << 18))))
    return JobLayout(spool, staging, user_shards, key_shards=max(1, user_shards // 4))


def side_parts(side: SideTableConfig, estimated_rows: int) -> int:
    """Number of parts of a side table of about `estimated_rows` rows; more if it has wide vectors."""
    width = 1 + sum(f.dim for f in side.features if isinstance(f, VectorFeatureConfig)) / 64
    return min(4096, max(1, math.ceil(estimated_rows * width / (1 << 16))))


@dataclasses.dataclass(frozen=True)
class Job:
    """Configuration of all stages, pickled with their DoFns."""

    source: Any
    """SourceConfig; of a job of `sides`: SideConfig."""
    dataset: DatasetConfig
    layout: JobLayout
    given: dict[str, int] = dataclasses.field(default_factory=dict)
    """By table with given ids, the number of keys of its vocabulary file."""
    base: "Base | None" = None
    """The datasets on which the new one stands."""

    @functools.cached_property
    def base_bins(self) -> dict[str, BaseBins]:
        """By column, what dataset.base has counted its values by; empty without a base. Keys of features have
        the same ids here, unless another key has taken their row, which the base does not know."""
        found = self.base.top.distributions if self.base else {}
        return {name: BaseBins.of(info) for name, info in found.items()}

    @property
    def categorical(self) -> list[str]:
        """Names of the categorical side features."""
        return [feature.name for feature in self.source.features if feature.kind == "categorical"]

    @property
    def lists(self) -> list[ListFeatureConfig]:
        """The list features."""
        return [feature for feature in self.source.features if isinstance(feature, ListFeatureConfig)]

    @property
    def crosses(self) -> list[CrossFeatureConfig]:
        """The crosses."""
        return [feature for feature in self.source.features if isinstance(feature, CrossFeatureConfig)]

    @property
    def numbers(self) -> list[NumericFeatureConfig]:
        """The numeric features."""
        return [feature for feature in self.source.features if isinstance(feature, NumericFeatureConfig)]

    @property
    def numeric(self) -> list[str]:
        """Names of the numeric features."""
        return [feature.name for feature in self.numbers]

    @property
    def steps(self) -> dict[str, list[Step]]:
        """Steps of each numeric feature."""
        return {feature.name: feature.steps for feature in self.numbers}

    @property
    def missing(self) -> dict[str, float]:
        """By numeric feature, the value used where it is empty; see may_be_empty."""
        return {feature.name: feature.missing for feature in self.numbers if feature.missing is not None}

    @property
    def may_be_empty(self) -> list[str]:
        """Numeric features with a value or a bucket for what is empty; of others such rows are rejected."""
        excused = isinstance(self.source, SideTableConfig)
        return [f.name for f in self.numbers if f.missing is not None or f.buckets or excused]

    @property
    def feature_columns(self) -> dict[str, str]:
        """Table of each categorical, list and cross feature."""
        return {f.name: table for f in self.source.features if f.kind != "numeric" if (table := table_of(f))}

    @property
    def owners(self) -> list[str]:
        """Which of user and item the rows of the interactions have; none for a job of `sides`."""
        roles = getattr(self.source, "roles", RolesConfig(user=None, item=None))
        return [name for name in OWNERS if getattr(roles, name) is not None]

    @property
    def has_pairs(self) -> bool:
        """Whether rows have both, so that they are events of histories and of retrieval models."""
        return len(self.owners) == len(OWNERS)

    @property
    def labels(self) -> dict[str, str]:
        """Column of each further label."""
        roles = getattr(self.source, "roles", RolesConfig())
        return {name: label_column(name) for name in roles.labels}

    @property
    def columns(self) -> dict[str, str]:
        """Table of each column of keys: user, item, and categorical, list and cross features."""
        return {name: name for name in self.owners} | self.feature_columns

    @property
    def tables(self) -> list[str]:
        """Names of all tables whose ids are of keys in columns of the interactions."""
        return list(dict.fromkeys(self.columns.values()))

    @property
    def feature_tables(self) -> list[str]:
        """Names of the tables of features whose ids are of keys, those of side tables included."""
        parts = [self.feature_columns, *(side.feature_columns for side in self.sides)]
        return list(dict.fromkeys(table for part in parts for table in part.values()))

    @property
    def sides(self) -> list["Job"]:
        """For each side table a job that reads it as its source."""
        layout = dataclasses.replace(self.layout, chunk_rows=self.layout.chunk_rows // 4)  # wide rows
        return [dataclasses.replace(self, source=side, layout=layout) for side in self.source.sides]

    def ids_of(self, table: str) -> IdsConfig:
        """The ids section of a table."""
        if table in ("user", "item"):
            return self.dataset.user_ids if table == "user" else self.dataset.item_ids
        for feature in self.source.all_features:
            if isinstance(feature, CrossFeatureConfig) and feature.name == table:
                return HashIdsConfig(kind="hash", rows=feature.rows)
        return self.dataset.feature_ids.get(table, VocabIdsConfig())

    def num_files(self, split: int) -> int:
        """Largest number of files in a directory of RECORDS; held-out splits are small and get a quarter."""
        held_out = RECORDS[split] in SPLITS[1:]
        return max(1, self.dataset.num_shards // 4) if held_out else self.dataset.num_shards

    @property
    def block_rows(self) -> int:
        return BLOCK_ROWS

"""How big the parts of a job are. None of these numbers can be seen in the dataset."""

import dataclasses
import math

from configs.manifest import BLOCK_ROWS, SPLITS
from configs.sections.dataset import DatasetConfig, VocabIdsConfig
from configs.sections.sources import SourceConfig

RECORDS = (*SPLITS, "positives")
"""Directories of records, by number."""


@dataclasses.dataclass(frozen=True)
class JobLayout:
    """Sizes of a job's parts."""

    spool: str
    """Directory of spool files."""
    staging: str
    """Directory where the dataset is written before it is published."""
    user_shards: int = 1
    """Parts of the users; one part's rows are in memory at a time per worker."""
    key_shards: int = 1
    """Parts of the keys of a table."""
    chunk_bytes: int = 2 << 20
    """Bytes of text that are parsed together."""
    chunk_rows: int = 1 << 17
    """Rows of other sources that are read together."""
    bucket_rows: int = 1 << 18
    """Rows of an output file that are shuffled together."""
    threads: int = 1
    """Elements that a worker of the runner works on at once."""


def plan_layout(spool: str, staging: str, estimated_rows: int) -> JobLayout:
    """Sizes for a source of about so many rows."""
    user_shards = min(4096, max(2, math.ceil(estimated_rows / (1 << 18))))
    return JobLayout(spool, staging, user_shards, key_shards=max(1, user_shards // 4))


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage needs to know; travels with its DoFn."""

    source: SourceConfig
    dataset: DatasetConfig
    layout: JobLayout

    @property
    def categorical(self) -> list[str]:
        """Names of the categorical side features."""
        return [feature.name for feature in self.source.features if feature.kind == "categorical"]

    @property
    def numeric(self) -> list[str]:
        """Names of the numeric side features."""
        return [feature.name for feature in self.source.features if feature.kind == "numeric"]

    @property
    def missing(self) -> dict[str, float]:
        """By numeric feature, the value of rows where it is empty; without it they are refused."""
        features = self.source.features
        return {feature.name: feature.missing for feature in features if feature.missing is not None}

    @property
    def tables(self) -> list[str]:
        """Names of all tables."""
        return ["user", "item", *self.categorical]

    def ids_of(self, table: str):
        """The ids section of a table."""
        if table in ("user", "item"):
            return self.dataset.user_ids if table == "user" else self.dataset.item_ids
        return self.dataset.feature_ids.get(table, VocabIdsConfig())

    def num_files(self, split: int) -> int:
        """Most files of a directory of RECORDS: held-out splits are small and take a quarter of train's."""
        held_out = RECORDS[split] in SPLITS[1:]
        return max(1, self.dataset.num_shards // 4) if held_out else self.dataset.num_shards

    @property
    def block_rows(self) -> int:
        return BLOCK_ROWS

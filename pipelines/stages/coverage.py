"""How far features are known: users and rows with a value, and keys that are out of vocabulary."""

import collections
from typing import Any

import numpy as np

from pipelines.job import Job
from pipelines.rows.bags import BagColumn
from pipelines.stages.catalog import RowFacts
from pipelines.stages.ids import TableIds
from pipelines.stages.stats import known_count

_VALUES, _OTHERS = "values", "others"


def value_counts(
    job: Job, columns: dict[str, Any], rows_of: RowFacts, tables: dict[str, TableIds]
) -> collections.Counter[str]:
    """Counts of a user shard, by feature: users with a known value (see known_count), keys in its rows, and
    those of them that are out of vocabulary (see value_count, other_count)."""
    counts: collections.Counter[str] = collections.Counter()
    for feature in job.source.features:
        known = rows_of.known[feature.name]
        if feature.of == "user":
            counts[known_count(feature.name)] += len(np.unique(columns["user"][known]))
        if (table := job.columns.get(feature.name)) is None:
            continue
        found, others = keys_of(job, table, columns[feature.name], known, tables)
        counts[value_count(feature.name)] += found
        counts[other_count(feature.name)] += others
    return counts


def keys_of(
    job: Job, table: str, values: "np.ndarray | BagColumn", known: np.ndarray, tables: dict[str, TableIds]
) -> tuple[int, int]:
    """Keys in all rows of a column of ids or bags, and those of them that are out of vocabulary."""
    oov = first_oov(job, table, tables[table])
    if isinstance(values, BagColumn):
        bags = np.bincount(values.codes, minlength=len(values.bags.lengths))
        whose = np.repeat(bags, values.bags.lengths)
        return int(whose.sum()), int(whose[values.bags.members >= oov].sum())
    return int(known.sum()), int(np.count_nonzero(known & (values >= oov)))


def first_oov(job: Job, table: str, ids: TableIds) -> int:
    """First id of a table that is out of vocabulary; the number of its rows if none is."""
    return ids.rows if job.ids_of(table).kind == "hash" else ids.keys


def value_count(name: str) -> str:
    """Key of Stats.counts for the keys that a feature has in all rows."""
    return f"{_VALUES}/{name}"


def other_count(name: str) -> str:
    """Key of Stats.counts for those of them that are out of vocabulary."""
    return f"{_OTHERS}/{name}"

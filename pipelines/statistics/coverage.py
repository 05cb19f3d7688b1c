"""How far features are known: users and rows with a value, and keys that are out of vocabulary."""

import collections
from collections.abc import Iterable
from typing import Any

import numpy as np

from configs.sections.features import BaseFeatureConfig


def value_counts(
    features: Iterable[BaseFeatureConfig],
    columns: dict[str, Any],
    known: dict[str, np.ndarray],
    first_oov: dict[str, int],
) -> collections.Counter[str]:
    """Counts of a user shard, by feature: users with a known value (known_count), keys in its rows
    (value_count), and those of them that are out of vocabulary (other_count).

    Args:
      columns: by feature, ids of rows or a BagColumn; and user.
      known: by feature, bool [rows], where its value is not empty.
      first_oov: by feature with ids, the first id that is out of vocabulary.
    """
    counts: collections.Counter[str] = collections.Counter()
    for feature in features:
        name = feature.name
        if feature.of == "user":
            counts[known_count(name)] += len(np.unique(columns["user"][known[name]]))
        if name not in first_oov:
            continue
        ids, times = occurrences(columns[name], known[name])
        counts[value_count(name)] += int(times.sum())
        counts[other_count(name)] += int(times[ids >= first_oov[name]].sum())
    return counts


def occurrences(values: Any, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids in the rows of a feature, ids int [n] or a BagColumn, and how often each occurs there."""
    if isinstance(values, np.ndarray):
        return values, known.astype(np.int64)
    rows = np.bincount(values.codes, minlength=len(values.bags.lengths))
    return values.bags.members, np.repeat(rows, values.bags.lengths)


def known_count(name: str) -> str:
    """Key of Stats.counts for the rows or users with a known value of a feature."""
    return f"known/{name}"


def ones_count(name: str) -> str:
    """Key of Stats.labels for the rows in which a further label is above 0."""
    return f"ones/{name}"


def value_count(name: str) -> str:
    """Key of Stats.counts for the keys that a feature has in all rows."""
    return f"values/{name}"


def other_count(name: str) -> str:
    """Key of Stats.counts for those of them that are out of vocabulary."""
    return f"others/{name}"

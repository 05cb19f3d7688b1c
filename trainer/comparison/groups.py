"""Groups of users, target items or rows, for which runs are compared one by one.

The activity of users always divides them. Further tables are those of evaluate.by, as `lazytower evaluate`
defines them: of users and targets (trainer/evaluation/segments/tables.py) for retrieval models, of rows by
values of features (trainer/evaluation/pointwise/slices.py) for ranking models.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from configs.sections.evaluation import ACTIVITY, EvaluateConfig
from trainer.data.catalog import Users
from trainer.data.lookups import catalog_lookups
from trainer.data.split_rows import split_rows
from trainer.evaluation.pointwise.rows import Batch
from trainer.evaluation.pointwise.slices import ValueSlots, count_values
from trainer.evaluation.segments.detail import ALL_TARGETS
from trainer.evaluation.segments.tables import (
    ACTIVITY_OF_USERS,
    SegmentTable,
    segment_tables,
    users_by_activity,
)
from trainer.evaluation.trained import Trained
from trainer.report.segments import division_title

EVERYONE = "all"
_BATCH = 1 << 14


class Group(NamedTuple):
    """What a figure is of."""

    task: str
    """Empty for retrieval models."""
    table: str
    """Name of what divides users, targets or rows; empty: nothing does."""
    name: str
    """EVERYONE, or one of the table's groups."""


class GroupTable(NamedTuple):
    """A division of users, targets or rows."""

    title: str
    """What divides them, in words."""
    unit: str
    """What its groups count: users, targets or rows."""


class RowTable(NamedTuple):
    """A division of rows."""

    name: str
    title: str
    texts: list[str]
    """What each group is called."""
    of: Callable[[Batch], tuple[np.ndarray, np.ndarray]]
    """(numbers of rows, their groups) of a batch, int64 [m] each."""


def tables_of_users(users: Users, options: EvaluateConfig, split: str) -> list[SegmentTable]:
    """What divides the users and targets of a retrieval model.

    Args:
      users: the catalog, with items as of the split.
      options: the section.
      split: valid or test.
    """
    names = options.by if ACTIVITY in options.by else [ACTIVITY, *options.by]
    found = segment_tables(users, options.model_copy(update={"by": names}), split)
    if ACTIVITY not in options.by:
        found = [table for table in found if table.name != f"{ACTIVITY}/items"]
    found.sort(key=lambda table: table.name != ACTIVITY_OF_USERS)
    return [dataclasses.replace(table, texts=distinct_names(table.texts, [ALL_TARGETS])) for table in found]


def described(table: SegmentTable) -> GroupTable:
    """A table of users or target items in words."""
    of_users = table.of == "user"
    return GroupTable(division_title(table.name, of_users), "users" if of_users else "targets")


def members(table: SegmentTable, ids: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each group of a table of users, and the places of its users in their `ids`, int64 [n]."""
    places, slots = table.find(ids)
    ends = np.cumsum(np.bincount(slots, minlength=len(table.texts)))
    ordered = places[np.argsort(slots, kind="stable")]
    yield from zip(table.texts, np.split(ordered, ends[:-1]), strict=True)


def tables_of_rows(trained: Trained, split: str) -> list[RowTable]:
    """What divides the rows of a ranking model.

    Args:
      trained: the run.
      split: valid or test.
    """
    dataset, options = trained.dataset, trained.config.evaluate
    has_users, ids = "user" in dataset.tables, [np.zeros(0, np.int64)]

    def batches() -> Iterator[Batch]:
        lookups = catalog_lookups(dataset, options.by, trained.items)
        for batch in split_rows(dataset, split, options.by, lookups, _BATCH):
            if has_users:
                ids.append(np.unique(batch["user_id"]))
            yield batch

    counts = count_values(batches(), dataset, options.by)
    found = []
    if has_users:
        known = np.unique(np.concatenate(ids))
        table = users_by_activity(known, _train_rows(Users(dataset, trained.items), known))
        title = described(table).title
        found.append(RowTable(table.name, title, table.texts, lambda batch: table.find(batch["user_id"])))
    for name in options.by:
        slots = ValueSlots(name, counts[name], options.by_values)
        texts = [text or "(empty)" for text in slots.texts(dataset)]
        found.append(RowTable(name, name, distinct_names(texts), slots.of))
    return found


def _train_rows(users: Users, ids: np.ndarray) -> np.ndarray:
    """Positive train rows of users, int64 [n]; `ids` ascend."""
    counts = np.zeros(len(ids), np.int64)
    for block in users.blocks():
        places = np.minimum(np.searchsorted(ids, block.ids), len(ids) - 1)
        inside = ids[places] == block.ids
        counts[places[inside]] = block.counts[inside]
    return counts


def distinct_names(texts: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Names of groups that differ from each other and from those that are taken: different keys of a feature
    may be equal as text, or equal to a name that is given here."""
    found = list(taken)
    for text in texts:
        name, number = text, 1
        while name in found:
            number += 1
            name = f"{text} ({number})"
        found.append(name)
    return found[len(taken) :]

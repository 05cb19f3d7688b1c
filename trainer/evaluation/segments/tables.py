"""Segments of users or of target items: which values evaluate.by tells apart, and who belongs to each.

A table divides users, who count with their metrics, or items, whose targets count one by one. The built-in
ones divide both: `activity` by the number of positive train rows, in tenths of the users and of the targets,
and `age` by the days from the first positive train row to the newest train row of the dataset. Those without
positive train rows are new, a segment of their own. All other names are features of users or items.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from configs.manifest import SPLITS, Dataset
from configs.sections.evaluation import ACTIVITY, AGE, EvaluateConfig
from trainer.data.catalog import Items, SplitUsers, UserBlock, Users
from trainer.data.features import Column, model_inputs
from trainer.data.ragged import Ragged
from trainer.evaluation.pointwise.slices import REST, ValueSlots, values_of
from trainer.evaluation.segments.ages import FirstRows
from trainer.evaluation.segments.groups import age_groups, tenths

NEW = "new: no train rows"
ACTIVITY_OF_USERS = f"{ACTIVITY}/users"


@dataclasses.dataclass(frozen=True)
class SegmentTable:
    """One division of users or items."""

    name: str
    """Of the feature, or activity/users, activity/items, age/users, age/items."""
    of: Literal["user", "item"]
    """Whose segments they are."""
    texts: list[str]
    """What each of them is called."""
    ids: np.ndarray
    """Catalog ids that are known, int64, ascending."""
    slots: Ragged
    """Segments of each of them, int64; several only for lists."""

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places in `ids`, segments), int64 [m] each: every segment of each of `ids`, int64 [n]; those that
        are not known have none."""
        if not len(self.ids):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        rows = np.flatnonzero(self.ids[places] == ids)
        found = self.slots.take(places[rows])
        return rows[found.row_of_value], found.values


class _Population:
    """The users of a split with the features of `names`, and how many of their rows each item has."""

    def __init__(self, source: SplitUsers, names: Sequence[str]):
        items, code, features = source.users.items, SPLITS.index(source.split), source.users.dataset.features
        of_users = {name: info for name, info in features.items() if info.of == "user" and info.table}
        self.infos = {name: info for name, info in of_users.items() if name in names}
        blocks, self.item_rows = [], np.zeros(items.rows)
        for block in source:
            numbers = block.sequence.values[block.splits.values == code]
            self.item_rows += np.bincount(numbers[numbers < items.rows], minlength=items.rows)
            nothing = block.sequence.first(0)
            kept = {name: block.features[name] for name in self.infos}
            blocks.append(dataclasses.replace(block, sequence=nothing, splits=nothing, features=kept))
        self.users = UserBlock.join(blocks) if blocks else None


def segment_tables(users: Users, config: EvaluateConfig, split: str) -> list[SegmentTable]:
    """The tables of evaluate.by, in order; empty without it.

    Args:
      users: the catalog, with items as of the split.
      config: the section.
      split: valid or test.

    Raises:
      DataError: a file is damaged.
    """
    if not config.by:
        return []
    source = users.of_split(split, config.max_users, config.seed, config.cold_users == "rank")
    population = _Population(source, config.by)
    if population.users is None:
        return []
    return list(_tables(users, config, population, population.users))


def _tables(
    users: Users, config: EvaluateConfig, population: _Population, block: UserBlock
) -> Iterator[SegmentTable]:
    items, dataset = users.items, users.dataset
    every, counts = np.arange(items.rows), np.where(items.known, items.counts, 0)
    order = np.argsort(block.ids, kind="stable")
    block = block.take(order)
    for name in config.by:
        if name == ACTIVITY:
            yield users_by_activity(block.ids, block.counts)
            of_items = _with_new(counts, *_tenths(counts, population.item_rows))
            yield _table(f"{name}/items", "item", every, *of_items)
        elif name == AGE and has_times(dataset):
            first = FirstRows(dataset)
            of_users = _with_new(block.counts, *age_groups(first.days("user", block.ids)))
            yield _table(f"{name}/users", "user", block.ids, *of_users)
            of_items = _with_new(counts, *age_groups(first.days("item", every)))
            yield _table(f"{name}/items", "item", every, *of_items)
        if name in population.infos:
            column, weights = block.features[name], np.ones(len(block))
            slots, texts = _of_feature(dataset, name, column, weights, config.by_values)
            yield SegmentTable(name, "user", texts, block.ids, slots)
        elif name in items.features:
            slots, texts = _of_feature(
                dataset, name, items.features[name], population.item_rows, config.by_values
            )
            yield SegmentTable(name, "item", texts, every, slots)


def users_by_activity(ids: np.ndarray, counts: np.ndarray) -> SegmentTable:
    """Tenths of users by their positive train rows, int64 [n], and those without any.

    Args:
      ids: catalog ids, int64 [n], ascending.
    """
    groups = _with_new(counts, *_tenths(counts, np.ones(len(counts))))
    return _table(ACTIVITY_OF_USERS, "user", ids, *groups)


def has_times(dataset: Dataset) -> bool:
    """Whether the source has timestamps; without them rows are only numbered."""
    roles = dataset.source.get("roles")
    return str(dataset.source.get("kind")).startswith("synthetic") or bool(roles and roles.get("timestamp"))


def _table(
    name: str, of: Literal["user", "item"], ids: np.ndarray, slots: np.ndarray, texts: list[str]
) -> SegmentTable:
    return SegmentTable(name, of, texts, ids, Ragged(slots, np.ones(len(ids), np.int64)))


def _tenths(counts: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """As `tenths`, of what has train rows."""
    groups, known = np.zeros(len(counts), np.int64), counts > 0
    groups[known], texts = tenths(counts[known], weights[known])
    return groups, texts


def _with_new(counts: np.ndarray, groups: np.ndarray, texts: list[str]) -> tuple[np.ndarray, list[str]]:
    """The same groups after a first one of what has no train rows."""
    return np.where(counts > 0, groups + 1, 0), [NEW, *texts]


def _of_feature(
    dataset: Dataset, name: str, column: Column, weights: np.ndarray, limit: int
) -> tuple[Ragged, list[str]]:
    """(segments of each row of a column, their names): the `limit` values with the largest weight, float64
    [rows], have one each."""
    batch = model_inputs({name: dataset.features[name]}, {name: column})
    rows, values = values_of(batch, name)
    size = dataset.tables[dataset.features[name].table or ""].rows
    counts = np.bincount(values, weights[rows], size).astype(np.int64)
    slots = ValueSlots(name, counts, limit)
    places, found = slots.of(batch)
    order = np.argsort(places, kind="stable")
    texts = _named(slots.texts(dataset), int(np.count_nonzero(counts)) - limit)
    return Ragged(found[order], np.bincount(places, minlength=len(weights))), texts


def _named(texts: list[str], more: int) -> list[str]:
    """With the number of values that share the last segment, and a word for the empty key."""
    last = f"{REST} ({more:,} values)" if more > 0 else REST
    return [*(text or "(empty)" for text in texts[:-1]), last]


def unknown_item_rows(items: Items, ids: np.ndarray) -> np.ndarray:
    """Catalog ids of targets, int64 [n]; those beyond the catalog are those of the row that such items
    share."""
    return np.where(ids < items.rows, ids, items.shared_row)

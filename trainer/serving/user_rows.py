"""State of each user in a served model, from the user catalog: past items and features."""

import dataclasses

import numpy as np

from configs.manifest import Dataset
from trainer.data.catalog import Items, UserBlock, Users
from trainer.data.chain.catalogs import COUNT, catalog_blocks, load_features
from trainer.data.features import Column, VectorFiles
from trainer.data.ragged import Ragged


@dataclasses.dataclass(frozen=True)
class Lists:
    """One list per user or item, one after the other."""

    splits: np.ndarray
    """int64 [number + 1]; list i is values[splits[i] : splits[i + 1]]."""
    values: np.ndarray
    """All lists."""


@dataclasses.dataclass(frozen=True)
class UserRows:
    """By catalog id; ids without a user have empty lists and features."""

    listed: np.ndarray
    """Whether the catalog has the user, bool [catalog ids]."""
    known: np.ndarray
    """Whether the user has positive train rows and a table row that is theirs, bool [catalog ids]."""
    features: dict[str, Column]
    """Features as stored, [catalog ids]."""
    history: Lists | None
    """Items of all splits as Users.histories, int32; None when not asked for."""
    seen: Lists | None
    """Distinct items of all splits, int32; None when not asked for."""


def load_user_rows(
    dataset: Dataset, items: Items, history_length: int, seen: bool, features: list[str]
) -> UserRows:
    """Reads the user catalog, for lists twice: first their lengths, so that no list is in memory twice.

    Args:
      dataset: manifest.
      items: its item catalog; items outside `items.ids` appear in no list, and in histories only those of
        `items.in_histories`.
      history_length: most items of a history; 0: none.
      seen: whether to collect seen items.
      features: names of the user features to collect.

    Raises:
      DataError: as trainer.data.blocks.read_blocks.
    """
    table = dataset.tables["user"]
    rows = max(table.rows, table.catalog_rows)
    wanted = {"history": history_length > 0, "seen": seen}
    builders = {name: _ListsBuilder(rows) for name, is_wanted in wanted.items() if is_wanted}
    listed, known = np.zeros(rows, bool), np.zeros(rows, bool)
    columns = load_features(dataset, "user", features, rows)
    columns = {n: c[np.arange(rows)] if isinstance(c, VectorFiles) else c for n, c in columns.items()}
    users = Users(dataset, items, history_length)
    if not builders:
        for entries in catalog_blocks(dataset, "user", [COUNT]):
            listed[entries.ids] = True
            known[entries.ids] = (entries.columns[COUNT] > 0) & table.has_row(entries.ids)
        return UserRows(listed, known, columns, None, None)
    for block in users.blocks():
        listed[block.ids] = True
        known[block.ids] = (block.counts > 0) & table.has_row(block.ids)
        for name, builder in builders.items():
            builder.count(block.ids, _lists_of(block, name, users).lengths)
    for block in users.blocks():
        for name, builder in builders.items():
            builder.place(block.ids, _lists_of(block, name, users))
    lists = {name: builders[name].lists() if name in builders else None for name in wanted}
    return UserRows(listed, known, columns, **lists)


def _lists_of(block: UserBlock, name: str, users: Users) -> Ragged:
    items = users.items
    if name == "seen":
        return block.sequence.keep(items.knows(block.sequence.values)).distinct(items.rows)
    return users.histories(block.sequence.keep(items.in_histories[block.sequence.values]), block.ids)


class _ListsBuilder:
    """Builds lists whose rows arrive in any order: first all lengths, then all values."""

    def __init__(self, rows: int):
        self._splits = np.zeros(rows + 1, np.int64)
        self._values: np.ndarray | None = None

    def count(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        self._splits[ids + 1] = lengths

    def place(self, ids: np.ndarray, lists: Ragged) -> None:
        values = self._allocated()
        values[np.repeat(self._splits[ids], lists.lengths) + lists.place_in_row] = lists.values

    def lists(self) -> Lists:
        return Lists(splits=self._splits, values=self._allocated())

    def _allocated(self) -> np.ndarray:
        if self._values is None:
            np.cumsum(self._splits, out=self._splits)
            self._values = np.empty(self._splits[-1], np.int32)
        return self._values

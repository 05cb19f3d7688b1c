"""Users or items of one dataset laid over the same ones of an earlier dataset: what a chain says of them."""

import dataclasses

import numpy as np

from trainer.data.features import Column, join
from trainer.data.ragged import Ragged


@dataclasses.dataclass(frozen=True)
class Entries:
    """n users or items by catalog id, in any order, each id once."""

    ids: np.ndarray
    """int64 [n]."""
    columns: dict[str, Column]
    """By name, of n rows each: key, count, sequence and sequence_split (Ragged), and features as stored."""
    known: dict[str, np.ndarray]
    """By feature, which rows have a known value, bool [n]."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "Entries":
        """Those at positions `rows` (int64)."""
        columns = {name: _taken(column, rows) for name, column in self.columns.items()}
        return Entries(self.ids[rows], columns, {name: known[rows] for name, known in self.known.items()})

    @staticmethod
    def join(parts: list["Entries"]) -> "Entries":
        """Those of all parts, in order; at least one part."""
        return Entries(
            np.concatenate([part.ids for part in parts]),
            {name: _joined([part.columns[name] for part in parts]) for name in parts[0].columns},
            {name: np.concatenate([part.known[name] for part in parts]) for name in parts[0].known},
        )

    def ordered(self) -> "Entries":
        """The same, by rising id."""
        return self.take(np.argsort(self.ids, kind="stable"))

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which of `ids` are here, bool [m]; their places here, int64 [found]); entries must be ordered."""
        if not len(self):
            return np.zeros(len(ids), bool), np.zeros(0, np.int64)
        place = np.minimum(np.searchsorted(self.ids, ids), len(self) - 1)
        here = self.ids[place] == ids
        return here, place[here]

    def under(self, newer: "Entries", rows: np.ndarray) -> "Entries":
        """These entries with what a later dataset adds.

        Args:
          newer: entries of the later dataset, all of which are here.
          rows: their positions here, int64.
        """
        columns, known = {}, {}
        for name, column in self.columns.items():
            add = newer.columns[name]
            if name in newer.known:
                better = newer.known[name]
                columns[name] = self._replaced(column, add, rows[better], np.flatnonzero(better))
                known[name] = self.known[name].copy()
                known[name][rows[better]] = True
            elif isinstance(column, Ragged):
                columns[name] = _appended(column, add, rows)
            elif name == "count":
                columns[name] = column.copy()
                columns[name][rows] += add
            else:  # with hashed ids, keys may differ: that with the most rows stands for all
                better = newer.columns["count"] > self.columns["count"][rows]
                columns[name] = self._replaced(column, add, rows[better], np.flatnonzero(better))
        return Entries(self.ids, columns, known)

    def _replaced(self, column: Column, newer: Column, rows: np.ndarray, by: np.ndarray) -> Column:
        """The column with the rows `by` of a newer one at `rows`."""
        if not len(rows):
            return column
        which = np.arange(len(self))
        which[rows] = len(self) + by
        return _taken(_joined([column, newer]), which)


def _taken(column: Column, rows: np.ndarray) -> Column:
    return column.take(rows) if isinstance(column, Ragged) else column[rows]


def _joined(columns: list[Column]) -> Column:
    return Ragged.join(columns) if isinstance(columns[0], Ragged) else join(columns)


def _appended(column: Ragged, newer: Ragged, rows: np.ndarray) -> Ragged:
    """Lists with those of a newer column behind them, at `rows`."""
    lengths = np.zeros(len(column), np.int64)
    lengths[rows] = newer.lengths
    order = np.argsort(rows, kind="stable")
    return column.beside(Ragged(newer.take(order).values, lengths))


def laid_over(older: Entries, newer: Entries) -> Entries:
    """All entries of two datasets, ordered; both must be ordered."""
    here, places = older.find(newer.ids)
    merged = older.under(newer.take(np.flatnonzero(here)), places)
    return Entries.join([merged, newer.take(np.flatnonzero(~here))]).ordered()

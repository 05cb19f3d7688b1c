"""One range of a table's keys in the datasets below: what they know of a key, and which keys matter today.

Look-ups probe the base's keys in a small hash table of today's, because a day has few keys.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from configs.chain import LEFT
from pipelines.base.chain import BaseTable
from pipelines.base.index import NEVER, read_index


class Entries(NamedTuple):
    """What the chain says of keys."""

    ids: np.ndarray
    """int64 catalog ids of the base, or LEFT: it has none."""
    counts: np.ndarray
    """int64: train rows that count, of the whole chain, and held-out rows."""
    seen: np.ndarray
    """int64: newest timestamp, or NEVER."""


class Wanted(NamedTuple):
    """Which keys without rows today matter all the same."""

    min_count: int
    """Keys without a row that have this count may be admitted."""
    seen_since: int = NEVER
    """Keys that were last seen before this time may lose their row, and are not admitted."""
    all_rows: bool = False
    """Whether all keys with a row matter, because vocabularies are written whole."""


class BasePart:
    """The keys of one range in all datasets of the chain.

    Args:
      has_catalog: whether keys without a row have catalog ids.
    """

    def __init__(self, table: BaseTable, part: int, has_catalog: bool):
        self._table, self._has_catalog = table, has_catalog
        self._layers = [read_index(layer.paths[part]).combine_chunks() for layer in table.layers]

    def known(self, keys: pa.StringArray) -> Entries:
        """What the chain knows of distinct keys."""
        found = Entries(
            np.full(len(keys), LEFT, np.int64), np.zeros(len(keys), np.int64), np.full(len(keys), NEVER)
        )
        open_ = np.ones(len(keys), bool)
        for number, index in enumerate(self._layers):
            place = _places(index, keys)
            rows = np.flatnonzero(place >= 0)
            rows = rows[open_[place[rows]]]
            mine = place[rows]
            open_[mine] = False
            for whole, values in zip(found, self._entries(number, rows), strict=True):
                whole[mine] = values
        return found

    def absent(self, keys: pa.StringArray, wanted: Wanted) -> pa.Table:
        """Keys of the chain that matter without being among `keys`: key, id, count and seen as in Entries,
        and has_row, in byte order."""
        tables = []
        for number, index in enumerate(self._layers):
            rows = self._wanted_rows(number, wanted)
            rows = rows[_places_of(index, rows, keys) < 0]
            for newer in self._layers[:number]:
                rows = rows[_places_of(index, rows, newer["key"].combine_chunks()) < 0]
            ids, counts, seen = self._entries(number, rows)
            has_row = _column(index, "id")[rows] < self._table.layers[number].oov
            tables.append(
                pa.table(
                    {
                        "key": index["key"].take(pa.array(rows)),
                        "id": ids,
                        "count": counts,
                        "seen": seen,
                        "has_row": has_row,
                    }
                )
            )
        return pa.concat_tables(tables).sort_by("key").combine_chunks()

    def _wanted_rows(self, number: int, wanted: Wanted) -> np.ndarray:
        index, layer = self._layers[number], self._table.layers[number]
        ids, seen = _column(index, "id"), _column(index, "seen")
        lives = ids != LEFT
        has_row = lives & (ids < layer.oov)
        fresh = seen >= wanted.seen_since
        counts = _column(index, "count").astype(np.int64) + _column(index, "held")
        chosen = lives & ~has_row & fresh & (counts >= wanted.min_count)
        chosen |= has_row if wanted.all_rows else has_row & ~fresh
        return np.flatnonzero(chosen)

    def _entries(self, number: int, rows: np.ndarray) -> Entries:
        """Some rows of a layer, with ids of the base."""
        index, layer = self._layers[number], self._table.layers[number]
        ids = _column(index, "id")[rows].astype(np.int64)
        if self._has_catalog:
            ids += (self._table.rows - layer.rows) * (ids >= layer.rows)
        else:
            ids[ids >= layer.oov] = LEFT
        counts = _column(index, "count")[rows].astype(np.int64) + _column(index, "held")[rows]
        return Entries(ids, counts, _column(index, "seen")[rows])


def _column(index: pa.Table, name: str) -> np.ndarray:
    """A column without a copy."""
    column = index[name]
    return column.chunk(0).to_numpy() if column.num_chunks else np.zeros(0, np.int64)


def _places(index: pa.Table, keys: pa.StringArray) -> np.ndarray:
    """Of each row of an index, the place of its key among `keys`; -1: it is not there."""
    column = index["key"]
    return _found(column.chunk(0) if column.num_chunks else pa.array([], pa.string()), keys)


def _places_of(index: pa.Table, rows: np.ndarray, keys: pa.StringArray) -> np.ndarray:
    """The same of some rows."""
    return _found(index["key"].combine_chunks().take(pa.array(rows)), keys)


def _found(values: pa.StringArray, keys: pa.StringArray) -> np.ndarray:
    places = compute.index_in(values, value_set=keys).fill_null(-1)
    return np.asarray(places.to_numpy(zero_copy_only=False))

"""Dense ids of a table whose keys are in parts: planned from counts of counts, then assigned part by part.

Keys that have a row in the base keep it. Of the others, those with enough rows are candidates for a row. They
are ranked by falling weight, then by part and key. A weight is twice the key's count, and one more if the
base has given the key a catalog id. The first candidates take the rows of keys that have not been seen for
long, those not seen for longest first; the next ones take new rows, as many as dataset.*_ids.max_rows allows.
"""

from typing import NamedTuple

import numpy as np

from configs.chain import LEFT
from configs.sections.dataset import VocabIdsConfig
from pipelines.base.chain import NO_TABLE, BaseTable


class CountHistogram(NamedTuple):
    """Number of keys of each weight in one part of a table."""

    table: str
    part: int
    counts: np.ndarray
    """int64, descending: weights of candidates; with hashed and given ids not used."""
    numbers: np.ndarray
    """int64: keys of each."""
    others: int
    """Number of keys that are no candidates and have no id in the base."""
    met: int = 0
    """Number of keys that occur in the interactions, with side tables and WITH_CATALOG only."""
    empty: int | None = None
    """Weight of the empty key; None: it is not a candidate of this part."""
    deepest: int = 0
    """The most keys on one out-of-vocabulary row, with given ids and WITH_CATALOG only."""
    further: int = 0
    """Number of today's keys that the base knows, without a row, and that are no candidates."""
    empty_row: int | None = None
    """Row of the empty key in the base; None: it has none."""
    idle: tuple[tuple[str, int, int], int] | None = None
    """Reference and number of the keys of this part that may lose their row; None: there are none."""


class TableIds(NamedTuple):
    """The ids of a table, from all its parts."""

    keys: int
    """Distinct keys in train (with vocab: those with a row of their own)."""
    rows: int
    """Rows of the table."""
    others: int
    """Distinct keys on the out-of-vocabulary row."""
    first_ids: dict[int, np.ndarray]
    """By part: first rank of each of its weights, as in its CountHistogram; without a base these are ids."""
    catalog_rows: int = 0
    """As TableInfo.catalog_rows; 0 for tables without a catalog."""
    first_others: dict[int, int] = {}
    """By part: first catalog id of its new keys without a row, if there are catalog ids."""
    met: int = 0
    """As in CountHistogram."""
    empty: int = 0
    """Id of the empty key, with side tables only."""
    hashed: bool = False
    """Whether no id is out of vocabulary."""
    admitted: int = 0
    """Number of candidates that get a row; with vocab only."""
    reused: np.ndarray | None = None
    """int64: rows of the base that the first candidates take over; None: there are none."""
    left: int = 0
    """Their number."""
    base_rows: int | None = None
    """As in TableInfo."""
    base_oov: int | None = None
    """As in TableInfo."""

    @property
    def first_oov(self) -> int:
        """First id that is out of vocabulary; the number of rows if none is."""
        return self.rows if self.hashed else self.keys

    @property
    def id_bound(self) -> int:
        """One more than the largest id."""
        return max(self.rows, self.catalog_rows)

    def is_new(self, ids: np.ndarray) -> np.ndarray | None:
        """bool [n]: ids of keys that have no row in the base; None: all have one, or there is no base."""
        if self.base_oov is None:
            return None
        new: np.ndarray = ids >= self.base_oov
        return new if self.reused is None else new | np.isin(ids, self.reused)

    def rows_of_ranks(self, ranks: np.ndarray) -> np.ndarray:
        """int64: rows of admitted candidates."""
        first_new = self.base_oov or 0
        if self.reused is None:
            return first_new + ranks
        reuses = ranks < len(self.reused)
        return np.where(reuses, self.reused[np.where(reuses, ranks, 0)], first_new + ranks - len(self.reused))


def weights(counts: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    """int64: what candidates are ranked by.

    Args:
      counts: int64, rows of each key in the whole chain.
      ids: int64, catalog ids of the base or LEFT; None: there is no base.
    """
    return 2 * counts + (0 if ids is None else (ids != LEFT).astype(np.int64))


def is_candidate(counts: np.ndarray, ids: np.ndarray | None, min_count: int, base: BaseTable) -> np.ndarray:
    """bool: which keys have enough rows and no row of the table; arguments as of `weights`."""
    enough = counts >= min_count
    if ids is None:
        return enough
    assert base.oov is not None
    return enough & ((ids == LEFT) | (ids >= base.oov))


def histogram_of(weights_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values, descending, and how many of each."""
    values, numbers = np.unique(weights_, return_counts=True)
    return values[::-1].copy(), numbers[::-1].copy()


def plan_vocab(
    parts: list[CountHistogram], config: VocabIdsConfig, base: BaseTable, has_catalog: bool
) -> TableIds:
    """First ranks of every part and weight, and how large the table becomes.

    Args:
      parts: of one table, ascending.
      base: with no rows if there is none.
    """
    assert base.oov is not None
    numbers = np.concatenate([h.numbers for h in parts] or [np.zeros(0, np.int64)])
    falling = np.concatenate([h.counts for h in parts] or [np.zeros(0, np.int64)])
    order = np.argsort(-falling, kind="stable")
    first = np.empty(len(falling), np.int64)
    first[order] = np.cumsum(numbers[order]) - numbers[order]
    candidates = int(numbers.sum())
    free = candidates if config.max_rows is None else max(0, config.max_rows - 1 - base.oov)
    idle = sum(h.idle[1] for h in parts if h.idle)
    reuses = min(candidates, idle)
    admitted = min(candidates, reuses + free)
    keys = base.oov + admitted - reuses
    cut = np.clip(first + numbers - admitted, 0, numbers)  # beyond max_rows, per part and weight
    ends = np.cumsum([len(h.counts) for h in parts])[:-1]
    pieces = list(zip(np.split(first, ends), np.split(cut, ends), strict=True)) if parts else []
    result = TableIds(
        keys,
        keys + 1,
        sum(h.others + h.further for h in parts) + int(cut.sum()),
        {h.part: ranks for h, (ranks, _) in zip(parts, pieces, strict=True)},
        admitted=admitted,
        left=reuses,
        met=sum(h.met for h in parts),
    )
    if base.layers:
        result = result._replace(base_rows=base.rows, base_oov=base.oov)
    if has_catalog:
        next_id, first_others = base.catalog_rows + keys + 1 - base.rows, {}
        for h, (_, cut_) in zip(parts, pieces, strict=True):
            first_others[h.part] = next_id
            next_id += h.others + int(cut_[h.counts % 2 == 0].sum())
        result = result._replace(catalog_rows=next_id, first_others=first_others)
    return result


class LongestUnseen:
    """Collects the rows of keys that were not seen for longest.

    Args:
      number: of rows that are wanted.
    """

    def __init__(self, number: int):
        self._number = number
        self._seen, self._rows = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, seen: np.ndarray, rows: np.ndarray) -> None:
        """Takes int64 times and rows of keys."""
        seen, rows = np.concatenate([self._seen, seen]), np.concatenate([self._rows, rows])
        first = np.lexsort((rows, seen))[: self._number]
        self._seen, self._rows = seen[first], rows[first]

    @property
    def rows(self) -> np.ndarray:
        """int64: those not seen for longest first, of equal times the smallest first."""
        return self._rows


def empty_id(parts: list[CountHistogram], table: TableIds) -> int:
    """Id of the empty key, which is the first of its weight, because it is the first in byte order."""
    for part in parts:
        if part.empty_row is not None:
            taken = table.reused is not None and part.empty_row in table.reused
            return table.keys if taken else part.empty_row
        if part.empty is not None:
            ranks = table.first_ids[part.part][part.counts == part.empty]
            if len(ranks) and ranks[0] < table.admitted:
                return int(table.rows_of_ranks(ranks[:1])[0])
    return table.keys


def dense_ids(
    counts: np.ndarray,
    min_count: int,
    part: int,
    table: TableIds,
    ids: np.ndarray | None = None,
    base: BaseTable = NO_TABLE,
) -> np.ndarray:
    """int64 [n] ids of a part's keys, which are in byte order; keys without a row get catalog ids, or else
    the out-of-vocabulary row.

    Args:
      counts, ids: as of `weights`.
    """
    found = np.full(len(counts), table.keys, np.int64)
    row = np.full(len(counts), -1, np.int64)
    chosen = np.flatnonzero(is_candidate(counts, ids, min_count, base))
    weight = weights(counts, ids)[chosen]
    order = np.argsort(-weight, kind="stable")
    if len(order):
        falling = weight[order]
        begin = np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]])
        lengths = np.diff(np.r_[begin, len(order)])
        ranks = np.repeat(table.first_ids[part] - begin, lengths) + np.arange(len(order))
        admitted = ranks < table.admitted
        row[chosen[order[admitted]]] = table.rows_of_ranks(ranks[admitted])
    if ids is not None:
        assert base.oov is not None
        keeps = (ids != LEFT) & (ids < base.oov)
        row[keeps] = ids[keeps]
        further = (ids != LEFT) & (row < 0)
        found[further] = ids[further] + table.rows - base.rows
    if table.first_others:
        new = np.flatnonzero((row < 0) if ids is None else (row < 0) & (ids == LEFT))
        found[new] = table.first_others[part] + np.arange(len(new))
    return np.where(row >= 0, row, found)

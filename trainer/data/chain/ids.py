"""Ids of a dataset further down a chain as ids of the first one, and back.

The rules of BASE (configs/manifest.py), applied once for each dataset between, are again of the form of one:
a list of pairs, and a shift of the ids above the out-of-vocabulary row. So a map has one step however long
the chain is.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from configs.chain import LEFT, read_moved
from configs.dataset_parts import TableInfo
from configs.errors import DataError
from configs.manifest import Dataset

_NOTHING = np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True)
class IdMap:
    """Catalog ids of one table in a dataset further down, as ids of this table in the first one."""

    rows: int
    """Rows of the table in the first dataset."""
    oov: int | None
    """Its (first) out-of-vocabulary row; None: it has none, and ids stay the same."""
    below_rows: int
    """Rows of the table further down."""
    below_oov: int | None
    """Its (first) out-of-vocabulary row."""
    old: np.ndarray = dataclasses.field(default_factory=lambda: _NOTHING)
    """Ids further down that follow no rule, int64, ascending."""
    new: np.ndarray = dataclasses.field(default_factory=lambda: _NOTHING)
    """What they are in the first dataset, int64; LEFT: keys that have left."""

    @classmethod
    def same(cls, table: TableInfo) -> "IdMap":
        """The map of a table to itself."""
        return cls(table.rows, table.oov, table.rows, table.oov)

    @property
    def shift(self) -> int:
        """What is added to ids above the out-of-vocabulary row."""
        return 0 if self.oov is None else self.rows - self.below_rows

    @property
    def is_same(self) -> bool:
        """Whether all ids stay the same."""
        return not len(self.old) and self.oov == self.below_oov and not self.shift

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Ids in the first dataset, int64, of ids further down, int64 of any shape; LEFT where the key has
        left. Negative ids stay."""
        if self.is_same:
            return ids
        found = ids
        if self.oov is not None and self.below_oov is not None:
            found = np.where(ids > self.below_oov, ids + self.shift, ids)
            found = np.where(ids == self.below_oov, self.oov, found)
        where, here = _places(self.old, ids)
        return np.where(here, self.new[where], found) if len(self.old) else found

    def known(self, ids: np.ndarray) -> np.ndarray:
        """As calling the map, but keys that have left are on the out-of-vocabulary row."""
        found = self(ids)
        return found if self.oov is None else np.where((found == LEFT) & (ids >= 0), self.oov, found)

    def source(self, ids: np.ndarray) -> np.ndarray:
        """The other direction: ids further down of ids in the first dataset, both int64 [n]; -1 where there
        is none, and at out-of-vocabulary rows."""
        found = ids
        if self.oov is not None and self.below_oov is not None:
            found = np.where(ids < self.below_oov, ids, -1)
            found = np.where(ids >= self.rows, ids - self.shift, found)
        if not len(self.old):
            return found
        found = np.where(_places(self.old, found)[1], -1, found)
        order = np.argsort(self.new, kind="stable")
        where, here = _places(self.new[order], ids)
        return np.where(here & (ids >= 0), self.old[order][where], found)

    def source_rows(self, start: int, stop: int) -> np.ndarray:
        """The rows of the table further down from which rows start .. stop - 1 of the first dataset's table
        come, int64; -1: the key is new, or had no row of its own. Out-of-vocabulary rows correspond."""
        rows = np.arange(start, stop, dtype=np.int64)
        found = self.source(rows)
        found = np.where(found < self.below_rows, found, -1)
        if self.oov is None or self.below_oov is None:
            return found
        unknown = self.below_oov + rows - self.oov
        return np.where((rows >= self.oov) & (unknown < self.below_rows), unknown, found)

    def after(self, below: "IdMap") -> "IdMap":
        """This map of the ids that `below` gives."""
        here = below.source(self.old)  # -1: `below` gives no such id
        own = here >= 0
        old = np.concatenate([below.old, here[own]])
        new = np.concatenate([self(below.new), self.new[own]])
        old, first = np.unique(old, return_index=True)
        return IdMap(self.rows, self.oov, below.below_rows, below.below_oov, old, new[first])


def _places(ascending: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where ids are in an ascending array, any place if they are not; whether they are)."""
    if not len(ascending):
        return np.zeros(ids.shape, np.int64), np.zeros(ids.shape, bool)
    where = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return where, ascending[where] == ids


def id_maps(chain: list[Dataset], names: Iterable[str]) -> list[dict[str, IdMap]]:
    """The maps of some tables from each dataset of a chain to the first one.

    Args:
      chain: from configs.chain.load_chain.
      names: of the tables.

    Raises:
      DataError: a dataset says nothing of the ids of its base.
    """
    maps = [{name: IdMap.same(chain[0].tables[name]) for name in names}]
    for above, below in zip(chain, chain[1:], strict=False):
        maps.append({name: whole.after(_step(above, below, name)) for name, whole in maps[-1].items()})
    return maps


def _step(above: Dataset, below: Dataset, name: str) -> IdMap:
    """From the ids of a base to those of the dataset on it."""
    own, base = above.tables[name], below.tables[name]
    # Buckets have no keys whose ids could be continued.
    if own.ids != "buckets" and (own.base_rows, own.base_oov) != (base.rows, base.oov):
        raise DataError(
            f"{above.path}: table {name} continues one of {own.base_rows} rows, but that of {below.path} has "
            f"{base.rows}; run `lazytower prepare --overwrite` for {above.path}"
        )
    return IdMap(own.rows, own.oov, base.rows, base.oov, *read_moved(above, name))

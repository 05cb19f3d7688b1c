"""The users or items of a dataset and of those below it, put together; see BASE in configs/manifest.py.

The catalog of the dataset at the bottom is streamed. Those above it hold only the users and items of their
own rows; they are laid over each other in memory, and over the blocks of the stream as it passes.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from configs.columns import feature_of_column
from configs.dataset_parts import FeatureInfo
from configs.manifest import Dataset
from trainer.data.blocks import read_blocks
from trainer.data.chain.held_out import with_held_out
from trainer.data.chain.ids import IdMap
from trainer.data.chain.layers import Layer, layers_of
from trainer.data.chain.overlays import Entries, laid_over
from trainer.data.features import (
    Column,
    ListColumn,
    VectorFiles,
    column_of,
    empty_column,
    empty_value,
    is_known,
    join,
    stored_columns,
)
from trainer.data.ragged import Ragged

KEY, COUNT, SEQUENCE = "key", "count", "sequence"
_SPLITS = "sequence_split"


def catalog_blocks(
    dataset: Dataset, of: str, names: Iterable[str], ids: np.ndarray | None = None
) -> Iterator[Entries]:
    """All users or items, in the order of the files; those that a key has left are not among them.

    Args:
      dataset: the manifest.
      of: user or item.
      names: columns to read: key, count, sequence (with sequence_split), and features that are no vectors,
        also as of a split (price@valid).
      ids: catalog ids int64, ascending; blocks without any of these are left out if that saves time.

    Raises:
      DataError: as `read_blocks` and `layers_of`.
    """
    layers, names = layers_of(dataset), list(names)
    if len(layers) == 1:
        yield from _Reader(layers, 0, of, names).entries(ids)
        return
    if KEY in names and COUNT not in names:
        names.append(COUNT)  # of keys that share an id, that with the most rows stands for all
    later = _later(layers, of, names)
    left = np.ones(len(later) if later is not None else 0, bool)
    for block in _Reader(layers, len(layers) - 1, of, names).entries():
        if later is not None:
            here, places = later.find(block.ids)
            left[places] = False
            block = block.under(later.take(places), np.flatnonzero(here)) if len(places) else block
        yield block
    alone = np.flatnonzero(left)
    for start in range(0, len(alone), dataset.block_rows):
        assert later is not None
        yield later.take(alone[start : start + dataset.block_rows])


def _later(layers: tuple[Layer, ...], of: str, names: list[str]) -> Entries | None:
    """The entries of all datasets but the last, ordered; None: there are none."""
    found = None
    for number in reversed(range(len(layers) - 1)):
        blocks = list(_Reader(layers, number, of, names).entries())
        if blocks:
            newer = Entries.join(blocks).ordered()
            found = newer if found is None else laid_over(found, newer)
    return found


class _Reader:
    """Reads the catalog of one dataset of a chain, with the ids of the first one."""

    def __init__(self, layers: tuple[Layer, ...], number: int, of: str, names: list[str]):
        self._layer, self._top, self._number = layers[number], layers[0].dataset, number
        self._of, self._names, self._is_chain = of, names, len(layers) > 1
        features = self._layer.dataset.features
        # What evaluation may know of a dataset below is all that it has.
        self._stored = {n: feature_of_column(n) if number else n for n in names if _is_feature(n)}
        self._infos = {name: features[feature_of_column(name)] for name in self._stored}
        empties = _empties(self._layer.dataset, self._infos) if self._is_chain else {}
        own = _empties(self._top, self._infos) if number else empties
        self._empties = {name: (empties[name], own[name]) for name in empties}

    def entries(self, ids: np.ndarray | None = None) -> Iterator[Entries]:
        """By block of the files; `ids` as in catalog_blocks."""
        dataset = self._layer.dataset
        files = (dataset.users if self._of == "user" else dataset.items).files
        columns = [name for name in self._names if name in (KEY, COUNT)]
        columns += [SEQUENCE, _SPLITS, "sequence_length"] if SEQUENCE in self._names else []
        columns += [c for name, n in self._stored.items() for c in stored_columns(self._infos[name], n)]
        for block in read_blocks(dataset, files, list(dict.fromkeys(["id", *columns])), ids):
            found = self._entries(block)
            if not self._number:
                yield found
            elif len(there := np.flatnonzero(found.ids >= 0)):
                yield found.take(there) if len(there) < len(found) else found

    def _entries(self, block: Mapping[str, np.ndarray]) -> Entries:
        columns: dict[str, Column] = {n: block[n] for n in (KEY, COUNT) if n in block}
        if self._number and COUNT in columns:
            columns[COUNT] = with_held_out(self._layer.dataset, self._of, block["id"], block[COUNT])
        if SEQUENCE in self._names:
            for name in (SEQUENCE, _SPLITS):
                columns[name] = Ragged(block[name], block["sequence_length"])
        known = {}
        for name, stored in self._stored.items():
            column = column_of(self._infos[name], stored, block)
            if self._is_chain:
                column, known[name] = self._translated(name, column)
            columns[name] = column
        if not self._number:
            return Entries(block["id"], columns, known)
        if SEQUENCE in columns:
            items = self._layer.maps["item"].known(columns[SEQUENCE].values)
            columns[SEQUENCE] = Ragged(items, columns[SEQUENCE].lengths)
            # Rows of datasets below are older than all splits of the first one.
            columns[_SPLITS] = Ragged(np.zeros_like(columns[_SPLITS].values), columns[_SPLITS].lengths)
        return Entries(self._layer.maps[self._of](block["id"]), columns, known)

    def _translated(self, name: str, column: Column) -> tuple[Column, np.ndarray]:
        """(the column with ids of the first dataset, and its empty value; which rows are known)."""
        info = self._infos[name]
        empty, own = self._empties[name]
        known = is_known(info, column, empty)
        if not self._number:
            return column, known
        return _renamed(info, column, self._layer.maps, known, own), known


def _is_feature(name: str) -> bool:
    return name not in (KEY, COUNT, SEQUENCE)


def _empties(dataset: Dataset, infos: Mapping[str, FeatureInfo]) -> dict[str, float | int]:
    """What is stored of features that are not known; lists are empty then."""
    lists = {name for name, info in infos.items() if info.kind == "list"}
    return {name: 0 if name in lists else empty_value(dataset, feature_of_column(name)) for name in infos}


def _renamed(
    info: FeatureInfo, column: Column, maps: Mapping[str, IdMap], known: np.ndarray, empty: float | int
) -> Column:
    """A column with the ids of the first dataset, and `empty` where it is not known."""
    if isinstance(column, ListColumn):
        ids = maps[info.table or ""].known(column.ids.values)
        return ListColumn(Ragged(ids, column.ids.lengths), column.weights)
    ids = column if info.is_numeric else maps[info.table or ""].known(column)
    return np.where(known, ids, np.asarray(empty, column.dtype))


def load_features(dataset: Dataset, of: str, names: Iterable[str], rows: int) -> dict[str, Column]:
    """Features of all users or items by catalog id.

    Args:
      of: user or item.
      names: of catalog columns: features, or features as of a split.
      rows: of each column; ids that the catalog lacks have empty values.

    Raises:
      DataError: as `catalog_blocks`.
    """
    infos = {name: dataset.features[feature_of_column(name)] for name in names}
    vectors = {name: VectorFiles(dataset, info) for name, info in infos.items() if info.kind == "vector"}
    infos = {name: info for name, info in infos.items() if info.kind != "vector"}
    if not infos:
        return vectors
    ids: list[np.ndarray] = []
    parts: dict[str, list[Column]] = {name: [] for name in infos}
    for block in catalog_blocks(dataset, of, infos):
        ids.append(block.ids)
        for name in infos:
            parts[name].append(block.columns[name])
    where = np.concatenate(ids or [np.zeros(0, np.int64)])
    return vectors | {n: _by_id(dataset, n, infos[n], where, parts[n], rows) for n in infos}


def _by_id(
    dataset: Dataset, name: str, info: FeatureInfo, ids: np.ndarray, parts: list[Column], rows: int
) -> Column:
    """A column by catalog id, from the column of rows with these ids."""
    if info.kind != "list":
        column = empty_column(info, empty_value(dataset, feature_of_column(name)), rows)
        if parts:
            column[ids] = join(parts)
        return column
    place = np.full(rows, len(ids), np.int64)  # that of the empty list
    place[ids] = np.arange(len(ids))
    return join([*parts, empty_column(info, 0, 1)])[place]

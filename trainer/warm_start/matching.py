"""Which row of another run's table each row of a run's table continues."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from absl import logging

from configs.dataset_lock import DatasetLock
from configs.dataset_parts import FeatureInfo, TableInfo
from configs.errors import DataError
from configs.manifest import Dataset, load_dataset
from configs.schema import RunConfig
from configs.sections.tables import RobeZConfig
from trainer.data.blocks import read_blocks
from trainer.warm_start.source import Source

_KEYED = ("vocab", "given")


@dataclasses.dataclass(frozen=True)
class TableMatch:
    """The rows of one table beside those of the source's table of the same name."""

    size: int
    """Rows of the table."""
    source_size: int
    """Rows of the source's table; 0: it has none."""
    rows: np.ndarray | None
    """The source's row of each row, int64 [size]; -1: none. None: all rows have the same number there."""
    how: str
    """same ids, base, key, boundaries; or why no row has a source."""

    @property
    def kept(self) -> int:
        """Rows that continue one of the source."""
        return self.size if self.rows is None else int(np.count_nonzero(self.rows >= 0))

    @property
    def new(self) -> int:
        """Rows that start as in a run of their own."""
        return self.size - self.kept

    @property
    def dropped(self) -> int:
        """Rows of the source that no row continues."""
        if self.rows is None:
            return self.source_size - self.size
        used = np.zeros(self.source_size, bool)
        used[self.rows[self.rows >= 0]] = True
        return self.source_size - int(np.count_nonzero(used))

    @property
    def keeps_numbers(self) -> bool:
        """Whether every row with a source has the same number there."""
        if self.rows is None:
            return True
        kept = np.flatnonzero(self.rows >= 0)
        return bool((self.rows[kept] == kept).all())

    def without_moved_unknown(self, oov: int | None) -> "TableMatch":
        """The match, where out-of-vocabulary rows with another number in the source are new."""
        if self.rows is None or oov is None:
            return self
        numbers = np.arange(self.size)
        rows = np.where((numbers >= oov) & (self.rows != numbers), -1, self.rows)
        return dataclasses.replace(self, rows=rows)

    def counts(self) -> dict[str, int | str]:
        """For logs, metrics and the report."""
        return {"matched": self.how, "kept": self.kept, "new": self.new, "dropped": self.dropped}


def match_tables(config: RunConfig, dataset: Dataset, source: Source) -> dict[str, TableMatch]:
    """Matches of all tables of a run, by name.

    Raises:
      DataError: the source's dataset is needed and missing, damaged, or another one than it was trained on.
    """
    if source.fingerprint == dataset.fingerprint:
        found = {name: _same_ids(dataset, source, name) for name in _names(config)}
    else:
        found = _by_key(config, dataset, source)
    for name in found:
        if isinstance(config.table(name), RobeZConfig):
            found[name] = found[name].without_moved_unknown(dataset.tables[_ids_name(name)].oov)
    for name, match in found.items():
        if not match.kept:
            logging.warning("init.from: table %s: all rows are new (%s)", name, match.how)
    return found


def _names(config: RunConfig) -> list[str]:
    return sorted(set(config.table_of_input.values()))


def _ids_name(table: str) -> str:
    """The table of dataset.json whose ids a table has."""
    return "item" if table == "history" else table


def _none(size: int, source_size: int, why: str) -> TableMatch:
    return TableMatch(size, source_size, np.full(size, -1, np.int64), why)


def _same_ids(dataset: Dataset, source: Source, name: str) -> TableMatch:
    size = dataset.table_rows(name)
    if name not in source.layouts:
        return _none(size, 0, "the other run has no such table")
    return TableMatch(size, size, None, "same ids")


def _by_key(config: RunConfig, dataset: Dataset, source: Source) -> dict[str, TableMatch]:
    """Matches by the keys, or the meaning, of the rows of two datasets that know nothing of each other."""
    path = source.config.dataset.path
    found: dict[str, TableMatch] = {}
    with DatasetLock(path):
        other = load_dataset(path)
        if other.fingerprint != source.fingerprint:
            raise DataError(
                f"init.from: {source.path} was trained on another dataset (fingerprint "
                f"{source.fingerprint[:8]}) than {path} holds now ({other.fingerprint[:8]}); restore that "
                "dataset, or remove init"
            )
        for name in _names(config):
            if (ids := _ids_name(name)) != name and name in source.layouts and ids in found:
                found[name] = found[ids]
            elif name not in source.layouts:
                found[name] = _none(dataset.table_rows(name), 0, "the other run has no such table")
            else:
                found[name] = _table_by_key(dataset, other, ids)
    return found


def _table_by_key(dataset: Dataset, other: Dataset, name: str) -> TableMatch:
    here, there = dataset.tables[name], other.tables[name]
    if here.ids in _KEYED and there.ids in _KEYED:
        return TableMatch(here.rows, there.rows, _joined(dataset, other, name), "key")
    if here.ids != there.ids:
        return _none(here.rows, there.rows, f"ids are {there.ids} there, {here.ids} here")
    if here.ids == "buckets":
        if _feature(dataset, name).steps != _feature(other, name).steps:
            return _none(here.rows, there.rows, "the feature has other steps there")
        return TableMatch(here.rows, there.rows, _buckets(dataset, other, name), "boundaries")
    if here.rows != there.rows:
        return _none(here.rows, there.rows, f"keys are hashed into {there.rows:,} rows there")
    return TableMatch(here.rows, there.rows, None, "same ids")


def _joined(dataset: Dataset, other: Dataset, name: str) -> np.ndarray:
    """Rows of `other` by own row: those of equal keys, and the out-of-vocabulary rows."""
    here, there = dataset.tables[name], other.tables[name]
    rows = np.full(here.rows, -1, np.int64)
    (keys, ids), (other_keys, other_ids) = _table_keys(dataset, name), _table_keys(other, name)
    # One call: each hashes all keys of the other dataset.
    places = compute.index_in(keys, value_set=other_keys).fill_null(-1).to_numpy()
    there_too = places >= 0
    rows[ids[there_too]] = other_ids[places[there_too]]
    for row, source in _unknown_rows(here, there):
        rows[row] = source
    return rows


def _unknown_rows(here: TableInfo, there: TableInfo) -> Iterator[tuple[int, int]]:
    """(own row, row of the source) of out-of-vocabulary rows. Several of them divide keys by their hash, so
    they continue as many, or one."""
    if here.oov is None or there.oov is None or there.oov_rows not in (1, here.oov_rows):
        return
    for place in range(here.oov_rows):
        yield here.oov + place, there.oov + place % there.oov_rows


def _table_keys(dataset: Dataset, name: str) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The keys of a table's rows, large_binary [n], and the rows, int64 [n]; none of further users and items.

    Raises:
      DataError: as `read_blocks`.
    """
    table = dataset.tables[name]
    files = {"user": dataset.users.files, "item": dataset.items.files}.get(name, table.files)
    keys, ids = [], [np.zeros(0, np.int64)]
    for block in read_blocks(dataset, files, ["id", "key"]):
        own = np.flatnonzero(table.has_row(block["id"]))
        keys.append(pa.array(block["key"][own].tolist(), pa.large_binary()))
        ids.append(block["id"][own])
    return pa.chunked_array(keys, pa.large_binary()), np.concatenate(ids)


def _buckets(dataset: Dataset, other: Dataset, name: str) -> np.ndarray:
    """Rows of `other` by own row, int64: those of buckets with the same bounds, and that of empty values."""
    here, there = _bounds(dataset, name), _bounds(other, name)
    places = {bounds: place for place, bounds in enumerate(there)}
    return np.array([places.get(bounds, -1) for bounds in here], np.int64)


def _bounds(dataset: Dataset, name: str) -> list[tuple[float, float]]:
    """(lowest value, first value above) of each bucket of a table, in order; that of empty values is last."""
    edges = [-np.inf, *(_feature(dataset, name).boundaries or []), np.inf]
    return [*zip(edges, edges[1:], strict=False), (np.inf, np.inf)]


def _feature(dataset: Dataset, table: str) -> FeatureInfo:
    """The feature with a table of buckets, which no other feature shares."""
    return next(feature for feature in dataset.features.values() if feature.table == table)

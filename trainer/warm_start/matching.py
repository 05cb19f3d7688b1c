"""Which row of another run's table each row of a run's table continues."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from absl import logging

from configs.dataset_parts import FeatureInfo, TableInfo
from configs.errors import DataError
from configs.manifest import Dataset, load_dataset
from configs.schema import RunConfig
from configs.sections.tables import RobeZConfig
from trainer.data.blocks import read_blocks
from trainer.data.chain.catalogs import KEY, catalog_blocks
from trainer.data.chain.layers import ChainLock, layers_of
from trainer.data.record_files import verify_dataset_file
from trainer.warm_start.placement import ranges, row_type
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
    """The source's row of each row, integers [size]; -1: none. None: all rows have the same number there."""
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
        for part in ranges(self.size):
            used[self.rows[part][self.rows[part] >= 0]] = True
        return self.source_size - int(np.count_nonzero(used))

    @property
    def keeps_numbers(self) -> bool:
        """Whether every row with a source has the same number there."""
        if self.rows is None:
            return True
        numbers = np.arange(self.size)
        return bool(((self.rows < 0) | (self.rows == numbers)).all())

    def kept_sample(self, most: int) -> np.ndarray:
        """At most so many of the rows that continue one, evenly spaced among them, int64 ascending."""
        every, seen = -(-self.kept // most) or 1, 0
        if self.rows is None:
            return np.arange(0, self.size, every)
        found = [np.zeros(0, np.int64)]
        for part in ranges(self.size):
            kept = part.start + np.flatnonzero(self.rows[part] >= 0)
            found.append(kept[-seen % every :: every])
            seen += len(kept)
        return np.concatenate(found)

    def without_moved_unknown(self, oov: int | None) -> "TableMatch":
        """The match, where out-of-vocabulary rows with another number in the source are new."""
        if self.rows is None or oov is None:
            return self
        numbers = np.arange(self.size)
        rows = np.where((numbers >= oov) & (self.rows != numbers), -1, self.rows)
        return dataclasses.replace(self, rows=rows)

    def with_unknown(self, oov: int | None) -> "TableMatch":
        """The match, where rows without a source continue the out-of-vocabulary row of the source.

        Args:
          oov: the table's own out-of-vocabulary row; None: it has none.
        """
        if self.rows is None or oov is None or self.rows[oov] < 0:
            return self
        return dataclasses.replace(self, rows=np.where(self.rows < 0, self.rows[oov], self.rows))

    def counts(self) -> dict[str, int | str]:
        """For logs, metrics and the report."""
        return {"matched": self.how, "kept": self.kept, "new": self.new, "dropped": self.dropped}


def match_tables(config: RunConfig, dataset: Dataset, source: Source) -> dict[str, TableMatch]:
    """Matches of all tables of a run, by name.

    Raises:
      DataError: the source's dataset is needed and missing, damaged, or another one than it was trained on.
    """
    if chain := chain_to_source(dataset, source):
        found = _matches(config, dataset, source, functools.partial(_along_chain, chain))
    else:
        found = _by_key(config, dataset, source)
    for name in found:
        if isinstance(config.table(name), RobeZConfig):
            found[name] = found[name].without_moved_unknown(dataset.tables[ids_name(name)].oov)
    for name, match in found.items():
        if not match.kept:
            logging.warning("init.from: table %s: all rows are new (%s)", name, match.how)
    return found


def chain_to_source(dataset: Dataset, source: Source) -> list[Dataset]:
    """The dataset and those below it, down to the one on which the source was trained; empty: it is not among
    them. Raises DataError as `layers_of`."""
    chain = [layer.dataset for layer in layers_of(dataset)]
    places = [i for i, each in enumerate(chain) if source.fingerprint in each.fingerprints]
    return chain[: places[0] + 1] if places else []


def dataset_of(source: Source) -> Dataset:
    """The dataset on which the source was trained. Raises DataError: it is missing, or was replaced."""
    path = source.config.dataset.path
    found = load_dataset(path)
    if source.fingerprint not in found.fingerprints:
        raise DataError(
            f"init.from: {source.path} was trained on another dataset (fingerprint {source.fingerprint[:8]}) "
            f"than {path} holds now ({found.fingerprint[:8]}); restore that dataset, or remove init"
        )
    return found


def _names(config: RunConfig) -> list[str]:
    return sorted(set(config.table_of_input.values()))


def ids_name(table: str) -> str:
    """The table of dataset.json whose ids a table has."""
    return "item" if table == "history" else table


def _none(size: int, source_size: int, why: str) -> TableMatch:
    return TableMatch(size, source_size, np.full(size, -1, np.int64), why)


def _matches(
    config: RunConfig, dataset: Dataset, source: Source, matched: Callable[[str], TableMatch]
) -> dict[str, TableMatch]:
    """Matches by table from those of the tables of dataset.json; a separate table for history has the items'
    ids."""
    found: dict[str, TableMatch] = {}
    of_ids: dict[str, TableMatch] = {}
    for name in _names(config):
        ids = ids_name(name)
        if name not in source.layouts:
            found[name] = _none(dataset.table_rows(name), 0, "the other run has no such table")
            continue
        if ids not in of_ids:
            of_ids[ids] = matched(ids)
        found[name] = of_ids[ids]
    return found


def _along_chain(chain: list[Dataset], name: str) -> TableMatch:
    """The match of a table of the first of `chain`, if the source was trained on the last of it."""
    top, bottom, above = chain[0], chain[-1], chain[:-1]
    here, there = top.tables[name], bottom.tables[name]
    if not above:
        return TableMatch(here.rows, here.rows, None, "same ids")
    if here.ids == "buckets":
        return _table_by_key(top, bottom, name)
    for dataset in above:
        for info in dataset.tables[name].moved:
            verify_dataset_file(dataset, info)
    ids = layers_of(top)[len(above)].maps[name]
    rows = np.empty(here.rows, row_type(there.rows))
    for part in ranges(here.rows):
        rows[part] = ids.source_rows(part.start, part.stop)
    return TableMatch(here.rows, there.rows, rows, "base")


def _by_key(config: RunConfig, dataset: Dataset, source: Source) -> dict[str, TableMatch]:
    """Matches by the keys, or the meaning, of the rows of two datasets that know nothing of each other."""
    reading = ChainLock(source.config.dataset.path)
    try:
        other = dataset_of(source)
        return _matches(config, dataset, source, functools.partial(_table_by_key, dataset, other))
    finally:
        reading.close()


def _table_by_key(dataset: Dataset, other: Dataset, name: str) -> TableMatch:
    here, there = dataset.tables[name], other.tables.get(name)
    if there is None:
        return _none(here.rows, 0, "the other run has no such table")
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
    if _crossed(dataset, name) != _crossed(other, name):
        return _none(here.rows, there.rows, "the feature crosses other keys there")
    return TableMatch(here.rows, there.rows, None, "same ids")


def _crossed(dataset: Dataset, table: str) -> list[list[str]]:
    """The keys of the crosses whose ids a table has."""
    crosses = (f for f in dataset.features.values() if f.table == table and f.kind == "cross")
    return [feature.keys for feature in crosses]


def _joined(dataset: Dataset, other: Dataset, name: str) -> np.ndarray:
    """Rows of `other` by own row: those of equal keys, and the out-of-vocabulary rows."""
    here, there = dataset.tables[name], other.tables[name]
    rows = np.full(here.rows, -1, row_type(there.rows))
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

    Vocabularies of features are whole in each dataset, catalogs together with those below.

    Raises:
      DataError: as `read_blocks` and `catalog_blocks`.
    """
    table = dataset.tables[name]
    keys, rows = [], [np.zeros(0, np.int64)]
    for ids, found in _catalog_keys(dataset, name):
        own = np.flatnonzero(table.has_row(ids))
        keys.append(pa.array(found[own].tolist(), pa.large_binary()))
        rows.append(ids[own])
    return pa.chunked_array(keys, pa.large_binary()), np.concatenate(rows)


def _catalog_keys(dataset: Dataset, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids int64 [n], keys object (bytes) [n]) of all keys of a table, block by block."""
    if name in ("user", "item"):
        for entries in catalog_blocks(dataset, name, [KEY]):
            yield entries.ids, np.asarray(entries.columns[KEY])
        return
    for block in read_blocks(dataset, dataset.tables[name].files, ["id", "key"]):
        yield block["id"], block["key"]


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

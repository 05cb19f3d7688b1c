"""Features as they are stored and as models read them.

A column holds the stored values of one feature, by row: ids or numbers [n], a ListColumn, or VectorFiles.
Indexing any of them with positions (int64) gives those rows. `model_inputs` turns columns into what models
read; the input pipeline (trainer/data/batches.py) and the served model (trainer/serving/inputs) do the same
to tensors, and all three share the steps of numbers (configs/transforms.py).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import psutil

from configs.dataset_parts import FeatureInfo, FileInfo
from configs.errors import DataError
from configs.manifest import VECTOR_ROWS, Dataset
from configs.system.storage import is_remote
from trainer.data.blocks import read_blocks
from trainer.data.chain.layers import layers_of
from trainer.data.numbers import model_numbers
from trainer.data.ragged import Ragged
from trainer.data.record_files import map_dataset_file, verify_dataset_file

LENGTH, WEIGHT = "/length", "/weight"
"""End the names of the columns beside a list; WEIGHT also that of a model's input beside the list."""
Column = Any
"""np.ndarray [n], ListColumn or VectorFiles."""


@dataclasses.dataclass(frozen=True)
class ListColumn:
    """Lists of ids, one a row."""

    ids: Ragged
    """int64."""
    weights: np.ndarray | None = None
    """float32, one for each id; None: the feature has none."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: np.ndarray) -> "ListColumn":
        ids = self.ids.take(rows)
        if self.weights is None:
            return ListColumn(ids)
        return ListColumn(ids, Ragged(self.weights, self.ids.lengths).take(rows).values)

    def padded(self, length: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(ids int64 [n, length], padded with -1; weights float32 of that shape, padded with 0, or None)."""
        where = self.ids.row_of_value, self.ids.place_in_row
        ids = np.full((len(self), length), -1, np.int64)
        ids[where] = self.ids.values
        if self.weights is None:
            return ids, None
        weights = np.zeros((len(self), length), np.float32)
        weights[where] = self.weights
        return ids, weights


class VectorFiles:
    """The vectors of a feature by catalog id, memory-mapped; those on gs:// are read into memory. A vector
    that is zero is that of the newest dataset below in which it is not.

    Args:
      dataset: the manifest, with its path.
      info: the feature; its files are verified.

    Raises:
      DataError: as trainer.data.record_files.verify_dataset_file and `layers_of`, or they do not fit in
        memory.
    """

    def __init__(self, dataset: Dataset, info: FeatureInfo):
        self.dim, name = info.dim, _name_of(dataset, info)
        layers = layers_of(dataset)
        self._files = [_OwnVectors(layer.dataset, layer.dataset.features[name]) for layer in layers]
        self._maps = [layer.maps[info.of] for layer in layers]
        table = dataset.tables[info.of]
        self._rows = len(self._files[0]) if len(layers) == 1 else max(table.rows, table.catalog_rows)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        """float32 [n, dim] of ids int64 [n]; zeros for ids beyond the files."""
        found = self._files[0][ids]
        for files, to_top in zip(self._files[1:], self._maps[1:], strict=True):
            missing = np.flatnonzero(~found.any(axis=1))
            source = to_top.source(ids[missing])
            missing, source = missing[source >= 0], source[source >= 0]
            found[missing] = files[source]
        return found


class _OwnVectors:
    """Those of one dataset."""

    def __init__(self, dataset: Dataset, info: FeatureInfo):
        self._dim = info.dim
        if is_remote(dataset.path):
            _check_memory(dataset, info)
        self._parts = {file.number: self._part(dataset, file) for file in info.files}
        last = max(self._parts, default=0)
        self._rows = last * VECTOR_ROWS + len(self._parts[last]) if self._parts else 0

    def _part(self, dataset: Dataset, file: FileInfo) -> np.ndarray:
        verify_dataset_file(dataset, file)
        return map_dataset_file(dataset, file).view("<f4").reshape(-1, self._dim)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        found = np.zeros((len(ids), self._dim), np.float32)
        for number in np.unique(ids[ids < self._rows] // VECTOR_ROWS):
            if number not in self._parts:  # a day has only the files with vectors
                continue
            mine = np.flatnonzero((ids // VECTOR_ROWS == number) & (ids < self._rows))
            found[mine] = self._parts[number][ids[mine] - number * VECTOR_ROWS]
        return found


def _name_of(dataset: Dataset, info: FeatureInfo) -> str:
    return next(name for name, other in dataset.features.items() if other is info)


def _check_memory(dataset: Dataset, info: FeatureInfo) -> None:
    """Before anything is read: a download of gigabytes would end in a killed process."""
    needed, free = sum(file.bytes for file in info.files), psutil.virtual_memory().available
    if needed > free:
        name = _name_of(dataset, info)
        raise DataError(
            f"{dataset.path}: the vectors of feature {name} ({needed / 1e9:.1f} GB) do not fit in the memory "
            f"that is left ({free / 1e9:.1f} GB); copy the dataset to a local disk, where they are mapped"
        )


def join(columns: list[Column]) -> Column:
    """The rows of columns of one feature, in order; at least one column."""
    if not isinstance(columns[0], ListColumn):
        return np.concatenate(columns)
    weights = None
    if columns[0].weights is not None:
        weights = np.concatenate([column.weights for column in columns])
    return ListColumn(Ragged.join([column.ids for column in columns]), weights)


def stored_columns(info: FeatureInfo, column: str) -> list[str]:
    """Columns of a block that hold a feature; `column`: the first of them, as of any time."""
    if info.kind != "list":
        return [] if info.kind == "vector" else [column]
    return [column, column + LENGTH, *([column + WEIGHT] if info.weighted else [])]


def column_of(info: FeatureInfo, column: str, block: Mapping[str, np.ndarray]) -> Column:
    """The column of a feature that is no vector, from a block with `stored_columns`."""
    if info.kind != "list":
        return block[column]
    ids = Ragged(block[column], block[column + LENGTH])
    return ListColumn(ids, block[column + WEIGHT] if info.weighted else None)


def empty_value(dataset: Dataset, name: str) -> float | int:
    """What is stored of a single value that is not known: of a number its `missing`, or NaN; of an id that of
    the empty key, which may be the one of unknown keys."""
    info = dataset.features[name]
    if not info.is_numeric:
        return _empty_id(dataset, info)
    missing = next((f.get("missing") for f in _configured(dataset.source) if f.get("name") == name), None)
    return np.nan if missing is None else missing


def _configured(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The features of a source section and its side tables."""
    yield from source.get("features", [])
    for side in source.get("sides", []):
        yield from side.get("features", [])


def empty_column(info: FeatureInfo, value: float | int, number: int) -> Column:
    """`number` rows of a feature that is not known; `value`: from `empty_value`, of a single value."""
    if info.kind == "vector":
        return np.zeros((number, info.dim), np.float32)
    if info.kind == "list":
        nothing = Ragged(np.zeros(0, np.int64), np.zeros(number, np.int64))
        return ListColumn(nothing, np.zeros(0, np.float32) if info.weighted else None)
    return np.full(number, value, info.dtype)


def _empty_id(dataset: Dataset, info: FeatureInfo) -> int:
    table = dataset.tables[info.table or ""]
    if info.kind == "cross":
        return hash_of(b"\x01" * (len(info.keys) - 1), table.rows)
    if table.ids == "hash":
        return hash_of(b"", table.rows)
    for block in read_blocks(dataset, table.files, ["id", "key"]):
        if len(found := block["id"][block["key"] == b""]):
            return int(found[0])
    assert table.oov is not None, "exact ids have an out-of-vocabulary row"
    return table.oov + (hash_of(b"", table.oov_rows) if table.ids == "given" else 0)


def hash_of(key: bytes, rows: int) -> int:
    """Id of a key under hashed ids."""
    import tensorflow as tf

    return int(tf.strings.to_hash_bucket_fast([key], rows)[0])


def is_known(info: FeatureInfo, column: Column, empty: float | int) -> np.ndarray:
    """Which rows of a column that is no vector have a known value, bool [n]; `empty`: from `empty_value`."""
    if isinstance(column, ListColumn):
        return column.ids.lengths > 0
    if info.is_numeric and np.isnan(empty):
        return ~np.isnan(column)
    return column != np.asarray(empty, column.dtype)


def model_inputs(infos: Mapping[str, FeatureInfo], columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    """What models read of features.

    Args:
      infos: features by name.
      columns: of n rows, by name of the feature; names that are not features pass through.

    Returns:
      By name: ids int64 [n], also of buckets; numbers float32 [n] after all their steps; vectors float32
      [n, dim]; lists int64 [n, max_length], padded with -1, and with weights <name>/weight float32
      [n, max_length], padded with 0.
    """
    found: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        info = infos.get(name)
        if isinstance(column, ListColumn):
            assert info is not None
            found[name], weights = column.padded(info.max_length)
            if weights is not None:
                found[name + WEIGHT] = weights
        elif info is not None and info.is_numeric:
            found[name] = model_numbers(info, column, np)
        else:
            found[name] = column
    return found

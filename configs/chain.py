"""Chains of datasets: opening those below a dataset, and ids of a base as ids of the dataset on it.

BASE in the docstring of configs/manifest.py has the rules.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from configs.dataset_parts import TableInfo
from configs.errors import DataError
from configs.manifest import Dataset, load_dataset
from configs.system.storage import read_bytes

LEFT = -1
"""In place of the id of a key that has lost its row."""


class Moved(NamedTuple):
    """Ids of a table that follow no rule."""

    before: np.ndarray
    """int64 [n], catalog ids of the base, ascending."""
    after: np.ndarray
    """int64 [n], catalog ids of the dataset, or LEFT."""


def load_chain(dataset: Dataset) -> list[Dataset]:
    """The dataset and all below it, newest first.

    Raises:
      DataError: one of them is missing, or not the one on which the next was prepared.
    """
    chain = [dataset]
    while (info := chain[-1].base) is not None:
        try:
            below = load_dataset(info.path)
        except DataError as error:
            raise DataError(f"{chain[-1].path} stands on {info.path} (dataset.base): {error}") from None
        if info.fingerprint not in below.fingerprints:
            raise DataError(
                f"{info.path}: has been rebuilt since {chain[-1].path} was prepared on it (dataset.base), so "
                "their ids do not match; run `lazytower prepare --overwrite` for the datasets above it, "
                "oldest first"
            )
        chain.append(below)
    return chain


def read_moved(dataset: Dataset, table: str) -> Moved:
    """The ids of a table that follow no rule, of one dataset."""
    files = [read_bytes(dataset.file_path(info)) for info in dataset.tables[table].moved]
    pairs = np.frombuffer(b"".join(files), "<i8").reshape(-1, 2)
    return Moved(pairs[:, 0].copy(), pairs[:, 1].copy())


def translated(ids: np.ndarray, table: TableInfo, moved: Moved) -> np.ndarray:
    """int64 [n] catalog ids of a dataset, or LEFT, for catalog ids of its base.

    Args:
      ids: int [n]; LEFT stays.
      table: of the dataset, whose base has it.
    """
    assert table.base_rows is not None
    found = np.asarray(ids, np.int64)
    if table.base_oov is None or table.oov is None:
        return found
    above = found >= table.base_rows
    shift = table.rows - table.base_rows
    result = found + shift * above
    result[found == table.base_oov] = table.oov
    if len(moved.before):
        place = np.searchsorted(moved.before, found)
        place[place == len(moved.before)] = 0
        hit = moved.before[place] == found
        result[hit] = moved.after[place[hit]]
    return result


def untranslated(ids: np.ndarray, table: TableInfo, moved: Moved, before: TableInfo) -> np.ndarray:
    """int64 [n] catalog ids of the base, or LEFT where it has none, for catalog ids of the dataset on it: the
    inverse of `translated`. The out-of-vocabulary rows of both are none's id.

    Args:
      ids: int [n]; LEFT stays.
      table, before: of the dataset and of its base.
    """
    assert table.base_rows is not None
    found = np.asarray(ids, np.int64)
    if table.base_oov is None or table.oov is None:
        return found
    shifted = found - (table.rows - table.base_rows)
    further = (found >= table.rows) & (shifted < before.catalog_rows)
    result = np.where(found < table.base_oov, found, np.where(further, shifted, LEFT))
    result[np.isin(result, moved.before)] = LEFT
    order = np.argsort(moved.after, kind="stable")
    after = np.append(moved.after[order], LEFT)
    place = np.searchsorted(after[:-1], found)
    hit = (after[place] == found) & (found != LEFT)
    result[hit] = moved.before[order][place[hit]]
    return result


def translated_to_top(ids: np.ndarray, table: str, above: Sequence[Dataset]) -> np.ndarray:
    """int64 [n] catalog ids of the newest dataset of a chain, or LEFT, for those of one below.

    Args:
      ids: int [n], of the dataset on which the last of `above` stands.
      above: the datasets above that one, newest first.
    """
    found = np.asarray(ids, np.int64)
    for dataset in reversed(above):
        found = translated(found, dataset.tables[table], read_moved(dataset, table))
    return found

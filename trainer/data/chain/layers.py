"""A dataset and those below it (BASE in configs/manifest.py), for readers: open, locked, and comparable."""

import functools
from typing import NamedTuple

from configs.chain import load_chain
from configs.dataset_lock import DatasetLock
from configs.errors import DataError
from configs.manifest import Dataset, load_dataset
from trainer.data.chain.ids import IdMap, id_maps


class Layer(NamedTuple):
    """One dataset of a chain."""

    dataset: Dataset
    maps: dict[str, IdMap]
    """By table: from its ids to those of the first dataset of the chain."""


def layers_of(dataset: Dataset) -> tuple[Layer, ...]:
    """A dataset and those below it, itself first.

    Raises:
      DataError: one of them is missing, was prepared again since, or has other columns.
    """
    if dataset.base is None:
        return (Layer(dataset, {name: IdMap.same(table) for name, table in dataset.tables.items()}),)
    return _layers(_Top(dataset))


class _Top:
    """A dataset as the key of a cache: equal if path and content are."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self._key = dataset.path, dataset.fingerprint, dataset.base and dataset.base.fingerprint

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Top) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@functools.lru_cache(maxsize=8)
def _layers(top: _Top) -> tuple[Layer, ...]:
    dataset = top.dataset
    chain = load_chain(dataset)
    for below in chain[1:]:
        if problem := _difference(dataset, below):
            raise DataError(
                f"{dataset.path}: stands on {below.path}, which has {problem}; prepare both with one config, "
                "`lazytower prepare --overwrite`"
            )
    return tuple(map(Layer, chain, id_maps(chain, dataset.tables)))


def _difference(top: Dataset, below: Dataset) -> str:
    """How the columns of a dataset further down differ, in words; empty: not at all."""
    for what in ("has_weight", "history_length", "history_of"):
        if (own := getattr(below, what)) != (wanted := getattr(top, what)):
            return f"{what} {own}, not {wanted}"
    if sorted(below.labels) != sorted(top.labels):
        return f"labels {below.labels}, not {top.labels}"
    for name, info in top.features.items():
        other = below.features.get(name)
        if other is None:
            return f"no feature {name}"
        for what in ("of", "kind", "lives", "table", "weighted", "dim"):
            if getattr(info, what) != getattr(other, what):
                return f"a feature {name} with another {what}"
    return next((f"no table {name}" for name in top.tables if name not in below.tables), "")


class ChainLock:
    """A DatasetLock on a dataset and on each below it, until `close`; none where there is no dataset.

    Raises:
      DataError: as DatasetLock, and if a dataset of the chain is missing.
    """

    def __init__(self, path: str):
        self._locks = [DatasetLock(path)]
        try:
            base = load_dataset(path).base
            while base is not None:
                self._locks.append(DatasetLock(base.path))
                base = load_dataset(base.path).base
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "ChainLock":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the locks."""
        for lock in self._locks:
            lock.close()

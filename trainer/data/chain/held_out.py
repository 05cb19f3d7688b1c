"""Held-out rows of a dataset below others: the datasets on it train on them, so they count."""

import functools

import numpy as np

from configs.manifest import SPLITS, Dataset, load_dataset
from trainer.data.blocks import read_blocks
from trainer.data.train_rows import positive_rows


def with_held_out(dataset: Dataset, of: str, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Train rows that count, and the held-out rows that would.

    Args:
      dataset: the manifest of a dataset below others.
      of: user or item.
      ids: its catalog ids, int64 [n].
      counts: of its train rows, int64 [n].

    Returns:
      int64 [n].

    Raises:
      DataError: as `read_blocks`.
    """
    held, more = _held_out(dataset.path, dataset.fingerprint, of)
    if not len(held):
        return counts
    place = np.minimum(np.searchsorted(held, ids), len(held) - 1)
    return counts + np.where(held[place] == ids, more[place], 0)


@functools.lru_cache(maxsize=16)  # catalogs are read several times in a run
def _held_out(path: str, fingerprint: str, of: str) -> tuple[np.ndarray, np.ndarray]:
    """(catalog ids, ascending; their held-out rows that count), int64."""
    dataset = load_dataset(path)
    counts_all = dataset.section["counted_rows"] == "all"
    found, numbers = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for split in SPLITS[1:]:
        for block in read_blocks(dataset, dataset.splits[split].files, [of, "label"]):
            ids = block[of] if counts_all else block[of][positive_rows(dataset, block["label"])]
            joined = np.concatenate([found, ids])
            weights = np.concatenate([numbers, np.ones(len(ids), np.int64)])
            found, place = np.unique(joined, return_inverse=True)
            numbers = np.bincount(place, weights, minlength=len(found)).astype(np.int64)
    return found, numbers

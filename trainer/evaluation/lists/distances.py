"""Diversity within a list: the mean distance of all pairs of its items.

Ziegler et al. 2005 (Improving Recommendation Lists Through Topic Diversification) add up the similarities of
all pairs; the mean of distances, 1 - similarity, is that of Zhang and Hurley 2008 (Avoiding Monotony). The
similarity of two items is
  vectors     the cosine of the model's item vectors, those of the weights that are served, for all scorers
  a feature   1 if both have the same value, else 0; of a list the Jaccard index of the two sets of keys
Items without a value of the feature are alike. Lists with fewer than two items have no diversity.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from configs.sections.evaluation import VECTORS
from trainer.data.catalog import Items
from trainer.data.features import ListColumn, model_inputs
from trainer.data.ragged import Ragged

_CELLS = 1 << 22
"""Numbers that are held at once for some lists: 32 MiB."""


class Distance(Protocol):
    """Distances of items."""

    name: str

    def diversity(self, lists: np.ndarray, cutoffs: Sequence[int]) -> dict[int, np.ndarray]:
        """The mean distance of pairs among the first k items of each list, float64 [n], by k; NaN below two
        items. Lists are catalog ids int64 [n, m], -1 after the last."""


class VectorDistance:
    """1 - cosine of vectors.

    Args:
      vectors: by catalog id, float32 [items, dim].
    """

    name = VECTORS

    def __init__(self, vectors: np.ndarray):
        self._vectors = vectors

    def diversity(self, lists: np.ndarray, cutoffs: Sequence[int]) -> dict[int, np.ndarray]:
        """As Distance.diversity."""
        size = max(1, _CELLS // max(1, lists.shape[1] * self._vectors.shape[1]))
        return _by_parts(lists, size, self._similarities, cutoffs)

    def _similarities(self, lists: np.ndarray) -> np.ndarray:
        """Sum of the cosines of each item with those before it in its list, float64 [n, m]."""
        vectors = self._vectors[lists].astype(np.float64)
        norms = np.linalg.norm(vectors, axis=2, keepdims=True)
        vectors = np.where((norms > 0) & (lists >= 0)[:, :, None], vectors / np.maximum(norms, 1e-300), 0.0)
        before = np.cumsum(vectors, axis=1) - vectors
        return np.einsum("nmd,nmd->nm", vectors, before)


class FeatureDistance:
    """1 - Jaccard index of lists of keys, or 1 - equality of single values.

    Args:
      items: the catalog.
      name: of an item feature with keys or buckets.
    """

    def __init__(self, items: Items, name: str):
        self.name = name
        column = items.features[name]
        if isinstance(column, ListColumn):
            ids = column.ids.distinct(1 + int(column.ids.values.max(initial=0)))
        else:
            single = model_inputs(items.infos, {name: column})[name]
            ids = Ragged(single, np.ones(len(single), np.int64))
        self._lengths, self._ids = ids.lengths, ids.last(max(1, int(ids.lengths.max(initial=0))))

    def diversity(self, lists: np.ndarray, cutoffs: Sequence[int]) -> dict[int, np.ndarray]:
        """As Distance.diversity."""
        width = lists.shape[1]
        size = max(1, _CELLS // max(1, width * width * self._ids.shape[1]))
        return _by_parts(lists, size, self._similarities, cutoffs)

    def _similarities(self, lists: np.ndarray) -> np.ndarray:
        """Sum of the similarities of each item with those before it in its list, float64 [n, m]."""
        ids, lengths = self._ids[lists], self._lengths[lists]
        common = np.zeros((*lists.shape, lists.shape[1]), np.int64)
        for key in range(ids.shape[2]):
            mine = ids[:, :, None, key, None]
            common += ((mine == ids[:, None, :, :]) & (mine >= 0)).any(axis=3)
        either = lengths[:, :, None] + lengths[:, None, :] - common
        similarity = np.where(either > 0, common / np.maximum(either, 1), 1.0)
        there = lists >= 0
        similarity *= there[:, :, None] & there[:, None, :]
        return np.tril(similarity, -1).sum(axis=2)


def _by_parts(
    lists: np.ndarray,
    size: int,
    similarities: Callable[[np.ndarray], np.ndarray],
    cutoffs: Sequence[int],
) -> dict[int, np.ndarray]:
    """As Distance.diversity, `size` lists at a time, from the similarities of each item with those before."""
    found: dict[int, list[np.ndarray]] = {k: [np.zeros(0)] for k in cutoffs}
    for start in range(0, len(lists), size):
        part = lists[start : start + size]
        number = np.cumsum(part >= 0, axis=1)
        sums = np.cumsum(similarities(part), axis=1)
        for k in cutoffs:
            last = min(k, part.shape[1]) - 1
            pairs = number[:, last] * (number[:, last] - 1) / 2
            with np.errstate(divide="ignore", invalid="ignore"):
                found[k].append(np.where(pairs > 0, 1 - sums[:, last] / pairs, np.nan))
    return {k: np.concatenate(parts) for k, parts in found.items()}


def distances_of(names: Sequence[str], items: Items, vectors: np.ndarray | None) -> list[Distance]:
    """The distances of evaluate.diversity; `vectors`: those of the served model, None: it has none."""
    found: list[Distance] = []
    for name in names:
        if name != VECTORS:
            found.append(FeatureDistance(items, name))
        elif vectors is not None:
            found.append(VectorDistance(vectors))
    return found

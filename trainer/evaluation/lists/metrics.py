"""Formulas beyond accuracy, of the lists of the k items that are ranked highest for each user.

With n(i) lists that hold item i, of I items that can be recommended, and c(i) positive train rows of item i:
  coverage@k    number of items with n(i) > 0 / I (RecBole's ItemCoverage; Ge et al. 2010, Beyond Accuracy)
  gini@k        sum over items, by rising n, of (2 place - I - 1) n(i) / (I sum of n): 0 if all items are
                recommended equally often, near 1 if a few are in all lists (RecBole's GiniIndex)
  popularity@k  mean over the list of c(i), then over users (RecBole's AveragePopularity)
  novelty@k     mean over the list of -log2(c(i) / sum of c), in bits, then over users: the self-information
                of a random train row being one of the item (Vargas and Castells 2011, Rank and Relevance in
                Novelty and Diversity Metrics for Recommender Systems, free discovery)
trainer/evaluation/lists/distances.py has the diversity within a list. RecBole: Zhao et al. 2021,
arXiv 2011.01731, recbole/evaluator/metrics.py; its I counts one item more, which pads its tables.

A list is shorter than k where fewer items are left to rank; means are over the items that are there, and
users without any are left out.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def coverage(counts: np.ndarray) -> float:
    """As at the top of this module; counts: lists that hold each item, int64 [items]."""
    return float(np.count_nonzero(counts)) / max(len(counts), 1)


def gini(counts: np.ndarray) -> float:
    """As at the top of this module; arguments as `coverage`. NaN if there are no lists."""
    return gini_of_histogram(np.bincount(counts)) if len(counts) else float("nan")


def gini_of_histogram(items: np.ndarray) -> float:
    """The Gini index of counts that are given by their histogram.

    Args:
      items: number of items with each count, from 0, int64 [largest count + 1].
    """
    counts = np.flatnonzero(items)  # few, of large histograms
    number, every = items[counts].astype(np.float64), counts.astype(np.float64)
    all_items, total = number.sum(), (every * number).sum()
    below = np.cumsum(number) - number
    # The places of h items of one count, below + 1 to below + h, add up to h (2 below + h - I).
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((every * number * (2 * below + number - all_items)).sum() / (all_items * total))


def popularity(counts: np.ndarray) -> np.ndarray:
    """Positive train rows of each item, float64 [items]; counts: the same, int64."""
    return counts.astype(np.float64)


def novelty(counts: np.ndarray) -> np.ndarray:
    """Self-information of each item in bits, float64 [items]; infinite for items without positive train rows;
    counts as for `popularity`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.log2(counts / counts.sum())


# Functions of how many lists hold each item, and of how many train rows each item has, by name.
OF_EXPOSURE = {"coverage": coverage, "gini": gini}
OF_ITEMS = {"popularity": popularity, "novelty": novelty}


def list_means(lists: np.ndarray, values: np.ndarray, cutoffs: Sequence[int]) -> Mapping[int, np.ndarray]:
    """Means of values of the first k items of each list.

    Args:
      lists: int64 [n, m], best first, -1 after the last.
      values: of each item, float64 [items].

    Returns:
      By cutoff float64 [n]; NaN for empty lists.
    """
    there = lists >= 0
    sums = np.cumsum(np.where(there, values[lists], 0.0), axis=1)
    numbers = np.cumsum(there, axis=1)
    with np.errstate(invalid="ignore"):
        return {k: _at(sums, k) / _at(numbers, k) for k in cutoffs}


def _at(columns: np.ndarray, k: int) -> np.ndarray:
    """The values at place k of each row, or at the last one; zeros if there are no columns."""
    last = min(k, columns.shape[1]) - 1
    return columns[:, last] if last >= 0 else np.zeros(len(columns))

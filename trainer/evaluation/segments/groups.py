"""Groups of numbers: tenths of a weight, and ranges of days."""

import numpy as np

TENTHS = 10
AGES = (1, 7, 30, 90, 365)
"""Days at which a range of ages ends."""


def tenths(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Groups with about a tenth of the weight each, by rising value; equal values stay together, so with few
    distinct values there are fewer groups.

    Args:
      values: int64 [n], at least 0.
      weights: float64 [n].

    Returns:
      (the group of each value, int64 [n]; what groups are called, by the values inside).
    """
    distinct, place = np.unique(values, return_inverse=True)
    weight = np.bincount(place, weights, len(distinct))
    total = weight.sum()
    if not total:
        return np.zeros(len(values), np.int64), ["none"][: len(values)]
    middle = np.cumsum(weight) - weight / 2
    coarse = np.minimum((TENTHS * middle / total).astype(np.int64), TENTHS - 1)
    groups, of_distinct = np.unique(coarse, return_inverse=True)
    texts = []
    for group in range(len(groups)):
        inside = distinct[of_distinct == group]
        low, high = f"{inside[0]:,}", f"{inside[-1]:,}"
        texts.append(low if low == high else f"{low} to {high}")
    return of_distinct[place], texts


def age_groups(days: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(the range of each number of days, int64 [n]; what all ranges are called)."""
    ends = ["less than 1 day", *(f"{low} to {high} days" for low, high in zip(AGES, AGES[1:], strict=False))]
    return np.searchsorted(AGES, days, side="right"), [*ends, f"{AGES[-1]} days or more"]

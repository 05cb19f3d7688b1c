"""Stable 64-bit hashes by SplitMix64 (Steele et al., OOPSLA 2014), equal on every machine."""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""SplitMix64's step, 2**64 divided by the golden ratio."""


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer, a bijection on uint64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_ids(seed: int | np.ndarray, ids: np.ndarray) -> np.ndarray:
    """uint64 hash of (seed, id); integer arrays that broadcast. Distinct ids get distinct hashes."""
    seed = np.uint64(seed % 2**64) if isinstance(seed, int) else seed.astype(np.uint64)
    with np.errstate(over="ignore"):
        return mix(ids.astype(np.uint64) * GOLDEN + mix(seed + GOLDEN))


def history_order(seed: int, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """uint64 hashes whose ascending order is that of a user's items with dataset.history_of `others`.

    `prepare` and everything that makes histories from the user catalog sort by them. Distinct items of a user
    have distinct hashes.

    Args:
      seed: dataset.seed.
      users, items: catalog ids, integers that broadcast.
    """
    return hash_ids(hash_ids(seed, users), items)

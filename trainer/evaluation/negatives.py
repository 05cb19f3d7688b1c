"""Random items that a user never touched: uniform, distinct, and equal in every run and batch."""

import numpy as np

from configs.splitmix import hash_ids
from trainer.data.catalog import Items
from trainer.data.ragged import Ragged

_FEISTEL_ROUNDS = 6


def sample_negatives(
    ids: np.ndarray, touched: Ragged, items: Items, number: int, seed: int, cold: int = 0
) -> Ragged:
    """Draws items per user: uniform, distinct, none of them touched.

    Each user walks a random permutation of the catalog keyed by (seed, user id), so the draw depends on
    nothing else, and `number` + (items touched) steps always suffice.

    Args:
      ids: user ids, int64 [n].
      touched: distinct catalog items of each user, n rows.
      items: the catalog.
      number: items per user; fewer where fewer are untouched.
      seed: of the draw.
      cold: number of further items to draw from, which share the out-of-vocabulary row, id items.shared_row.
        Which of them a user touched is unknown, so none is excluded.

    Returns:
      Item ids, n rows.
    """
    pool = np.concatenate([items.ids, np.full(cold, items.shared_row)])
    size = len(pool)
    steps = np.minimum(number + touched.lengths, size)
    walk = Ragged(np.zeros(steps.sum(), np.int64), steps)
    keys = hash_ids(hash_ids(seed, ids), ids)[walk.row_of_value]
    drawn = Ragged(pool[_permuted(walk.place_in_row, size, keys)], steps)
    return drawn.without(touched, items.rows).first(number)


def _permuted(index: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Place of each index in [0, size) under its key's pseudo-random permutation of [0, size).

    A Feistel network (Luby and Rackoff, 1988) on the next even number of bits, applied repeatedly until the
    place is below `size`: at most four times on average.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    place, open_ = index.astype(np.uint64), np.arange(len(index))
    while len(open_):
        left, right = place[open_] >> half, place[open_] & mask
        for turn in range(_FEISTEL_ROUNDS):
            mixed = hash_ids(keys[open_], right * np.uint64(_FEISTEL_ROUNDS) + np.uint64(turn))
            left, right = right, left ^ (mixed & mask)
        place[open_] = (left << half) | right
        open_ = open_[place[open_] >= size]
    return place.astype(np.int64)

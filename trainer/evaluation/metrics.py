"""Ranks of targets among scores, and the metrics of ranks.

Rank of a target: 1 + (number of items with a higher score) + (number of other items with an equal score) / 2,
the expected rank if ties are broken at random, so a constant scorer gains nothing. With ranks r, T targets of
a user and binary gains:
  HR@k      any r <= k
  Recall@k  number of r <= k / T
  NDCG@k    sum of 1/log2(r + 1) over r <= k, divided by sum of 1/log2(i + 1) for i = 1..min(k, T)
            (Jarvelin and Kekalainen, TOIS 2002)
  MRR       1 / the smallest r, not cut off
"""

from collections.abc import Sequence

import numpy as np

from trainer.data.ragged import Ragged


def full_ranks(scores: np.ndarray, targets: Ragged, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of targets among all finite scores of their rows, and the columns with the highest scores.

    Exact up to `top` and for each row's best target; any other target beyond `top` may get inf, which gives
    the same metrics as its rank. One partial sort and three passes per row, however many targets it has.

    Args:
      scores: float32 [n, items]; -inf for excluded items; finite for targets.
      targets: columns of `scores`.

    Returns:
      (ranks float64 [total]; columns int64 [n, at most top], the best first, the smaller of equal ones first,
      -1 after the last finite score).
    """
    import tensorflow as tf

    rows = targets.row_of_value
    score = scores[rows, targets.values]
    found = tf.math.top_k(scores, min(top, scores.shape[1]))
    highest = found.values.numpy()
    columns = np.where(highest > -np.inf, found.indices.numpy(), -1).astype(np.int64)
    bar = highest.min(axis=1)
    greater = (highest[rows] > score[:, None]).sum(axis=1)
    equal = (highest[rows] == score[:, None]).sum(axis=1)
    at_bar = np.unique(rows[score == bar[rows]])  # their ties may continue beyond the partial sort
    ties = np.zeros(len(scores), np.int64)
    ties[at_bar] = np.count_nonzero(scores[at_bar] == bar[at_bar, None], axis=1)
    equal = np.where(score == bar[rows], ties[rows], equal)
    ranks = np.where(score >= bar[rows], 1 + greater + (equal - 1) / 2, np.inf)
    best = np.full(len(scores), -np.inf, np.float32)
    np.maximum.at(best, rows, score)
    first = 1 + np.count_nonzero(scores > best[:, None], axis=1)
    first = first + (np.count_nonzero(scores == best[:, None], axis=1) - 1) / 2
    return np.where(score == best[rows], first[rows], ranks), columns


def hit_rate(ranks: Ragged, number: np.ndarray, k: int) -> np.ndarray:
    """HR@k of each row; arguments as `user_metrics`."""
    return (_hits(ranks, k) > 0).astype(np.float64)


def recall(ranks: Ragged, number: np.ndarray, k: int) -> np.ndarray:
    """Recall@k of each row; arguments as `user_metrics`."""
    return _hits(ranks, k) / np.maximum(number, 1)


def ndcg(ranks: Ragged, number: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k of each row; arguments as `user_metrics`."""
    hit = ranks.values <= k
    gain = np.bincount(ranks.row_of_value[hit], 1 / np.log2(ranks.values[hit] + 1), minlength=len(ranks))
    ideal = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    return gain / ideal[np.minimum(np.maximum(number, 1), k) - 1]


def reciprocal_rank(ranks: Ragged, number: np.ndarray) -> np.ndarray:
    """1 / the smallest rank of each row; arguments as `user_metrics`."""
    first = np.full(len(ranks), np.inf)
    np.minimum.at(first, ranks.row_of_value, ranks.values)
    return 1 / first


# Functions of (ranks, number, k), and of (ranks, number), by name: float64 [n], 0 for rows without targets.
AT_CUTOFF = {"hr": hit_rate, "recall": recall, "ndcg": ndcg}
UNCUT = {"mrr": reciprocal_rank}


def user_metrics(ranks: Ragged, number: np.ndarray, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    """The metrics defined at the top of this module, one value per row.

    Args:
      ranks: of each row's targets, float64; inf is a miss.
      number: of targets of each row, including those without a rank, int64 [n].

    Returns:
      By name@k of AT_CUTOFF, for each k of `cutoffs`, and by name of UNCUT: float64 [n]; 0 for rows without
      targets.
    """
    result = {f"{name}@{k}": metric(ranks, number, k) for k in cutoffs for name, metric in AT_CUTOFF.items()}
    return result | {name: metric(ranks, number) for name, metric in UNCUT.items()}


def _hits(ranks: Ragged, k: int) -> np.ndarray:
    """Targets of each row that rank within k, int64 [n]."""
    return np.bincount(ranks.row_of_value[ranks.values <= k], minlength=len(ranks))

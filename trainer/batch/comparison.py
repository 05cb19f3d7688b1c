"""How much two rankings of the same users differ: overlap, rank-biased overlap, coverage.

overlap@d: the share of the first d items that both lists have, |A_d and B_d| / d; where the longer list has
fewer than d items, over its length. Its mean over users who have an item in a list.

Rank-biased overlap (Webber, Moffat, Zobel: A similarity measure for indefinite rankings, ACM TOIS 28(4),
2010) is the mean of overlap@d that a reader sees who starts at the top and goes on from each rank to the next
with probability p; 1 for equal lists, 0 for lists without a common item. The lists end at k, so it is
extrapolated as in the paper: RBO_EXT, equation 32, for lists of lengths s <= l, with X_d the size of the
overlap at depth d,

  (1 - p) / p (sum_{d=1..l} X_d / d p^d + sum_{d=s+1..l} X_s (d - s) / (s d) p^d)
    + ((X_l - X_s) / l + X_s / s) p^l.
"""

import numpy as np

from trainer.batch.lists import ItemNumbers, UserLists


class Comparison:
    """Sums over users; blocks may come in any order.

    Args:
      k: most items of a list.
      depths: those of overlap@d, ascending, at most k.
      persistence: p of rank-biased overlap, between 0 and 1.
    """

    def __init__(self, k: int, depths: list[int], persistence: float):
        self._k, self._depths, self._p = k, depths, persistence
        self.users = self.empty = 0
        self._same = 0
        self._overlap = np.zeros(len(depths))
        self._biased = 0.0
        self._counts = [np.zeros(0, np.int64), np.zeros(0, np.int64)]

    def add(self, one: UserLists, other: UserLists) -> None:
        """Counts users; both have the same ones in the same order, and more than k items of none."""
        some = np.flatnonzero((one.lengths > 0) | (other.lengths > 0))
        self.users += len(one.lengths)
        self.empty += len(one.lengths) - len(some)
        for side, lists in enumerate((one, other)):
            self._counts[side] = _added(self._counts[side], lists.items)
        one, other = one.take(some), other.take(some)
        if not len(some):
            return
        common = common_at_depths(one, other, self._k)
        shorter, longer = np.minimum(one.lengths, other.lengths), np.maximum(one.lengths, other.lengths)
        for place, depth in enumerate(self._depths):
            self._overlap[place] += (common[:, depth - 1] / np.minimum(depth, longer)).sum()
        self._biased += rank_biased_overlap(common, shorter, longer, self._p).sum()
        self._same += int((_agreeing(one, other) & (shorter == longer)).sum())

    def document(self, numbers: ItemNumbers) -> dict:
        """The result as JSON values."""
        ranked = self.users - self.empty
        counts = [_padded(found, len(numbers)) > 0 for found in self._counts]
        return {
            "users": self.users,
            "users_without_items": self.empty,
            "identical": self._same / ranked if ranked else None,
            "overlap": {
                str(depth): total / ranked if ranked else None
                for depth, total in zip(self._depths, self._overlap.tolist(), strict=True)
            },
            "rank_biased_overlap": float(self._biased) / ranked if ranked else None,
            "persistence": self._p,
            "items": [int(found.sum()) for found in counts],
            "items_of_both": int((counts[0] & counts[1]).sum()),
        }


def common_at_depths(one: UserLists, other: UserLists, k: int) -> np.ndarray:
    """Sizes of the overlaps of the first d items of both lists, d = 1 .. k, int64 [users, k]."""
    span = int(max(one.items.max(initial=0), other.items.max(initial=0))) + 1
    keys, ranks = _keys_and_ranks(one, span)
    other_keys, other_ranks = _keys_and_ranks(other, span)
    _, mine, its = np.intersect1d(keys, other_keys, assume_unique=True, return_indices=True)
    cells = keys[mine] // span * k + np.maximum(ranks[mine], other_ranks[its])
    found = np.bincount(cells, minlength=len(one.lengths) * k).reshape(-1, k)
    return np.cumsum(found, axis=1)


def rank_biased_overlap(
    common: np.ndarray, shorter: np.ndarray, longer: np.ndarray, persistence: float
) -> np.ndarray:
    """RBO_EXT of each pair of lists, float64 [users]; see the module's docstring.

    Args:
      common: from `common_at_depths`.
      shorter, longer: lengths of both lists, int64 [users]; `longer` at least 1.
      persistence: p.
    """
    users, k = common.shape
    depth = np.arange(1, k + 1)
    weights = persistence**depth
    rows = np.arange(users)
    at_longer = common[rows, longer - 1]
    at_shorter = np.where(shorter > 0, common[rows, np.maximum(shorter, 1) - 1], 0)
    share = at_shorter / np.maximum(shorter, 1)  # nothing is extrapolated from an empty list
    beyond = (depth > shorter[:, None]) & (depth <= longer[:, None])
    agreement = common / depth + np.where(beyond, share[:, None] * (depth - shorter[:, None]) / depth, 0)
    seen = ((depth <= longer[:, None]) * agreement * weights).sum(axis=1)
    tail = ((at_longer - at_shorter) / longer + share) * persistence**longer
    found: np.ndarray = (1 - persistence) / persistence * seen + tail
    return found


def _keys_and_ranks(lists: UserLists, span: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each entry, a number for (user, item), and its rank from 0."""
    users = np.repeat(np.arange(len(lists.lengths)), lists.lengths)
    first = np.cumsum(lists.lengths) - lists.lengths
    return users * span + lists.items, np.arange(len(users)) - first[users]


def _agreeing(one: UserLists, other: UserLists) -> np.ndarray:
    """Whether lists of equal length hold the same items in the same order, bool [users]."""
    same = one.lengths == other.lengths
    rows = np.flatnonzero(same)
    left, right = one.take(rows), other.take(rows)
    users = np.repeat(rows, left.lengths)
    differs = np.bincount(users[left.items != right.items], minlength=len(same)) > 0
    found: np.ndarray = same & ~differs
    return found


def _added(counts: np.ndarray, items: np.ndarray) -> np.ndarray:
    found = np.bincount(items, minlength=len(counts))
    return found + _padded(counts, len(found))


def _padded(counts: np.ndarray, size: int) -> np.ndarray:
    return np.pad(counts, (0, size - len(counts)))

"""The grouped AUC: the mean of the AUC within each group, weighted by the groups' weights.

GAUC (Zhou et al. 2018, Deep Interest Network, eq. 8), with users as groups unless others are asked for. It
says how well rows of one user are ranked, which a model of users' overall rates does not gain from. Groups
whose rows all have the same label have no AUC: they are left out and counted.
"""

import numpy as np

from trainer.evaluation.pointwise.metrics import Ranked, area
from trainer.evaluation.pointwise.resampling import BLOCKS, blocks_of
from trainer.evaluation.pointwise.sorted_sums import ENTRY, SortedSums, Spill, falling

_GROUP = np.uint64(32)


class GroupedAuc:
    """Collects rows.

    Args:
      spill: for what does not fit into memory.
      seed: of the bootstrap.
    """

    def __init__(self, spill: Spill, seed: int):
        self._sums, self._seed = SortedSums(spill), seed
        self.groups = self.one_class_groups = 0
        """Groups in all, and those without an AUC; after `blocks`."""

    def add(self, groups: np.ndarray, labels: np.ndarray, predictions: np.ndarray, w: np.ndarray) -> None:
        """Adds rows: groups int64 [n] below 2^32; others as trainer.evaluation.pointwise.ordering."""
        keys = groups.astype(np.uint64) << _GROUP
        keys |= falling(predictions)
        pos = w * labels
        self._sums.add(keys, pos, w - pos)

    def blocks(self) -> np.ndarray:
        """By bootstrap block of the groups with an AUC: the sum of weight times AUC, and the weight; float64
        [BLOCKS, 2]."""
        sums = np.zeros((BLOCKS, 2))
        open_group, carried = -1, np.zeros(3)
        for entries in self._sums.chunks():
            groups, figures = _groups_of(entries, open_group, carried)
            self._close(groups[:-1], figures[:-1], sums)
            if open_group not in (-1, groups[0]):
                self._close(np.array([open_group]), carried[None], sums)
            open_group, carried = int(groups[-1]), figures[-1]
        if open_group >= 0:
            self._close(np.array([open_group]), carried[None], sums)
        return sums

    def _close(self, groups: np.ndarray, figures: np.ndarray, sums: np.ndarray) -> None:
        pairs, pos, neg = figures.T
        both = (pos > 0) & (neg > 0)
        self.groups += int(((pos > 0) | (neg > 0)).sum())
        self.one_class_groups += int(((pos > 0) ^ (neg > 0)).sum())
        pairs, pos, neg = pairs[both], pos[both], neg[both]
        where = blocks_of(self._seed, groups[both])
        sums[:, 0] += np.bincount(where, (pos + neg) * (pairs / (pos * neg)), BLOCKS)
        sums[:, 1] += np.bincount(where, pos + neg, BLOCKS)


def _groups_of(entries: np.ndarray, open_group: int, carried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The groups of sorted entries, int64 [m], and for each the weight of its pairs in the right order, of
    its positives and of its negatives, float64 [m, 3]; with what was `carried` of the first one."""
    assert entries.dtype == ENTRY
    all_groups = (entries["key"] >> _GROUP).astype(np.int64)
    first = np.flatnonzero(np.concatenate([[True], all_groups[1:] != all_groups[:-1]]))
    groups, pos, neg = all_groups[first], entries["pos"], entries["neg"]
    before = np.cumsum(pos) - pos
    start = before[first]
    figures = np.zeros((len(groups), 3))
    if groups[0] == open_group:
        start[0] -= carried[1]
        figures[0] = carried
    tp = before - np.repeat(start, np.diff(np.append(first, len(pos))))
    one = np.ones(())
    figures[:, 0] += np.add.reduceat(area(Ranked(pos, neg, tp, np.zeros(1), one, one)), first)
    figures[:, 1] += np.add.reduceat(pos, first)
    figures[:, 2] += np.add.reduceat(neg, first)
    return groups, figures

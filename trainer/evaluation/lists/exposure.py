"""How often items are recommended: coverage and Gini index with their intervals, in one pass over the lists.

A bootstrap cannot give these intervals. It draws users repeatedly, so its samples cover fewer items than the
users did: most of its intervals do not even hold the figure itself (docs/decisions.md). Both intervals are
symmetric, figure +- t standard errors, and say how much the figure would change with as many other users.

gini: the delete-a-group jackknife over the blocks of users that the bootstrap has (Wolter 2007, Introduction
to Variance Estimation, chapter 4).

coverage: an item counts or not, and only few users decide about items near the margin. With D(S) the number
of items that exactly the users S have in their lists, and users drawn independently, the variance of the
number of items covered is the expectation of the sum over all S of (-1)^(|S| + 1) D(S)^2, the series of Good
and Toulmin 1956 with the items of one list taken together, less (items of one user only)^2 / users because
the number of users is given. The series is smoothed as by Efron and Thisted 1976: sets of s users weigh
P(Binomial(5, 1/2) >= s). The sum over single users alone, which is the jackknife's, is up to four times too
large. A quarter of it is the least variance. t has as many degrees of freedom as the series is certain
(Satterthwaite 1946), at least 3.
"""

import math
import statistics

import numpy as np

from configs.sections.evaluation import EvaluateConfig
from configs.splitmix import hash_ids
from trainer.evaluation.lists.metrics import OF_EXPOSURE, gini_of_histogram
from trainer.evaluation.pointwise.resampling import BLOCKS, FEWEST, blocks_of

_TERMS = 5
_WEIGHTS = [
    sum(math.comb(_TERMS, more) for more in range(users, _TERMS + 1)) / 2**_TERMS
    for users in range(1, _TERMS + 1)
]
_PENDING = 1 << 21
"""Entries of lists that wait to be counted: 16 MiB."""


class Exposure:
    """Counts the items of lists, by bootstrap block of the users.

    Args:
      ranked: catalog ids of the items that can be recommended, int64, ascending.
      config: the section.
    """

    def __init__(self, ranked: np.ndarray, config: EvaluateConfig):
        self._ranked, self._config, self._cutoffs = ranked, config, sorted(config.k)
        self._places = np.zeros(1 + int(ranked.max(initial=-1)), np.int64)
        self._places[ranked] = np.arange(len(ranked))
        shape = (len(self._cutoffs), len(ranked))
        self._users, self._signatures = np.zeros(shape, np.int64), np.zeros(shape, np.uint64)
        self._counted = np.zeros((2, 0), np.int64)
        self._pending: list[np.ndarray] = []
        self.lists = 0

    def add(self, users: np.ndarray, lists: np.ndarray) -> None:
        """Adds lists, catalog ids int64 [n, m] with -1 after the last, of users with ids int64 [n]."""
        self.lists += len(lists)
        rows, columns = np.nonzero(lists >= 0)
        places = self._places[lists[rows, columns]]
        since = np.searchsorted(self._cutoffs, columns + 1)  # the first cut-off that a list has the item for
        blocks = blocks_of(self._config.seed, users)[rows]
        self._pending.append((blocks * len(self._ranked) + places) * len(self._cutoffs) + since)
        if sum(map(len, self._pending)) >= _PENDING:
            self._count()
        # Some users have several lists (evaluate.cold_users: rank), but count once for an item.
        pairs, first = np.unique(users[rows] * len(self._ranked) + places, return_index=True)
        who = hash_ids(self._config.seed, pairs // max(len(self._ranked), 1))
        for cut in range(len(self._cutoffs)):
            within = since[first] <= cut
            np.add.at(self._users[cut], places[first[within]], 1)
            np.add.at(self._signatures[cut], places[first[within]], who[within])

    def _count(self) -> None:
        keys = np.concatenate([self._counted[0], *self._pending])
        numbers = np.concatenate([self._counted[1], np.ones(len(keys) - self._counted.shape[1], np.int64)])
        distinct, place = np.unique(keys, return_inverse=True)
        self._counted = np.stack([distinct, np.bincount(place, numbers, len(distinct)).astype(np.int64)])
        self._pending = []

    def figures(self) -> tuple[dict[str, float], dict[str, list[float] | None]]:
        """(metrics by name@k, their intervals or None)."""
        self._count()
        keys, numbers = self._counted
        since, cells = keys % len(self._cutoffs), keys // len(self._cutoffs)
        blocks, places = cells // max(len(self._ranked), 1), cells % max(len(self._ranked), 1)
        metrics: dict[str, float] = {}
        intervals: dict[str, list[float] | None] = {}
        for k in self._config.k:
            cut = self._cutoffs.index(k)
            mine = since <= cut
            counts = np.bincount(places[mine], numbers[mine], len(self._ranked)).astype(np.int64)
            metrics |= {f"{name}@{k}": metric(counts) for name, metric in OF_EXPOSURE.items()}
            errors = {
                "coverage": self._coverage_error(cut),
                "gini": _gini_error(counts, blocks[mine], places[mine], numbers[mine]),
            }
            for name in OF_EXPOSURE:
                error = errors.get(name, (math.nan, 1.0))
                intervals[f"{name}@{k}"] = self._interval(metrics[f"{name}@{k}"], *error)
        return metrics, intervals

    def _interval(self, value: float, error: float, freedom: float) -> list[float] | None:
        if not (self._config.bootstrap and self.lists >= FEWEST and math.isfinite(error)):
            return None
        reach = t_quantile((1 + self._config.confidence) / 2, freedom) * error
        return [float(max(value - reach, 0.0)), float(min(value + reach, 1.0))]

    def _coverage_error(self, cut: int) -> tuple[float, float]:
        """(standard error of the coverage, degrees of freedom)."""
        users, signatures = self._users[cut], self._signatures[cut]
        squares = np.zeros(_TERMS)
        for size in range(1, _TERMS + 1):
            _, together = np.unique(signatures[users == size], return_counts=True)
            squares[size - 1] = (together.astype(np.float64) ** 2).sum()
        weights = np.array(_WEIGHTS) * (-1.0) ** np.arange(_TERMS)
        given = np.count_nonzero(users == 1) ** 2 / max(self.lists, 1)
        variance = max(float(weights @ squares) - given, (squares[0] - given) / 4, 0.0)
        freedom = 2 * variance**2 / max(float(weights**2 @ squares), 1e-9)
        return math.sqrt(variance) / max(len(users), 1), max(freedom, 3.0)


def _gini_error(
    counts: np.ndarray, blocks: np.ndarray, places: np.ndarray, numbers: np.ndarray
) -> tuple[float, float]:
    """(standard error of the Gini index, degrees of freedom); NaN below FEWEST blocks.

    Args:
      counts: lists that hold each item, int64 [items].
      blocks, places, numbers: how many lists of users of a block hold the item at a place, int64 [m] each.
    """
    whole, order = np.bincount(counts), np.argsort(blocks, kind="stable")
    ends = np.searchsorted(blocks[order], np.arange(BLOCKS + 1))
    values = []
    for start, stop in zip(ends[:-1], ends[1:], strict=True):
        if start == stop:
            continue
        mine = order[start:stop]
        items, entries = np.unique(places[mine], return_inverse=True)  # an item may have several entries
        taken = np.bincount(entries, numbers[mine]).astype(np.int64)
        without = whole.copy()
        np.subtract.at(without, counts[items], 1)
        np.add.at(without, counts[items] - taken, 1)
        values.append(gini_of_histogram(without))
    found = np.array(values)
    if len(found) < FEWEST:
        return math.nan, 1.0
    spread = ((found - found.mean()) ** 2).sum() * (len(found) - 1) / len(found)
    return math.sqrt(spread), len(found) - 1.0


def t_quantile(share: float, freedom: float) -> float:
    """A quantile of Student's t, by the series of Hill 1970 (Cornish and Fisher) to the third order, within
    1 % from 3 degrees of freedom on for shares up to 0.975."""
    z = statistics.NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))

"""The synthetic source's planted model: interactions whose best possible ranking is known.

User u has factors x_u ~ N(0, I_F); group c has loadings a_c ~ N(0, I_F); the user's taste is
p(c | u) = softmax_c(sharpness * x_u . a_c / sqrt(F)). Item i belongs to group i mod C and has rank
r = i // C in it, p(i | c) ~ (r + 1)^-item_zipf. An interaction draws c, then i, so that
log p(i | u) = log p(c_i | u) + log p(i | c_i): no ranking of the items beats ranking by this value.

Everything is a pure function of (seed, index) through SplitMix64 (configs/splitmix.py), so any
range of rows can be generated anywhere, and 25 million users need no table.

Groups are drawn from the cumulative p(c | u) in float32, computed without a matrix product, whose rounding
would depend on how many users are computed together. Most draws are so far from the bounds of their group
that rounding cannot matter; these, and only these, are decided with matrix products (_nearby).
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from configs.sections.source_kinds.synthetic import SyntheticSourceConfig
from configs.splitmix import GOLDEN, mix

_NAMES = (
    *("user", "cluster", "item", "factor", "loading"),
    *("key", "effect", "vector", "number", "wave", "length", "member", "click"),
)
_STREAM = {name: np.uint64(i + 1) for i, name in enumerate(_NAMES)}
"""Streams of random numbers; those of the second line are of configs/planted/clicks.py."""
FIRST_TIMESTAMP = 1_600_000_000
_CACHED_VALUES = 1 << 24  # of users' cumulative tastes kept in memory, 64 MiB
_MARGIN = 1e-6  # of cumulative probabilities; float32 rounds them by at most 6e-8
_BLOCK = 512  # users whose groups are drawn together
_PRODUCT = 1 << 18  # multiplications of a matrix product, up to which OpenBLAS starts no threads
_LARGEST_LOGIT = 600.0  # sums of exponentials are finite, and none is rounded to 0


def uniform(seed: int, stream: str, index: np.ndarray) -> np.ndarray:
    """float64 in (0, 1), one per index, independent between streams."""
    with np.errstate(over="ignore"):
        key = mix(np.uint64(seed % 2**63) * GOLDEN + _STREAM[stream])
        bits = mix(mix(index.astype(np.uint64) * GOLDEN + key))
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(seed: int, stream: str, index: np.ndarray) -> np.ndarray:
    """Standard normals by Box-Muller, one per index."""
    radius = np.sqrt(-2.0 * np.log(uniform(seed, stream, index * 2)))
    return radius * np.cos(2.0 * np.pi * uniform(seed, stream, index * 2 + 1))


def planted_source(source: dict[str, Any]) -> SyntheticSourceConfig | None:
    """The source section of a dataset's manifest; None unless its data was drawn from a planted model."""
    return SyntheticSourceConfig(**source) if source.get("kind") == "synthetic" else None


class Planted:
    """Draws interactions and knows their probabilities."""

    def __init__(self, source: SyntheticSourceConfig):
        self.source = source
        self.clusters = min(source.clusters, source.items)
        shape = (source.factors, self.clusters)
        index = np.arange(shape[0] * shape[1])
        self._loadings = normal(source.seed, "loading", index).reshape(shape)
        # Groups differ in size by one item; `_cdf[s]` is for the smaller (0) and the larger (1) size.
        self._small = source.items // self.clusters
        self._large_groups = source.items % self.clusters
        weights = np.arange(1, self._small + 2, dtype=np.float64) ** -source.item_zipf
        self._cdf = [np.cumsum(weights[: self._small + extra]) for extra in (0, 1)]
        self._totals = [cdf[-1] for cdf in self._cdf]
        self._cdf = [cdf / cdf[-1] for cdf in self._cdf]
        self._all_tastes: np.ndarray | None = None

    def users(self, rows: np.ndarray) -> np.ndarray:
        """User index int64 [n] of each row index: every user at least once if there are enough rows, the rest
        by Zipf's law."""
        spec = self.source
        share = uniform(spec.seed, "user", rows)
        if abs(spec.user_zipf - 1.0) < 1e-9:
            rank = np.exp(share * np.log(spec.users + 1.0))
        else:
            power = 1.0 - spec.user_zipf
            rank = (share * ((spec.users + 1.0) ** power - 1.0) + 1.0) ** (1.0 / power)
        drawn = np.minimum(rank.astype(np.int64) - 1, spec.users - 1)
        if spec.rows < spec.users:
            return drawn
        turn = rows * spec.users // spec.rows
        is_turn = turn != (rows - 1) * spec.users // spec.rows
        return np.where(is_turn, turn, drawn)

    def taste(self, users: np.ndarray) -> np.ndarray:
        """log p(group | user), float64 [n, clusters], for user indices int64 [n]."""
        normals = self._factors(users)
        logits = normals[:, :1] * self._loadings[0]
        for factor in range(1, self.source.factors):
            logits += normals[:, factor : factor + 1] * self._loadings[factor]
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def _factors(self, users: np.ndarray) -> np.ndarray:
        """x_u * sharpness / sqrt(F), float64 [n, F]."""
        factors = self.source.factors
        index = users[:, None].astype(np.int64) * factors + np.arange(factors)
        return normal(self.source.seed, "factor", index) * (self.source.sharpness / np.sqrt(factors))

    def items(self, rows: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Item index int64 [n] drawn for row indices and their users, both int64 [n]."""
        draw = uniform(self.source.seed, "cluster", rows).astype(np.float32)
        cluster = self._groups(users, draw)
        share = uniform(self.source.seed, "item", rows)
        rank = np.empty(len(rows), np.int64)
        large = cluster < self._large_groups
        for extra, group in enumerate((~large, large)):
            rank[group] = np.searchsorted(self._cdf[extra], share[group])
        return rank * self.clusters + cluster

    def _groups(self, users: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """First group, int64 [n], whose cumulative p(group | user) is not below the draw, float32 [n]."""
        if self.source.users * self.clusters <= _CACHED_VALUES and self.source.rows >= self.source.users:
            if self._all_tastes is None:
                parts = np.array_split(np.arange(self.source.users), 1 + self.source.users // (1 << 14))
                self._all_tastes = np.concatenate([self._cumulate(part) for part in parts])
            return _search_rows(self._all_tastes, users, draw)
        found, sure = self._nearby(users, draw)
        left = np.flatnonzero(~sure)
        found[left] = _search_rows(self._cumulate(users[left]), np.arange(len(left)), draw[left])
        return found

    def _cumulate(self, users: np.ndarray) -> np.ndarray:
        """Cumulative p(group | user), float32 [n, clusters]."""
        return np.cumsum(np.exp(self.taste(users)), axis=1).astype(np.float32)

    def _nearby(self, users: np.ndarray, draw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As _groups, with other rounding, and where this cannot matter, bool [n].

        Groups are cut into parts of about the square root of their number: first the part is found, then the
        group inside it.
        """
        width = math.isqrt(self.clusters - 1) + 1
        parts = -(-self.clusters // width)
        up_to_part = np.repeat(np.tri(parts), width, axis=1)  # sums of parts, from the first one on
        up_to_place, places = np.tri(width), np.arange(width)[:, None]
        weights = np.zeros([parts * width, _BLOCK])  # rows beyond the groups stay 0
        bounds, inside = np.empty([parts, _BLOCK]), np.empty([width, _BLOCK])
        found, sure = np.empty(len(users), np.int64), np.empty(len(users), bool)
        normals = self._factors(users)
        for start in range(0, len(users), _BLOCK):
            block = slice(start, min(start + _BLOCK, len(users)))
            each = np.arange(block.stop - start)
            logits = weights[: self.clusters, : len(each)]
            _multiply(self._loadings.T, normals[block].T, logits)
            if max(logits.max(), -logits.min()) > _LARGEST_LOGIT:
                logits -= logits.max(axis=0)
            np.exp(logits, out=logits)
            upper = bounds[:, : len(each)]
            _multiply(up_to_part, weights[:, : len(each)], upper)
            total = upper[-1]
            target = draw[block] * total
            part = np.minimum((upper < target).sum(axis=0), parts - 1)
            before = np.where(part > 0, upper[part - 1, each], 0.0)
            within = inside[:, : len(each)]
            _multiply(up_to_place, weights[part * width + places, each], within)
            within += before
            place = np.minimum((within < target).sum(axis=0), width - 1)
            below = np.where(place > 0, within[place - 1, each], before)
            found[block] = part * width + place
            sure[block] = np.minimum(within[place, each] - target, target - below) > _MARGIN * total
        return found, sure

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """User index, item index, timestamp (seconds), int64 [stop - start] each, of a range of rows."""
        index = np.arange(start, stop, dtype=np.int64)
        users = self.users(index)
        return users, self.items(index, users), FIRST_TIMESTAMP + index

    def scores(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """log p(item | user), float64 [len(users), len(items)]: the best possible ranking score."""
        cluster = items % self.clusters
        large = (cluster < self._large_groups).astype(int)
        inside = -self.source.item_zipf * np.log(items // self.clusters + 1.0)
        return self.taste(users)[:, cluster] + inside - np.log(np.take(self._totals, large))


def _multiply(first: np.ndarray, second: np.ndarray, to: np.ndarray) -> None:
    """Writes a matrix product, some columns at a time, so that it stays in this thread."""
    step = max(1, _PRODUCT // first.size)
    for start in range(0, second.shape[1], step):
        np.matmul(first, second[:, start : start + step], out=to[:, start : start + step])


def _search_rows(cdf: np.ndarray, rows: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """First column of cdf[row] that is not below the draw, int64 [n]; the last one when none is.

    Args:
      cdf: float32 [m, columns], rising along each row.
      rows: int64 [n].
      draw: float32 [n].
    """
    columns = cdf.shape[1]
    flat, start = cdf.reshape(-1), rows * columns
    found = np.zeros(len(rows), np.int64)
    step = 1 << max(0, (columns - 1).bit_length() - 1)
    while step and columns > 1:
        # The first `found` columns are below the draw; the last column never counts as below.
        probe = np.minimum(found + step, columns - 1)
        below = flat[start + probe - 1] < draw
        found = np.where(below, probe, found)
        step //= 2
    return found


def user_key(index: np.ndarray) -> np.ndarray:
    """Raw user keys, fixed-width bytes, of user indices."""
    return np.char.add(b"u", index.astype("S"))


def item_key(index: np.ndarray) -> np.ndarray:
    """Raw item keys, fixed-width bytes, of item indices."""
    return np.char.add(b"i", index.astype("S"))


def index_of_key(keys: Iterable[bytes]) -> np.ndarray:
    """Indices int64 of raw keys (bytes such as b"u17")."""
    return np.array([int(key[1:]) for key in keys], dtype=np.int64)

"""The click log's planted model: rows whose click probability is known.

Columns are the user and the item, if there are any, and the categorical features. Column j has K_j keys;
key k is drawn with p_j(k) = F_j(k + 2) - F_j(k + 1), where F_j is the distribution on [1, K_j + 1] whose
density is proportional to r^-key_zipf. Number m is expm1(4 s) with s uniform in (0, 1). A list has 0 to
list_length keys from a table of its own. All draws are independent.

The logit is bias + signal * z. z has mean 0 and standard deviation 1, and is a weighted sum of four parts
whose variances are in the proportion WEIGHTS; parts that a source does not have are left out:
  keys          the sum over columns j of g_j(k) e_j(k), with effects e ~ N(0, 1)
  interactions  the sum over pairs p of g_j(k) g_l(k') v_j(k) . v_l(k'), with vectors v ~ N(0, I) of width
                rank, of columns j = 2p and l = 2p + 1, counted modulo the number of columns
  numbers       the sum over m of cos(w_m log1p(n_m) + b_m), with w_m in (1, 2.5) and b_m in (0, 2 pi)
  list          the mean of g(k) e(k) over the keys of the list; 0 for an empty one
g(k)^2 = c / (c + RARE), where c = rows * p(k) rows are expected to have the key: a key that is too rare to
learn from has little effect, however large the tables are. The scale of each part, the mean of z and the bias
that makes the mean probability equal to `rate` are computed from a sample of further rows.

As in configs/planted/interactions.py, everything is a pure function of (seed, index): any range of rows can
be generated anywhere.
"""

from typing import Any, NamedTuple

import numpy as np

from configs.planted.interactions import FIRST_TIMESTAMP, normal, uniform
from configs.sections.source_kinds.synthetic import SyntheticClicksSourceConfig

WEIGHTS = {"keys": 0.5, "interactions": 0.2, "numbers": 0.2, "list": 0.1}
"""Shares of the logit's variance."""
RARE = 300.0
_SAMPLE = 1 << 16  # rows from which scales and bias are computed
_DIGITS = 6  # of what is computed from it: the last bits of sums differ between processors
_LOGARITHM = 4.0  # largest log1p of a number


class ClickRows(NamedTuple):
    """n rows."""

    keys: list[np.ndarray]
    """Per column, int64 [n]: index of the key."""
    numbers: list[np.ndarray]
    """Per numeric feature, float32 [n]."""
    members: np.ndarray
    """int64: indices of the keys of all lists, one after the other."""
    lengths: np.ndarray
    """int64 [n]: how many belong to each row."""
    probability: np.ndarray
    """float64 [n]: of a click."""
    clicked: np.ndarray
    """bool [n]."""
    timestamps: np.ndarray
    """int64 [n], seconds."""


class _Keys(NamedTuple):
    """What the keys of one column contribute, by key."""

    effects: np.ndarray
    """float32 [keys]."""
    vectors: np.ndarray
    """float32 [keys, rank]; no rows if the column is in no pair."""


class PlantedClicks:
    """Draws rows and knows their probabilities."""

    def __init__(self, source: SyntheticClicksSourceConfig):
        self.source = source
        owners = [size for size in (source.users, source.items) if size]
        self.sizes = [*owners, *source.categorical]
        """Number of keys of each column."""
        count = len(self.sizes)
        pairs = source.pairs if count > 1 else 0
        self.pairs = [(2 * p % count, (2 * p + 1) % count) for p in range(pairs)]
        paired = {column for pair in self.pairs for column in pair}
        self._keys = [self._planted_keys(j, size, j in paired) for j, size in enumerate(self.sizes)]
        self._list = self._planted_keys(count, max(1, source.list_keys), False)
        waves = np.arange(source.numbers)
        self._frequency = 1.0 + 1.5 * uniform(source.seed, "wave", 2 * waves)
        self._phase = 2.0 * np.pi * uniform(source.seed, "wave", 2 * waves + 1)
        self._calibrate()

    def rows(self, start: int, stop: int) -> ClickRows:
        """A range of rows."""
        index = np.arange(start, stop, dtype=np.int64)
        keys, numbers, members, lengths = self._features(index)
        probability = self._probability(self._z(keys, numbers, members, lengths))
        clicked = uniform(self.source.seed, "click", index) < probability
        return ClickRows(keys, numbers, members, lengths, probability, clicked, FIRST_TIMESTAMP + index)

    def _features(
        self, index: np.ndarray
    ) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
        """Keys, numbers, members and lengths of rows int64 [n]."""
        source, count = self.source, len(self.sizes)
        keys = [
            draw_keys(uniform(source.seed, "key", index * count + j), size, source.key_zipf)
            for j, size in enumerate(self.sizes)
        ]
        numbers = [
            np.expm1(_LOGARITHM * uniform(source.seed, "number", index * source.numbers + m)).astype(
                np.float32
            )
            for m in range(source.numbers)
        ]
        if not source.list_keys:
            return keys, numbers, np.zeros(0, np.int64), np.zeros(len(index), np.int64)
        longest = source.list_length
        lengths = (uniform(source.seed, "length", index) * (longest + 1)).astype(np.int64)
        place = index[:, None] * longest + np.arange(longest)
        place = place[np.arange(longest) < lengths[:, None]]
        members = draw_keys(uniform(source.seed, "member", place), source.list_keys, source.key_zipf)
        return keys, numbers, members, lengths

    def _planted_keys(self, column: int, size: int, paired: bool) -> _Keys:
        source = self.source
        key = np.arange(size) + (column << 32)  # no table has more keys
        weight = np.sqrt(_learnable(source.rows, size, source.key_zipf)).astype(np.float32)
        effects = normal(source.seed, "effect", key).astype(np.float32) * weight
        vectors = np.zeros((0, source.rank), np.float32)
        if paired:
            each = key[:, None] * source.rank + np.arange(source.rank)
            vectors = normal(source.seed, "vector", each).astype(np.float32) * weight[:, None]
        return _Keys(effects, vectors)

    def _parts(
        self, keys: list[np.ndarray], numbers: list[np.ndarray], members: np.ndarray, lengths: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The parts of the logit by name, float64 [n] each, not scaled."""
        found: dict[str, np.ndarray] = {}
        rows = len(lengths)
        if keys:
            found["keys"] = sum(
                (k.effects[mine] for k, mine in zip(self._keys, keys, strict=True)), np.zeros(rows)
            )
        if self.pairs:
            found["interactions"] = np.zeros(rows)
            for first, second in self.pairs:
                left = self._keys[first].vectors[keys[first]]
                right = self._keys[second].vectors[keys[second]]
                for r in range(self.source.rank):
                    found["interactions"] += left[:, r] * right[:, r]
        if numbers:
            found["numbers"] = np.zeros(rows)
            for values, frequency, phase in zip(numbers, self._frequency, self._phase, strict=True):
                found["numbers"] += np.cos(frequency * np.log1p(values.astype(np.float64)) + phase)
        if self.source.list_keys:
            owner = np.repeat(np.arange(rows), lengths)
            sums = np.bincount(owner, weights=self._list.effects[members], minlength=rows)
            found["list"] = sums / np.maximum(lengths, 1)
        return found

    def _z(self, *features: Any) -> np.ndarray:
        z = np.full(len(features[-1]), -self._shift)
        for name, values in self._parts(*features).items():
            z += self._scales[name] * values
        return z

    def _probability(self, z: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-(self._bias + self.source.signal * z)))

    def _calibrate(self) -> None:
        """Scales, shift and bias from rows of their own, which are in no log."""
        index = np.arange(_SAMPLE, dtype=np.int64) + (1 << 40)
        features = self._features(index)
        parts = {name: values for name, values in self._parts(*features).items() if values.std() > 0}
        total = sum(WEIGHTS[name] for name in parts)
        self._scales = {name: np.sqrt(WEIGHTS[name] / total) / parts[name].std() for name in parts}
        self._scales = {name: _rounded(scale) for name, scale in self._scales.items()}
        self._scales |= dict.fromkeys(WEIGHTS.keys() - parts.keys(), 0.0)
        self._shift, self._bias = 0.0, 0.0
        self._shift = _rounded(self._z(*features).mean())
        z = self._z(*features)
        low, high = -50.0, 50.0
        while high - low > 1e-9:
            self._bias = (low + high) / 2
            low, high = (
                (self._bias, high) if self._probability(z).mean() < self.source.rate else (low, self._bias)
            )
        self._bias = _rounded(self._bias)


def draw_keys(share: np.ndarray, size: int, zipf: float) -> np.ndarray:
    """Index int64 [n] of keys below `size` by uniform numbers in (0, 1)."""
    if abs(zipf - 1.0) < 1e-9:
        rank = np.exp(share * np.log(size + 1.0))
    else:
        power = 1.0 - zipf
        rank = (share * ((size + 1.0) ** power - 1.0) + 1.0) ** (1.0 / power)
    return np.minimum(rank.astype(np.int64) - 1, size - 1)


def key_shares(size: int, zipf: float) -> np.ndarray:
    """float64 [size]: probability of each key."""
    edges = np.arange(1, size + 2, dtype=np.float64)
    if abs(zipf - 1.0) < 1e-9:
        below = np.log(edges) / np.log(size + 1.0)
    else:
        power = 1.0 - zipf
        below = (edges**power - 1.0) / ((size + 1.0) ** power - 1.0)
    return np.diff(below)


def _learnable(rows: int, size: int, zipf: float) -> np.ndarray:
    expected = rows * key_shares(size, zipf)
    return expected / (expected + RARE)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")

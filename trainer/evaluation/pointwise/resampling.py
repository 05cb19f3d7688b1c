"""Bootstrap intervals that cost one pass over the rows.

Each user (without users, each row) belongs to one of BLOCKS blocks by a hash, and every sum is kept by block.
A bootstrap sample gives each block a weight, Poisson with mean 1, instead of drawing rows with replacement
(Hanley and MacGibbon 2006, Creating non-parametric bootstrap samples using Poisson frequencies; Chamandy et
al. 2012, Estimating Uncertainty for Massive Data Streams). Rows of one user stay together, because they are
not independent. Blocks in place of single users are the method of random groups (Wolter 2007, Introduction to
Variance Estimation, chapter 2): the sampled variance is unbiased, and its own standard error is sqrt(2 / 255)
of it, 9 %. An interval holds the middle of the samples' values (percentile bootstrap, Efron 1981).

Everything is a hash of the seed, so an interval is the same in every run.
"""

import math

import numpy as np

from configs.splitmix import hash_ids

BLOCKS = 256
FEWEST = 10
"""Blocks with rows below which there is no interval: too few to say how much they vary."""
_SAMPLES = 0x5EED  # keeps the hashes of samples apart from those of blocks


def blocks_of(seed: int, units: np.ndarray) -> np.ndarray:
    """The block of each unit (a user, group or row number, int64 [n]): int64 [n]."""
    return (hash_ids(seed, units) >> np.uint64(56)).astype(np.int64)


def sample_weights(seed: int, samples: int) -> np.ndarray:
    """Poisson(1) weights of the blocks in each bootstrap sample, float64 [samples, BLOCKS]."""
    hashes = hash_ids(seed + _SAMPLES, np.arange(samples * BLOCKS))
    uniform = (hashes >> np.uint64(11)).astype(np.float64) / 2**53
    chances = np.cumsum([math.exp(-1) / math.factorial(count) for count in range(18)])
    return np.searchsorted(chances, uniform, side="right").reshape(samples, BLOCKS).astype(np.float64)


def interval(samples: np.ndarray, confidence: float, shift: float = 0.0) -> list[float] | None:
    """The middle `confidence` of samples, moved by `shift`.

    Args:
      samples: values of a metric, float64 [n]; NaN where a sample leaves it undefined.

    Returns:
      [low, high], or None if fewer than half of the samples define the metric.
    """
    known = samples[np.isfinite(samples)]
    if len(known) == 0 or 2 * len(known) < len(samples):
        return None
    outside = (1 - confidence) / 2
    low, high = np.quantile(known, [outside, 1 - outside])
    return [float(low + shift), float(high + shift)]

"""Mean and spread of numbers, computed in parts."""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Count, mean and summed squared distance from it, of float64 values."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which no one calls
    mean: float
    spread: float

    @staticmethod
    def of(values: np.ndarray) -> "Moments":
        """Moments of values [n], n > 0."""
        wide = values.astype(np.float64)
        return Moments(len(wide), float(wide.mean()), float(np.square(wide - wide.mean()).sum()))

    def join(self, other: "Moments") -> "Moments":
        """Moments of both together (Chan et al. 1983, Algorithms for Computing the Sample Variance, 2.1)."""
        count, apart = self.count + other.count, other.mean - self.mean
        mean = self.mean + apart * other.count / count
        return Moments(count, mean, self.spread + other.spread + apart**2 * self.count * other.count / count)

"""Rows of different lengths in NumPy, for catalogs and ranking."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ragged:
    """n rows of values in one array."""

    values: np.ndarray
    """[total], any dtype."""
    lengths: np.ndarray
    """int64 [n]; their sum is total."""

    def __post_init__(self) -> None:
        if int(self.lengths.sum()) != len(self.values):
            raise ValueError(f"lengths sum to {self.lengths.sum()}, but there are {len(self.values)} values")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def row_of_value(self) -> np.ndarray:
        """int64 [total]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def place_in_row(self) -> np.ndarray:
        """Position of each value in its row, int64 [total]."""
        starts = np.cumsum(self.lengths) - self.lengths
        return np.arange(len(self.values)) - np.repeat(starts, self.lengths)

    @staticmethod
    def join(parts: list["Ragged"]) -> "Ragged":
        """Rows of all parts, in order; at least one part."""
        return Ragged(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("values", "lengths")))

    def beside(self, other: "Ragged") -> "Ragged":
        """Each row's values followed by those of the same row of `other`."""
        order = np.argsort(np.concatenate([self.row_of_value, other.row_of_value]), kind="stable")
        return Ragged(np.concatenate([self.values, other.values])[order], self.lengths + other.lengths)

    def take(self, rows: np.ndarray) -> "Ragged":
        """The rows at positions `rows` (int64), in that order."""
        starts, lengths = (np.cumsum(self.lengths) - self.lengths)[rows], self.lengths[rows]
        index = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        return Ragged(self.values[index], lengths)

    def keep(self, mask: np.ndarray) -> "Ragged":
        """The values where `mask` (bool [total]) holds; all rows stay."""
        return Ragged(self.values[mask], np.bincount(self.row_of_value[mask], minlength=len(self)))

    def distinct(self, bound: int) -> "Ragged":
        """Each row's distinct values, ascending; values are integers in [0, bound)."""
        codes = np.unique(self._codes(bound))
        return Ragged(codes % bound, np.bincount(codes // bound, minlength=len(self)))

    def without(self, other: "Ragged", bound: int) -> "Ragged":
        """Each row without the values of the same row of `other`; integers in [0, bound)."""
        return self.keep(~np.isin(self._codes(bound), other._codes(bound)))

    def first(self, number: int) -> "Ragged":
        """At most the first `number` values of each row."""
        return self.keep(self.place_in_row < number)

    def last(self, number: int) -> np.ndarray:
        """The last `number` values of each row, in order, padded with -1: [n, number]."""
        place = self.place_in_row - np.repeat(np.maximum(self.lengths - number, 0), self.lengths)
        padded = np.full((len(self), number), -1, self.values.dtype)
        padded[self.row_of_value[place >= 0], place[place >= 0]] = self.values[place >= 0]
        return padded

    def _codes(self, bound: int) -> np.ndarray:
        """One integer per (row, value)."""
        return self.row_of_value * bound + self.values

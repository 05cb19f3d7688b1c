"""The reasons for which rows are rejected."""

import numpy as np


class Faults:
    """The first reason of each invalid row."""

    def __init__(self, rows: int):
        self._reason = np.zeros(rows, np.int16)
        self._names = [""]

    def add(self, mask: np.ndarray, reason: str) -> None:
        """Records a reason for rows (bool [n]) that have none yet."""
        if mask.any():
            self._names.append(reason)
            self._reason[mask & (self._reason == 0)] = len(self._names) - 1

    def rows(self) -> np.ndarray:
        """int64 indices of invalid rows."""
        return np.flatnonzero(self._reason)

    def reason(self, row: int) -> str:
        return self._names[self._reason[row]]

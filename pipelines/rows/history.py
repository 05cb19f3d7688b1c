"""Histories: which earlier rows of the same user belong to each row."""

import numpy as np

_PIECE = 1 << 20  # values gathered at once


def history_ranges(starts: np.ndarray, member: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The newest earlier members of each row's user, as ranges of the members' list.

    Args:
      starts: int64 [n], first row of the row's user; rows are sorted by user, then oldest first.
      member: bool [n], whether a row may be in a history.
      length: most members in a history.

    Returns:
      first, last int64 [n]: row r's history is members[first[r]:last[r]], where members are the rows with
      `member` set, in order.
    """
    before = np.zeros(len(member) + 1, np.int64)
    np.cumsum(member, out=before[1:])
    last = before[:-1]
    return np.maximum(before[starts], last - length), last


def gather_ranges(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """values[first[0]:last[0]], values[first[1]:last[1]], ... one after the other."""
    lengths = last - first
    ends = np.cumsum(lengths)
    gathered = np.empty(int(ends[-1]) if len(ends) else 0, values.dtype)
    start = 0
    while start < len(first):  # piece by piece: positions take more memory than values
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PIECE, side="right")))
        shift = np.repeat(first[start:stop] - (ends - lengths)[start:stop], lengths[start:stop])
        gathered[done : done + len(shift)] = values[np.arange(done, done + len(shift)) + shift]
        start = stop
    return gathered

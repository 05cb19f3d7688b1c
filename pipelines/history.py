"""Histories: which earlier rows of the same user belong to each row."""

import numpy as np


def history_ranges(starts: np.ndarray, member: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The newest earlier members of each row's user, as ranges of the members' list.

    Args:
      starts: int64 [n], first row of the row's user; rows are sorted by user, then oldest first.
      member: bool [n], whether a row may stand in a history.
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
    shift = np.repeat(first - (ends - lengths), lengths)
    return values[np.arange(len(shift)) + shift]

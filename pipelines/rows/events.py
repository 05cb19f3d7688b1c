"""Events: rows with the same user, item and instant are one event, however often it was delivered."""

import numpy as np


def events(users: np.ndarray, times: np.ndarray, items: np.ndarray) -> np.ndarray:
    """int64 [n]: the first row of each row's event, which may be the row itself.

    Args:
      users, times, items: [n], of rows sorted by user, then oldest first.
    """
    event = np.arange(len(users))
    same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    if not same.any():
        return event
    tied = np.flatnonzero(np.r_[same, False] | np.r_[False, same])
    instant = np.cumsum(np.r_[True, ~same])[tied]
    order = np.lexsort((items[tied], instant))  # stable: an event's first row comes first
    instant, item, rows = instant[order], items[tied][order], tied[order]
    begin = np.flatnonzero(np.r_[True, (instant[1:] != instant[:-1]) | (item[1:] != item[:-1])])
    event[rows] = np.repeat(rows[begin], np.diff(np.r_[begin, len(rows)]))
    return event


def best_of_each(event: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool [n]: the row with the highest label of each event; the first of equal ones."""
    keep = np.ones(len(event), bool)
    repeated = event != np.arange(len(event))
    if not repeated.any():
        return keep
    several = np.zeros(len(event), bool)
    several[event[repeated]] = True
    rows = np.flatnonzero(several[event])
    order = rows[np.lexsort((-labels[rows], event[rows]))]
    keep[order[1:][event[order[1:]] == event[order[:-1]]]] = False
    return keep

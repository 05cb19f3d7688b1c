"""Histories: which rows of the same user belong to each row."""

from typing import NamedTuple

import numpy as np

from configs.splitmix import history_order

_PIECE = 1 << 20  # values gathered at once


class Past(NamedTuple):
    """Items of users before their first row, from earlier datasets."""

    lengths: np.ndarray
    """int64 [users], in the order of the rows."""
    items: np.ndarray
    """Of all users one after the other, oldest first."""


def earlier_items(
    starts: np.ndarray, items: np.ndarray, member: np.ndarray, length: int, past: Past | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The newest earlier items of each row's user, as ranges of a list.

    Args:
      starts: int64 [n], first row of the row's user; rows are sorted by user, then oldest first.
      items: integers [n].
      member: bool [n], whether a row's item may be in a history.
      length: most items in a history.
      past: what comes before the rows; None: nothing.

    Returns:
      values, first int64 [n], last int64 [n]: row r's history is values[first[r]:last[r]].
    """
    before = np.zeros(len(member) + 1, np.int64)
    np.cumsum(member, out=before[1:])
    values, begin, last = items[member], before[starts], before[:-1]
    if past is not None and len(past.items):
        is_first = starts == np.arange(len(starts))
        values = np.insert(values, np.repeat(begin[is_first], past.lengths), past.items)
        user = np.cumsum(is_first) - 1
        ends = np.cumsum(past.lengths)
        begin, last = begin + (ends - past.lengths)[user], last + ends[user]
    return values, np.maximum(begin, last - length), last


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


class OtherItems:
    """Histories of rows without an order: the user's distinct items except the row's own, or some of them.

    The items of a user form a circle, in the order of history_order. A sample is an arc of it, so a history
    takes time in proportion to its length, however many items the user has.
    """

    def __init__(
        self,
        starts: np.ndarray,
        users: np.ndarray,
        items: np.ndarray,
        member: np.ndarray,
        turn: np.ndarray,
        seed: int,
    ):
        """Orders the items of each user.

        Args:
          starts: int64 [n], first row of the row's user; rows are sorted by user.
          users, items: integers [n], catalog ids.
          member: bool [n], whether a row's item may be in a history.
          turn: uint64 [n], the place on the circle, modulo its number of items, where a row's sample begins.
          seed: dataset.seed.
        """
        names, item_numbers = np.unique(items, return_inverse=True)  # ids could overflow the codes below
        codes = starts * len(names) + item_numbers
        circles = np.unique(codes[member])
        owners, circle_items = circles // len(names), names[circles % len(names)]
        order = np.lexsort((history_order(seed, users[owners], circle_items), owners))
        self._values = circle_items[order]
        self._first = np.searchsorted(owners, starts)
        size = np.searchsorted(owners, starts, side="right") - self._first
        place = np.zeros(len(circles) + 1, np.int64)
        place[order] = np.arange(len(order))
        index = np.searchsorted(circles, codes)
        has_own = np.append(circles, -1)[index] == codes
        self._own = np.where(has_own, place[index] - self._first, size)
        self._others = size - has_own
        self._start = (turn % np.maximum(self._others, 1).astype(np.uint64)).astype(np.int64)

    def gather(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Lengths int64 [k] of the histories of `rows` int64 [k], at most `length`, and their items, one
        history after the other."""
        lengths = np.minimum(self._others[rows], length)
        gathered = np.empty(int(lengths.sum()), self._values.dtype)
        step, done = max(1, _PIECE // length), 0
        for begin in range(0, len(rows), step):  # piece by piece: positions take more memory than values
            sizes = lengths[begin : begin + step]
            row = np.repeat(rows[begin : begin + step], sizes)
            place = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            place = (self._start[row] + place) % self._others[row]
            place += place >= self._own[row]
            gathered[done : done + len(row)] = self._values[self._first[row] + place]
            done += len(row)
        return lengths, gathered

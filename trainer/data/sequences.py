"""Which rows train if histories are read in their order: those that together hold each target once."""

import numpy as np


def window_ends(users: np.ndarray, times: np.ndarray, lengths: np.ndarray, most: int) -> np.ndarray:
    """The newest row of each user, and from it back every `most`-th one.

    A row trains on its history and its item: on each of these items but the first, as the next one after
    those before it. So every row of a user is a target once, except the oldest, which follows nothing.

    Args:
      users: int64 [n].
      times: int64 [n].
      lengths: int64 [n], items of each row's history, at most `most`; orders rows of one user at one time.
      most: as dataset.history_length.

    Returns:
      bool [n].
    """
    order = np.lexsort((lengths, times, users))
    rows = np.arange(len(order))
    is_last = np.append(users[order][1:] != users[order][:-1], True)[: len(order)]
    later = rows[is_last][np.cumsum(is_last) - is_last] - rows  # rows of the user after each
    found = np.zeros(len(order), bool)
    found[order] = later % most == 0
    return found & (lengths > 0)

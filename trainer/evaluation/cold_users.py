"""Progressive ranking of users without train rows (evaluate.cold_users: rank).

Each positive row of such a user in the evaluated split is a target of its own, ranked by what was known just
before it: the user's features, and their earlier rows in the held-out splits as history.
"""

from collections.abc import Iterator

import numpy as np

from configs.manifest import SPLITS
from trainer.data.catalog import SplitView, UserBlock, Users


def is_cold(block: UserBlock) -> np.ndarray:
    """Which users have no positive train rows, bool [n]."""
    return block.counts == 0


def rows_in_turn(
    users: Users, block: UserBlock, split: str, size: int
) -> Iterator[tuple[UserBlock, SplitView, np.ndarray]]:
    """The rows of cold users, each as a user with one target.

    Args:
      users: the catalog of `block`.
      block: cold users.
      split: valid or test.
      size: rows at once.

    Yields:
      (the user of each row, with the whole sequence; what was known just before it, where `targets` or `cold`
      has the row's item; the user's place in `block`, int64 [rows]).
    """
    now = block.splits.values == SPLITS.index(split)
    owners, places = block.sequence.row_of_value[now], block.sequence.place_in_row[now]
    for start in range(0, len(owners), size):
        mine = owners[start : start + size]
        part = block.take(mine)
        yield part, _view(users, part, split, places[start : start + size]), mine


def _view(users: Users, block: UserBlock, split: str, places: np.ndarray) -> SplitView:
    """Each user as of their row at this place of the sequence."""
    sequence, rows = block.sequence, users.items.rows
    known = users.items.knows(sequence.values)
    current = sequence.place_in_row == np.repeat(places, sequence.lengths)
    earlier = sequence.place_in_row < np.repeat(places, sequence.lengths)
    earlier &= block.splits.values <= SPLITS.index(split)
    past, targets = sequence.keep(earlier & known), sequence.keep(current & known)
    # Of rows without an order, a training row's history never holds its own item.
    remembered = past.without(targets, rows) if users.dataset.history_of == "others" else past
    return SplitView(
        targets=targets,
        cold=sequence.keep(current & ~known),
        rows=np.ones(len(block), np.int64),
        seen=past.distinct(rows),
        cold_seen=sequence.keep(earlier & ~known).distinct(rows),
        touched=sequence.keep(known).distinct(rows),
        history=users.histories(remembered, block.ids).last(users.history_length),
    )

"""Groups of users, for which runs are compared one by one: tenths by activity."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trainer.data.catalog import Users

EVERYONE = "all"


class UserGroups(NamedTuple):
    """A division of users."""

    name: str
    """What divides them."""
    texts: list[str]
    """What each group is called."""
    ids: np.ndarray
    """Catalog ids of the users, int64, ascending."""
    codes: np.ndarray
    """Group of each of them, int64."""

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Groups of users, int64 [n], all of them known."""
        return self.codes[np.searchsorted(self.ids, ids)]


GroupsOf = Callable[[Users, np.ndarray], UserGroups]
"""Makes groups of a catalog's users and the ids of those that are evaluated, ascending."""


def by_activity(users: Users, ids: np.ndarray) -> UserGroups:
    """Tenths of users by their positive train rows; users with equally many are in one group."""
    counts = np.zeros(len(ids), np.int64)
    for block in users.blocks():
        places = np.minimum(np.searchsorted(ids, block.ids), max(len(ids) - 1, 0))
        inside = ids[places] == block.ids if len(ids) else np.zeros(len(block.ids), bool)
        counts[places[inside]] = block.counts[inside]
    edges = np.unique(np.quantile(counts, np.arange(1, 10) / 10, method="lower")) if len(ids) else counts
    found, codes = np.unique(np.searchsorted(edges, counts, side="left"), return_inverse=True)
    texts = []
    for code in range(len(found)):
        low, high = counts[codes == code].min(), counts[codes == code].max()
        texts.append(f"{low:,} train rows" if low == high else f"{low:,} to {high:,} train rows")
    return UserGroups("activity of the user", texts, ids, codes.astype(np.int64))

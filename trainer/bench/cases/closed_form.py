"""Item-to-item models without training steps, in NumPy, as trainer.evaluation.protocols.Scorer.

Both score an item by its weights to the distinct items of the user's positive train rows, the same that a
history of `others` holds.
"""

import numpy as np

from configs.manifest import Dataset
from trainer.data.catalog import Items, Users
from trainer.data.ragged import Ragged
from trainer.evaluation.protocols import UserBatch

_CODES = 1 << 24  # pairs of items that are counted at once


class TrainItems:
    """Distinct items of each user's positive train rows.

    Args:
      dataset: manifest.
      items: its catalog.
    """

    def __init__(self, dataset: Dataset, items: Items):
        ids, parts = [], []
        for block in Users(dataset, items).blocks():
            train = (block.splits.values == 0) & items.knows(block.sequence.values)
            ids.append(block.ids)
            parts.append(block.sequence.keep(train).distinct(items.rows))
        users = np.concatenate(ids)
        order = np.argsort(users)
        self._users, self.rows, self.number = users[order], Ragged.join(parts).take(order), items.rows

    def of(self, users: UserBatch) -> Ragged:
        """Items of each user, ascending."""
        return self.rows.take(np.searchsorted(self._users, users.ids))

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each pair of items that a user has: (first * number + second, ascending; users that have both);
        an item and itself are a pair, too."""
        codes, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        for part in self._parts():
            row, lengths = part.row_of_value, part.lengths[part.row_of_value]
            first = np.repeat(part.values, lengths)
            second = part.take(row).values
            new, found = np.unique(first * self.number + second, return_counts=True)
            codes, place = np.unique(np.concatenate([codes, new]), return_inverse=True)
            counts = np.bincount(place, np.concatenate([counts, found])).astype(np.int64)
        return codes, counts

    def _parts(self) -> list[Ragged]:
        """Users, few enough that their pairs fit in memory; one user at least."""
        cells = np.cumsum(self.rows.lengths**2) // _CODES
        cuts = np.flatnonzero(np.diff(cells)) + 1
        return [self.rows.take(rows) for rows in np.split(np.arange(len(self.rows)), cuts)]


class Ease:
    """EASE^R (Steck 2019, Embarrassingly Shallow Autoencoders for Sparse Data, eq. 8): with X the users'
    items, P = (X'X + l2 I)^-1 and B = I - P diag(1 / diag P), a user's scores are x B.

    P takes memory with the square of the items, time with the cube. So only the items with the most train
    rows are in it; the others get the lowest score.

    Args:
      train: what users have.
      l2: lambda of the paper.
      most_items: in P.
    """

    name = "ease"

    def __init__(self, train: TrainItems, l2: float, most_items: int):
        counts = np.bincount(train.rows.values, minlength=train.number)
        self._train = train
        self._items = np.sort(np.argsort(-counts, kind="stable")[: min(most_items, (counts > 0).sum())])
        self._place = np.full(train.number, -1)
        self._place[self._items] = np.arange(len(self._items))
        codes, both = train.pairs()
        first, second = self._place[codes // train.number], self._place[codes % train.number]
        inside = (first >= 0) & (second >= 0)
        gram = np.zeros([len(self._items)] * 2, np.float32)
        gram[first[inside], second[inside]] = both[inside]
        gram[np.diag_indices_from(gram)] += l2
        inverse = np.linalg.inv(gram)
        inverse /= -np.diag(inverse).copy()
        np.fill_diagonal(inverse, 0.0)
        self._weights = inverse

    def scores(self, users: UserBatch, items: np.ndarray | None) -> np.ndarray:
        """float32 [n, item ids], or [n, m] for candidates int64 [n, m]."""
        own = self._train.of(users)
        own = own.keep(self._place[own.values] >= 0)
        inside = np.zeros([len(users), len(self._items)], np.float32)
        some = np.flatnonzero(own.lengths)
        if len(some):
            starts = (np.cumsum(own.lengths) - own.lengths)[some]
            inside[some] = np.add.reduceat(self._weights[self._place[own.values]], starts, axis=0)
        scores = np.full([len(users), self._train.number], inside.min(initial=0.0) - 1.0, np.float32)
        scores[:, self._items] = inside
        return scores if items is None else np.take_along_axis(scores, items, axis=1)


class ItemKnn:
    """Nearest neighbours of items: cosine of their users, with the shrinkage in the denominator; each item
    keeps its most similar ones (RecBole's ItemKNN).

    Args:
      train: what users have.
      neighbours: of each item.
      shrinkage: added to the product of the lengths.
    """

    name = "item_knn"

    def __init__(self, train: TrainItems, neighbours: int, shrinkage: float):
        codes, both = train.pairs()
        other, item = codes // train.number, codes % train.number
        length = np.sqrt(np.bincount(train.rows.values, minlength=train.number))
        similar = both / (length[other] * length[item] + shrinkage)
        similar[other == item] = 0.0
        order = np.lexsort((-similar, item))
        kept = Ragged(order, np.bincount(item, minlength=train.number)).first(neighbours).values
        kept = kept[similar[kept] > 0]
        kept = kept[np.argsort(other[kept], kind="stable")]
        owners = np.bincount(other[kept], minlength=train.number)
        self._train = train
        self._items, self._weights = Ragged(item[kept], owners), Ragged(similar[kept], owners)

    def scores(self, users: UserBatch, items: np.ndarray | None) -> np.ndarray:
        """float32 [n, item ids], or [n, m] for candidates int64 [n, m]."""
        own = self._train.of(users)
        to, weights = self._items.take(own.values), self._weights.take(own.values)
        cells = np.repeat(own.row_of_value, to.lengths) * self._train.number + to.values
        scores = np.bincount(cells, weights.values, len(users) * self._train.number)
        scores = scores.reshape(len(users), -1).astype(np.float32)
        return scores if items is None else np.take_along_axis(scores, items, axis=1)

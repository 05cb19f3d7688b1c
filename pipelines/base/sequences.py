"""What users did in the datasets below: the newest items of some users, in ids of the dataset above.

Catalogs are read block by block, and only the files that may have the users, so memory is that of a block and
of what is found.
"""

from collections.abc import Callable, Sequence

import numpy as np

from configs.chain import LEFT
from configs.manifest import VECTOR_ROWS, Dataset
from pipelines.base.translation import Translation
from pipelines.rows.decode import decode, read_records
from pipelines.rows.history import Past, gather_ranges


class Sequences:
    """The users' sequences in a chain of datasets.

    Args:
      datasets: newest first.
      renamed: from catalog ids of items in the newest of them, int64 [n], to ids here; LEFT where an item may
        not be in a history.
    """

    def __init__(self, datasets: Sequence[Dataset], renamed: Callable[[np.ndarray], np.ndarray]):
        self._datasets, self._renamed = datasets, renamed
        self._translation = Translation(datasets)

    def newest(self, users: np.ndarray, length: int) -> Past:
        """The newest items of each user, at most `length` of each.

        Args:
          users: int64 [n], catalog ids in the newest dataset, ascending.
        """
        owners, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        whose, ids, missing = np.arange(len(users)), users, np.full(len(users), length)
        for level in range(len(self._datasets)):
            for number in np.unique(ids // VECTOR_ROWS):
                mine = ids // VECTOR_ROWS == number
                owner, found = self._of_file(level, int(number), ids[mine], whose[mine])
                owners.insert(0, owner)
                items.insert(0, found)
                missing -= np.bincount(owner, minlength=len(users))
            if level + 1 < len(self._datasets):
                ids = self._translation.below(level, "user", ids)
                more = (ids != LEFT) & (missing[whose] > 0)
                order = np.argsort(ids[more], kind="stable")
                whose, ids = whose[more][order], ids[more][order]
        owner = np.concatenate(owners)
        order = np.argsort(owner, kind="stable")  # of equal ones: older datasets first
        lengths = np.bincount(owner, minlength=len(users))
        ends = np.cumsum(lengths)
        kept = np.minimum(lengths, length)
        return Past(kept, gather_ranges(np.concatenate(items)[order], ends - kept, ends))

    def _to_top(self, level: int, ids: np.ndarray) -> np.ndarray:
        """Catalog ids of items of a dataset as those here."""
        ids = self._translation.to_top(level, "item", ids)
        found = np.full(len(ids), LEFT)
        lives = ids != LEFT
        found[lives] = self._renamed(ids[lives])
        return found

    def _of_file(
        self, level: int, number: int, ids: np.ndarray, whose: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Owners int64 and items int64 of users in one file of a catalog, oldest first.

        Args:
          ids: int64 [n], ascending catalog ids in this dataset.
          whose: int64 [n], what stands for them in the result.
        """
        dataset = self._datasets[level]
        info = next((file for file in dataset.users.files if file.number == number), None)
        owners, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for data in read_records(dataset.file_path(info), info) if info else ():
            there = np.asarray(decode(data, ["id"])["id"])
            place = np.searchsorted(ids, there)
            rows = np.flatnonzero(np.append(ids, LEFT)[place] == there)
            if not len(rows):
                continue
            block = decode(data, ["sequence", "sequence_length"])
            ends = np.cumsum(block["sequence_length"])
            lengths = np.asarray(block["sequence_length"])[rows]
            found = gather_ranges(np.asarray(block["sequence"]), ends[rows] - lengths, ends[rows])
            found = self._to_top(level, found)
            owner = np.repeat(whose[place[rows]], lengths)
            owners.append(owner[found != LEFT])
            items.append(found[found != LEFT])
        return np.concatenate(owners), np.concatenate(items)

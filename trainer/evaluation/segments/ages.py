"""When users and items were first seen: their oldest positive train rows."""

import numpy as np
from absl import logging

from configs.manifest import Dataset
from trainer.data.blocks import read_blocks
from trainer.data.train_rows import DAY, TrainRows

_ALL_DAYS = 1e6
"""A window that holds every row of a chain."""
_NEVER = np.iinfo(np.int64).max


class FirstRows:
    """The oldest positive train rows of users and items, in the dataset and all those below it.

    Args:
      dataset: the manifest, with its path; its source has timestamps.

    Raises:
      DataError: as trainer.data.blocks.read_blocks.
    """

    def __init__(self, dataset: Dataset):
        rows = TrainRows(dataset, positives_only=True, window_days=_ALL_DAYS)
        self._tables = {name: dataset.tables[name] for name in ("user", "item")}
        self._newest = rows.newest or 0
        self._first = {name: np.full(table.rows, _NEVER) for name, table in self._tables.items()}
        logging.info("reading when users and items were first seen, for evaluate.by: age")
        for number, file in rows.files:
            part = rows.parts[number]
            maps = rows.layers[part.layer].maps
            for block in read_blocks(part.dataset, [file], ["user", "item", "timestamp", "label"]):
                kept = part.keeps(block["timestamp"], block["label"])
                for name, first in self._first.items():
                    ids = self._tables[name].row_of(maps[name].known(block[name][kept]))
                    np.minimum.at(first, ids, block["timestamp"][kept])

    def days(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Days from the first row of each user or item to the newest train row, float64 [n], at least 0; NaN
        without train rows.

        Args:
          name: user or item.
          ids: catalog ids, int64 [n].
        """
        first = self._first[name][self._tables[name].row_of(ids)]
        days = np.maximum(self._newest - np.minimum(first, self._newest), 0) / DAY
        return np.where(first == _NEVER, np.nan, days)

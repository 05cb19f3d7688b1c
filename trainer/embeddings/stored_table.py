"""A table that stays on disk: records are read from a checkpoint's row ranges, for evaluation and export."""

import numpy as np

from configs import storage
from trainer.embeddings.tables import CHUNK_ROWS, Table


class StoredTable(Table):
    """Read-only; memory holds what is asked for and what the operating system cares to cache."""

    engine = "stored"

    def __init__(self, name, rows, dim, optimizer, average):
        super().__init__(name, rows, dim, optimizer, average)
        self._shards: list[np.ndarray] = []

    def open(self, paths: list[str]) -> None:
        """Maps the .npy files of consecutive ranges of CHUNK_ROWS rows, float32 [n, width] each."""
        self._shards = [
            np.load(storage.reading(path)) if storage.is_remote(path) else np.load(path, mmap_mode="r")
            for path in paths
        ]

    def read_records(self, ids):
        ids = np.asarray(ids)
        shard, row = ids // CHUNK_ROWS, ids % CHUNK_ROWS
        records = np.empty([len(ids), self.width], np.float32)
        for i in np.unique(shard):
            here = shard == i
            records[here] = self._shards[i][row[here]]
        return records

    def lookup(self, ids):
        raise NotImplementedError("a stored table is not trained")

    def update(self, lookup, gradient, step, multiplier):
        raise NotImplementedError("a stored table is not trained")

    def write_records(self, start, records):
        raise NotImplementedError("a stored table is not written")

"""A table that stays on disk: records are read from a checkpoint, for evaluation and export."""

import numpy as np

from trainer.embeddings.tables import Table


class StoredTable(Table):
    """Read-only; memory holds what is asked for and what the operating system cares to cache."""

    engine = "stored"

    def open(self, stored) -> None:
        """Takes the rows: anything whose `read(ids int64 [n])` returns records, float32 [n, width]."""
        self._stored = stored

    def read_records(self, ids):
        return self._stored.read(np.asarray(ids))

    def lookup(self, ids):
        raise NotImplementedError("a stored table is not trained")

    def update(self, lookup, gradient, step, multiplier):
        raise NotImplementedError("a stored table is not trained")

    def write_records(self, start, records):
        raise NotImplementedError("a stored table is not written")

    def write_rows(self, ids, records):
        raise NotImplementedError("a stored table is not written")

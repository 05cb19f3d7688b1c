"""Where a table's rows are on SparseCores: stacked, dealt out by modulo, padded."""

from typing import NamedTuple

import numpy as np


class SparseCoreLayout(NamedTuple):
    """The place of one table in the variables of a stack of tables, one variable a chip.

    A chip's variable holds its SparseCores' shards one after the other. Row i of the table is in the shard of
    SparseCore (i + rotation) modulo `cores`, `offset` + i // cores rows below the shard's first.
    """

    stack: str
    """Name of the stack; that of the table when it is alone in it."""
    rows: int
    dim: int
    """Of the table, without padding."""
    cores: int
    """SparseCores of the whole slice."""
    cores_per_chip: int
    shard_rows: int
    """Of the whole stack on one SparseCore, padding included."""
    width: int
    """Of the stack's rows, padding included."""
    offset: int
    rotation: int

    @classmethod
    def of(cls, proto) -> "SparseCoreLayout":
        """From tensorflow.tpu.SparseCoreTableLayout."""
        rows, dim = proto.unsharded_shape
        return cls(
            proto.stacked_table_name,
            *(rows, dim, proto.num_sparse_cores, proto.num_sparse_cores // proto.num_partitions),
            *(proto.total_rows_per_sparse_core_shard, proto.unsharded_padded_shape[1]),
            *(proto.sparse_core_shard_row_offset, proto.sparse_core_shard_rotation),
        )

    @property
    def chip_shape(self) -> tuple[int, int]:
        """Shape of the stack's variable on one chip."""
        return self.cores_per_chip * self.shard_rows, self.width

    @property
    def chips(self) -> int:
        """Chips of the slice."""
        return self.cores // self.cores_per_chip

    def places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(chip, row of its variable), int64 [n] each, of rows ids int64 [n] of the table."""
        core = (ids + self.rotation) % self.cores
        chip, core = np.divmod(core, self.cores_per_chip)
        return chip, core * self.shard_rows + self.offset + ids // self.cores

    def read(self, chips: list[np.ndarray], ids: np.ndarray) -> np.ndarray:
        """Rows float32 [n, dim] from the chips' variables, each of `chip_shape`."""
        values = np.empty([len(ids), self.dim], np.float32)
        chip, row = self.places(ids)
        for i in np.unique(chip):
            here = chip == i
            values[here] = chips[i][row[here], : self.dim]
        return values

    def write(self, chips: list[np.ndarray], ids: np.ndarray, values: np.ndarray) -> None:
        """Overwrites rows in the chips' variables, in place; ids distinct."""
        chip, row = self.places(ids)
        for i in np.unique(chip):
            here = chip == i
            chips[i][row[here], : self.dim] = values[here]

"""The layout of tables on SparseCores: stacked, sharded by modulo, padded."""

from typing import NamedTuple

import numpy as np


class SparseCoreLayout(NamedTuple):
    """The position of one table in a stack of tables, which has one variable per chip.

    A chip's variable is the concatenation of its SparseCores' shards. Row i of the table is row
    `offset` + i // cores of the shard of SparseCore (i + rotation) modulo `cores`.
    """

    stack: str
    """Name of the stack; equals that of the table if it is the only one."""
    rows: int
    dim: int
    """Width of the table, without padding."""
    cores: int
    """Number of SparseCores of the whole slice."""
    cores_per_chip: int
    shard_rows: int
    """Rows of the whole stack on one SparseCore, padding included."""
    width: int
    """Width of the stack, padding included."""
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
        """Number of chips of the slice."""
        return self.cores // self.cores_per_chip

    def places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(chip, row of its variable), int64 [n] each, for ids int64 [n]."""
        core = (ids + self.rotation) % self.cores
        chip, core = np.divmod(core, self.cores_per_chip)
        return chip, core * self.shard_rows + self.offset + ids // self.cores

    def read(self, chips: list[np.ndarray], ids: np.ndarray) -> np.ndarray:
        """Rows float32 [n, dim], from the chips' variables, each of `chip_shape`."""
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

"""The `tables` section: embedding tables by name, each of one kind."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from configs.sections.base import Section, Seed
from configs.sections.optimizers import LazyAdamConfig, TableLazyAdamConfig, TableOptimizer


class TableConfig(Section):
    """One embedding table; its rows come from the dataset."""

    kind: Literal["table"] = "table"
    """Kind of embedding."""
    dim: int | None = Field(None, ge=1, le=4096)
    """Width of a row in float32 values. When not given, what makes the towers agree: vectors as wide as the
    document says elsewhere, or of 128 values, 64 under dot_bias, and one more in rows that end in a bias;
    side features 32."""
    init_stddev: float = Field(0.05, ge=0)
    """Standard deviation of the normal initial weights; when not given, 0.005 in the user table if
    model.normalize is on and its rows are the vector or are added to the history."""
    optimizer: TableOptimizer = TableLazyAdamConfig()
    """Optimizer of the rows."""
    engine: Literal["auto", "native", "rows", "tfa"] = "auto"
    """rows: one record per row; native: the same under compiled kernels; tfa: plain variable and
    tfa.optimizers.LazyAdam (Python 3.10 and 3.11); auto: native where there is a compiler and a kernel, else
    rows."""

    @model_validator(mode="after")
    def _addons_has_it(self):
        if self.engine == "tfa":
            optimizer = self.optimizer
            known = isinstance(optimizer, LazyAdamConfig)
            lacks = optimizer.addons_lacks if known else f"optimizer {optimizer.kind}"
            if lacks:
                raise ValueError(f"engine: tfa has no {lacks}; use engine: rows")
        return self


class RobeZConfig(Section):
    """A compressed embedding: rows are cut out of one shared array at hashed places (ROBE-Z)."""

    kind: Literal["robe_z"]
    """Random Offset Block Embedding (Desai, Chou & Shrivastava, MLSys 2022)."""
    dim: int | None = Field(None, ge=1, le=4096)
    """Width of a row in float32 values; when not given, as that of a plain table."""
    size: int = Field(ge=1, lt=2**31 - 1)
    """Float32 values of the array that all rows share, a multiple of block; slots and average come on top."""
    block: int = Field(32, ge=1, le=4096)
    """Z: neighbouring values of a row that lie together in the array; the row's last block may be shorter."""
    seed: Seed = 0
    """Fixes the hashing, together with the table's name."""
    init_stddev: float = Field(0.05, ge=0)
    """Standard deviation of the normal initial weights."""
    optimizer: TableOptimizer = TableLazyAdamConfig()
    """Optimizer of the array; its rows are the array's aligned chunks of `block` values."""
    gradient: Literal["auto", "dense", "sparse"] = "auto"
    """How gradients are summed: over the whole array, or its touched chunks; auto: the faster by size."""

    @model_validator(mode="after")
    def _sizes_fit(self):
        if self.dim is not None and self.block > self.dim:
            raise ValueError(f"block: {self.block} is more than dim, {self.dim}: blocks lie within a row")
        if self.size % self.block:
            near = -(-self.size // self.block) * self.block
            raise ValueError(f"size: {self.size} is no multiple of block, {self.block}; the next is {near}")
        return self


def _kind_of(section) -> str:
    """The section's kind; one that names none is a table."""
    return section.get("kind", "table") if isinstance(section, dict) else getattr(section, "kind", "table")


EmbeddingConfig = Annotated[
    Annotated[TableConfig, Tag("table")] | Annotated[RobeZConfig, Tag("robe_z")], Discriminator(_kind_of)
]

"""The `tables` section: embedding tables by name, each of one kind."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from configs.sections.base import Section, Seed
from configs.sections.optimizers import LazyAdamConfig, TableLazyAdamConfig, TableOptimizer


class TableConfig(Section):
    """One embedding table; its rows come from the dataset."""

    needs_xla: ClassVar[bool] = False
    """Whether training compiles parts of it with XLA."""
    kind: Literal["table"] = "table"
    """Kind of embedding."""
    dim: int | None = Field(None, ge=1, le=4096)
    """Width of a row in float32 values. The default makes both towers equally wide: as wide as other keys
    demand, else 128, or 64 with dot_bias; one more in rows that end in a bias; 32 for side features."""
    init_stddev: float = Field(0.05, ge=0)
    """Standard deviation of the normal initial weights. Defaults to 0.005 for the user table if
    model.normalize is on and the user's row is the whole vector or is added to the history."""
    combiner: Literal["mean", "sum", "sqrtn"] = "mean"
    """How the rows of a list feature become one vector, with its weights if it has them, as in
    tf.nn.embedding_lookup_sparse; model.history.pooling is that of the history."""
    optimizer: TableOptimizer = TableLazyAdamConfig()
    """Optimizer of the rows."""
    engine: Literal["auto", "native", "rows", "tfa"] = "auto"
    """rows: weights and optimizer state of a row in one record; native: the same, with compiled kernels;
    tfa: a plain variable and tfa.optimizers.LazyAdam (Python 3.10 and 3.11); auto: native where there is a
    compiler and a kernel, else rows."""
    placement: Literal["auto", "tensorcore", "engine"] = "auto"
    """Where a TPU keeps the table. tensorcore: each replica has a copy, and all optimizers are available;
    engine: in the embedding engine, sharded over the chips; auto: tensorcore up to 10,000 rows, else engine.
    Results and checkpoints do not depend on it. With device.kind cpu it must be auto."""

    @property
    def trained_by(self) -> str:
        """What keeps the rows, as reports name it: the compiled kernels of auto count as rows."""
        return "rows" if self.engine == "auto" else self.engine

    def stored_shape(self, rows: int | None) -> tuple[int | None, int]:
        """(rows, values of a row) that are stored for a table of `rows` rows; None: not known yet."""
        assert self.dim is not None, "configs.defaults fills it in"
        return rows, self.dim

    @model_validator(mode="after")
    def _addons_has_it(self) -> "TableConfig":
        if self.engine == "tfa":
            optimizer = self.optimizer
            lacks: str | None = f"optimizer {optimizer.kind}"
            if isinstance(optimizer, LazyAdamConfig):
                lacks = optimizer.addons_lacks
            if lacks:
                raise ValueError(f"engine: tfa does not support {lacks}; use engine: rows")
        return self


class RobeZConfig(Section):
    """A compressed embedding: rows are read from hashed positions of one shared array (ROBE-Z)."""

    needs_xla: ClassVar[bool] = True
    kind: Literal["robe_z"]
    """Random Offset Block Embedding (Desai, Chou & Shrivastava, MLSys 2022)."""
    dim: int | None = Field(None, ge=1, le=4096)
    """Width of a row in float32 values; the default is that of a plain table."""
    size: int = Field(ge=1, lt=2**31 - 1)
    """Number of float32 values in the shared array, a multiple of block; slots and averages need more
    memory."""
    block: int = Field(32, ge=1, le=4096)
    """Z: how many neighbouring values of a row are also neighbours in the array; a row's last block may be
    shorter."""
    seed: Seed = 0
    """Seed of the hashing, together with the table's name."""
    init_stddev: float = Field(0.05, ge=0)
    """Standard deviation of the normal initial weights."""
    combiner: Literal["mean", "sum", "sqrtn"] = "mean"
    """As TableConfig.combiner."""
    optimizer: TableOptimizer = TableLazyAdamConfig()
    """Optimizer of the array, in which each aligned chunk of `block` values counts as a row."""
    gradient: Literal["auto", "dense", "sparse"] = "auto"
    """How gradients are summed: over the whole array (dense) or over its touched chunks (sparse); auto picks
    the faster one by size."""

    @property
    def trained_by(self) -> str:
        """As TableConfig.trained_by."""
        return self.kind

    def stored_shape(self, rows: int | None) -> tuple[int, int]:
        """As TableConfig.stored_shape: the array's chunks, however many rows are cut out of it."""
        return self.size // self.block, self.block

    @model_validator(mode="after")
    def _sizes_fit(self) -> "RobeZConfig":
        if self.dim is not None and self.block > self.dim:
            raise ValueError(f"block: {self.block} is larger than dim {self.dim}; use at most {self.dim}")
        if self.size % self.block:
            near = -(-self.size // self.block) * self.block
            raise ValueError(f"size: {self.size} is not divisible by block {self.block}; use {near}")
        return self


def _kind_of(section: Any) -> Any:
    """The section's kind; `table` when it names none."""
    return section.get("kind", "table") if isinstance(section, dict) else getattr(section, "kind", "table")


EmbeddingConfig = Annotated[
    Annotated[TableConfig, Tag("table")] | Annotated[RobeZConfig, Tag("robe_z")], Discriminator(_kind_of)
]

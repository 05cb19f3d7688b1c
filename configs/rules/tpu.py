"""What a TPU cannot do, or does differently from the CPU: refused when a config is read, never ignored."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from configs.errors import ConfigError
from configs.rules.towers import split_group
from configs.sections.devices import TpuDeviceConfig
from configs.sections.tables import EmbeddingConfig, TableConfig
from configs.system.tpu import Slice

if TYPE_CHECKING:
    from configs.schema import RunConfig

MAX_ROWS = 2**31 - 1  # ids travel to the chips as int32
# For one table in one step. The buffers of a lookup are sized for the worst case, in which all ids of one
# SparseCore request rows of another: v6e compiles with 4,096, whatever the dim and the number of chips, but
# not with 8,192 (docs/tpu.md quotes the compiler). v5p would compile with twice as many.
MAX_IDS_PER_SPARSE_CORE = 4096
TENSORCORE_ROWS = 10_000
"""Most rows of a table that `placement: auto` puts on the TensorCores (docs/decisions.md says why)."""


def placed(table: EmbeddingConfig, rows: int | None) -> Literal["tensorcore", "engine"]:
    """Where a TPU keeps a table of so many rows; with None, which is not known yet, auto means the engine."""
    wanted = table.placement if isinstance(table, TableConfig) else "engine"
    if wanted != "auto":
        return wanted
    return "tensorcore" if rows is not None and rows <= TENSORCORE_ROWS else "engine"


def tpu_lacks(table: EmbeddingConfig) -> str:
    """Why a TPU cannot hold a table, given its section of the config; empty: it can."""
    if not isinstance(table, TableConfig):
        return f"kind {table.kind} is not available on TPUs; use kind: table"
    lacks = table.optimizer.tpu_lacks
    if lacks and table.placement != "tensorcore":
        return (
            f"optimizer {table.optimizer.kind} is not available on TPUs: {lacks}; or, for a small table, "
            f"{_ON_TENSORCORES}"
        )
    return ""


_ON_TENSORCORES = "set placement: tensorcore"


def _check_no_tpu(config: "RunConfig") -> None:
    for name, table in config.tables.items():
        if isinstance(table, TableConfig) and table.placement != "auto":
            raise ValueError(
                f"tables.{name}.placement: {table.placement} is for TPUs, and device.kind is "
                f"{config.device.kind}; remove it"
            )


def check_tpu(config: "RunConfig") -> None:
    """Raises ValueError, naming keys, if a run's TPU does not support its settings, or a run on CPUs says
    where a TPU keeps its tables."""
    if not isinstance(config.device, TpuDeviceConfig):
        _check_no_tpu(config)
        return
    try:
        slice_ = config.device.slice_type
    except ConfigError as error:
        raise ValueError(f"device.slice: {error}") from None
    problems = [*_unlike_the_cpu(config), *_odd_shares(config, slice_)]
    if problems:
        raise ValueError(f"device {slice_.name}: {'; '.join(problems)}")


def _unlike_the_cpu(config: "RunConfig") -> Iterator[str]:
    for name in sorted(set(config.table_of_input.values())):
        table = config.table(name)
        if lacks := tpu_lacks(table):
            yield f"tables.{name}: {lacks}"
        elif isinstance(table, TableConfig) and table.engine != "auto":
            yield f"tables.{name}.engine: {table.engine} runs on CPUs only; remove it"
    if config.train.clip_norm is not None:
        yield (
            "train.clip_norm: the engine sums a row's gradients outside the program, so their norm is not "
            "known; remove it"
        )
    if config.train.skip_nonfinite:
        yield (
            "train.skip_nonfinite: the engine updates the rows of every batch that it looks up, so no batch "
            "can be skipped; set it to 0"
        )


def _odd_shares(config: "RunConfig", slice_: Slice) -> Iterator[str]:
    if odd := config.uneven(slice_.replicas):
        yield f"{odd} is not divisible by its {slice_.replicas} replicas; use a multiple of them"
        return
    if wrong := split_group(config, slice_.replicas):
        yield wrong
    if not slice_.sparse_cores:
        return
    for name, inputs in config.ids_of_batch.items():
        if placed(config.table(name), config.ids_of(name).known_rows) == "tensorcore":
            continue
        ids = sum(map(math.prod, inputs.values())) // slice_.replicas
        if ids % slice_.sparse_cores:
            yield (
                f"train.batch_size: {config.train.batch_size} gives {ids} ids of table {name} per chip, not "
                f"divisible by its {slice_.sparse_cores} SparseCores; change it"
            )
        elif ids > (most := MAX_IDS_PER_SPARSE_CORE * slice_.sparse_cores):
            yield (
                f"train.batch_size: {config.train.batch_size} gives {ids:,} ids of table {name} per chip, at "
                f"most {most:,} fit in the memory of its SparseCores; lower it, use more chips, or, for a "
                f"small table, {_ON_TENSORCORES}"
            )

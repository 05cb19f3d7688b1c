"""What a TPU does not do, or does not do as the CPU does: refused when a config is read, never ignored."""

import math
from collections.abc import Iterator

from configs.errors import ConfigError
from configs.system.tpu import Slice, tpu_slice

MAX_ROWS = 2**31 - 1  # ids travel to the chips as int32
# Of one table in one step. The buffers of a lookup are sized for the worst case, all ids of a SparseCore
# asking for rows of one other: v6e compiles with 4,096, whatever the dim and the number of chips, and not
# with 8,192 (docs/tpu.md has the compiler's own words). v5p would take twice as many.
MAX_IDS_PER_SPARSE_CORE = 4096


def tpu_lacks(table) -> str:
    """Why no TPU holds such a table (its section of the config); empty: it can."""
    if table.kind != "table":
        return f"kind {table.kind} has no TPU form"
    if table.optimizer.tpu_lacks:
        return f"optimizer {table.optimizer.kind} has no TPU form: {table.optimizer.tpu_lacks}"
    return ""


def check_tpu(config) -> None:
    """Raises ValueError, naming keys, when a run's device is a TPU that cannot do what the run asks for."""
    try:
        slice_ = tpu_slice(config.device.slice)
    except ConfigError as error:
        raise ValueError(f"device.slice: {error}") from None
    problems = [*_unlike_the_cpu(config), *_odd_shares(config, slice_)]
    if problems:
        raise ValueError(f"device {slice_.name}: {'; '.join(problems)}")


def _unlike_the_cpu(config) -> Iterator[str]:
    for name in sorted(set(config.table_of_input.values())):
        table = config.table(name)
        if lacks := tpu_lacks(table):
            yield f"tables.{name}: {lacks}"
        elif table.engine != "auto":
            yield f"tables.{name}.engine: {table.engine} is the CPU's; leave it out"
    if config.train.clip_norm is not None:
        yield (
            "train.clip_norm: the engine sums a row's gradients after they have left the program, so their "
            "norm is not known; leave it out"
        )
    if config.train.skip_nonfinite:
        yield (
            "train.skip_nonfinite: the engine moves the rows of every batch that it has looked up, so none "
            "can be left out; set it to 0"
        )


def _odd_shares(config, slice_: Slice) -> Iterator[str]:
    if odd := config.uneven(slice_.replicas):
        yield f"{odd} is no multiple of its {slice_.replicas} replicas"
        return
    if not slice_.sparse_cores:
        return
    for name, inputs in config.ids_of_batch.items():
        ids = sum(map(math.prod, inputs.values())) // slice_.replicas
        if ids % slice_.sparse_cores:
            yield (
                f"train.batch_size {config.train.batch_size}: {ids} ids of table {name} on each chip are no "
                f"multiple of its {slice_.sparse_cores} SparseCores, which would drop the rest"
            )
        elif ids > (most := MAX_IDS_PER_SPARSE_CORE * slice_.sparse_cores):
            yield (
                f"train.batch_size {config.train.batch_size}: {ids:,} ids of table {name} on each chip, at "
                f"most {most:,} fit in its SparseCores' memory; lower it, or use more chips"
            )

"""What a run needs, computed before it starts: bytes of tables and dense weights, peak memory."""

from dataclasses import dataclass

from configs.errors import ConfigError
from configs.manifest import Dataset
from configs.rules.tpu import placed, tpu_lacks
from configs.schema import RunConfig
from configs.sections.devices import TpuDeviceConfig
from configs.sections.models import GbceLossConfig
from configs.system.tpu import Slice
from trainer.resources.dense import dense_weights

MARGIN = 1.05  # of the tables' bytes: pieces that are read, written and initialised
BASE_BYTES = 1_500_000_000  # TensorFlow, windows of input, activations of a step
TPU_COLUMNS = 8  # rows in an engine's memory are padded to a multiple of this many values
# What a step keeps of each position, fitted to the peak of a run with two blocks: vectors of each block and
# around them, and values for each pair of positions and head.
_VECTORS_PER_BLOCK, _VECTORS_AROUND, _SQUARES_PER_BLOCK = 16, 8, 4
TILE = (8, 128)  # and matrices on TensorCores to multiples of this many rows and columns


@dataclass(frozen=True)
class TableForecast:
    """Bytes of one table; None where they depend on rows that are not known yet."""

    name: str
    rows: int | None
    """Rows as the model sees them."""
    dim: int
    weight: int | None
    slots: int | None
    """Bytes of the optimizer's state, including what rows share."""
    average: int | None
    last_step: int | None
    placement: str
    """Where a TPU keeps it: engine or tensorcore; with auto, engine as long as its rows are not known."""
    tpu: int | None
    """On a TPU, padded. In the engine: weights, the optimizer's slots, and a second table for the average, on
    all chips together; on the TensorCores: the records, on each replica."""
    tpu_lacks: str = ""
    """Why a TPU cannot hold the table; empty if it can."""

    @property
    def total(self) -> int | None:
        """All bytes on this machine."""
        parts = (self.weight, self.slots, self.average, self.last_step)
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


def forecast_tables(config: RunConfig, dataset: Dataset | None) -> list[TableForecast]:
    """Forecasts of all tables; rows come from the dataset or, for hashed ids, from the config."""
    return [_forecast(config, dataset, name) for name in sorted(set(config.table_of_input.values()))]


def _forecast(config: RunConfig, dataset: Dataset | None, name: str) -> TableForecast:
    from trainer.optimizers import ROW_OPTIMIZERS

    options = config.table(name)
    assert options.dim is not None, "configs.defaults fills it in"
    rows = dataset.table_rows(name) if dataset else config.ids_of(name).known_rows
    optimizer = ROW_OPTIMIZERS[options.optimizer.kind](options.optimizer)
    stored, dim = options.stored_shape(rows)
    averaged = config.polyak.at_each_step
    lacks, placement = tpu_lacks(options), placed(options, rows)
    if stored is None:
        return TableForecast(name, rows, options.dim, None, None, None, None, placement, None, lacks)
    shared = sum(int(value.shape.num_elements()) for value in optimizer.initial_shared(dim))
    slots = sum(optimizer.slot_widths(dim))
    if placement == "engine":
        copies = 1 + len(optimizer.slot_names) + averaged
        padded = stored * copies * _multiple(dim, TPU_COLUMNS)
    else:
        record = dim * (1 + averaged) + slots + 1
        padded = _multiple(stored, TILE[0]) * _multiple(record, TILE[1])
    return TableForecast(
        name,
        rows,
        options.dim,
        weight=4 * stored * dim,
        slots=4 * (stored * slots + shared),
        average=4 * stored * dim * averaged,
        last_step=4 * stored,
        placement=placement,
        tpu=None if lacks else 4 * padded,
        tpu_lacks=lacks,
    )


def _multiple(number: int, of: int) -> int:
    """The smallest multiple of `of` that is at least `number`."""
    return -(-number // of) * of


def slice_bytes(tables: list[TableForecast], slice_: Slice, dense: int = 0) -> tuple[int, bool]:
    """(bytes per chip; whether all tables are among them, or only those whose rows are known).

    Args:
      tables: those in the engine are sharded evenly over the chips.
      slice_: whose chips.
      dense: bytes of dense layers, which every replica has, as it has the other tables.
    """
    known = {"engine": 0, "tensorcore": dense}
    for table in tables:
        known[table.placement] += table.tpu or 0
    copies = slice_.replicas // slice_.chips
    complete = all(table.tpu is not None for table in tables)
    return -(-known["engine"] // slice_.chips) + copies * known["tensorcore"], complete


def check_slice_memory(config: RunConfig, device: TpuDeviceConfig, dataset: Dataset) -> None:
    """Raises ConfigError if tables and dense layers do not fit in the memory of the device's slice."""
    slice_ = device.slice_type
    each = dense_bytes(config) + sequence_bytes(config) // slice_.replicas
    needed, _ = slice_bytes(forecast_tables(config, dataset), slice_, each)
    if needed > slice_.bytes_per_chip:
        raise ConfigError(
            f"device.slice: {slice_.name} has {slice_.bytes_per_chip / 1e9:.1f} GB per chip, but the tables "
            f"need {needed / 1e9:.1f}; use a larger slice, a smaller dim, or polyak.kind: tail_average (no "
            "second table)"
        )


def dense_bytes(config: RunConfig) -> int:
    """Bytes of the dense weights, at most two slots each, and their averages."""
    return 4 * dense_weights(config) * (3 + config.polyak.at_each_step)


def sequence_bytes(config: RunConfig) -> int:
    """Bytes of what a step keeps of positions, if histories are read in their order; else 0."""
    sequence = getattr(config.model, "sequence", None)
    if sequence is None:
        return 0
    width, length = config.input_width("history"), config.dataset.history_length or 0
    values = width * (_VECTORS_PER_BLOCK * sequence.layers + _VECTORS_AROUND)
    values += 3 * (sequence.hidden or width) * sequence.layers
    values += _SQUARES_PER_BLOCK * sequence.heads * length * sequence.layers
    loss = getattr(config.model, "loss", None)
    values += 3 * loss.negatives if isinstance(loss, GbceLossConfig) else 0
    return 4 * config.examples_per_step * values


def peak_bytes(config: RunConfig, tables: int) -> int:
    """Peak memory of a run on this machine, given the bytes of its tables."""
    copy = config.checkpoint.async_memory_mb << 20  # of rows set aside for a checkpoint
    return int(tables * MARGIN) + BASE_BYTES + sequence_bytes(config) + min(copy, tables)

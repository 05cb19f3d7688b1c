"""TPU slices by name: chips, hosts, replicas, and the memory of a chip that programs can use."""

import re
from typing import NamedTuple

from configs.errors import ConfigError

GIB = 1 << 30


class Slice(NamedTuple):
    """One slice type."""

    name: str
    generation: str
    chips: int
    replicas: int
    """Devices in TensorFlow: the TensorCores of v2, v3 and v4, the chips of later generations."""
    sparse_cores: int
    """SparseCores per chip; 0: tables are in the embedding engine of earlier generations (see `engine`)."""
    bytes_per_chip: int
    """High-bandwidth memory that programs can use, which is less than the data sheet's."""

    @property
    def engine(self) -> str:
        """Engine that holds the tables: tpu_embedding (v2, v3, v4) or sparse_core (v5p, v6e)."""
        return "sparse_core" if self.sparse_cores else "tpu_embedding"

    @property
    def hosts(self) -> int:
        """Machines of the slice: four chips per machine, but all eight of v6e-8 in one."""
        return 1 if self.chips <= 8 and self.generation == "v6e" else -(-self.chips // 4)


class _Generation(NamedTuple):
    gib_per_chip: float
    per_chip: int
    """How much a chip adds to the number in a slice's name: 2 if it counts TensorCores, 1 if chips."""
    sizes: list[int]
    """Numbers in the names of common slices."""
    devices: int
    """TensorFlow devices per chip."""
    sparse_cores: int = 0


_TO_256 = [1, 4, 8, 16, 32, 64, 128, 256]
GENERATIONS = {
    "v2": _Generation(2 * 7.48, 2, [8, 32, 128, 256, 512], 2),
    "v3": _Generation(2 * 15.48, 2, [8, 32, 64, 128, 256, 512, 1024, 2048], 2),
    "v4": _Generation(2 * 15.25, 2, [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096], 2),
    "v5e": _Generation(15.75, 1, _TO_256, 1),
    "v5p": _Generation(95.73, 2, [8, 16, 32, 64, 128, 256, 512, 1024, 2048], 1, 4),
    "v6e": _Generation(31.24, 1, _TO_256, 1, 2),
}
_ALIASES = {"v5litepod": "v5e"}
# Generations that replicate every table on every chip.
_REPLICATED = {"v5e"}


def tpu_slice(name: str) -> Slice:
    """The slice of a name such as v5p-8.

    Raises:
      ConfigError: there is no such slice, or it does not shard tables.
    """
    match = re.fullmatch(r"([a-z0-9]+)-([1-9]\d{0,5})", name)
    generation = _ALIASES.get(match.group(1), match.group(1)) if match else ""
    if match is None or generation not in GENERATIONS:
        raise ConfigError(
            f"{name}: not a TPU slice; write a generation ({', '.join(GENERATIONS)}), a dash and a number, "
            "such as v5p-8"
        )
    facts, number = GENERATIONS[generation], int(match.group(2))
    if number % facts.per_chip:
        raise ConfigError(
            f"{name}: not a TPU slice; {generation} counts TensorCores; use a multiple of {facts.per_chip}"
        )
    if generation in _REPLICATED:
        sharding = ", ".join(other for other in GENERATIONS if other not in _REPLICATED)
        raise ConfigError(f"{name}: {generation} replicates every table on every chip; use one of {sharding}")
    chips = number // facts.per_chip
    memory = int(facts.gib_per_chip * GIB)
    return Slice(name, generation, chips, chips * facts.devices, facts.sparse_cores, memory)


def common_slices() -> list[Slice]:
    """Common slices of all generations that shard tables."""
    return [
        tpu_slice(f"{generation}-{size}")
        for generation, facts in GENERATIONS.items()
        if generation not in _REPLICATED
        for size in facts.sizes
    ]

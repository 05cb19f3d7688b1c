"""TPU slices by name: chips, hosts, replicas, and how much memory a program finds on each chip."""

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
    """What TensorFlow sees as devices: the TensorCores of v2, v3 and v4, the chips of later ones."""
    sparse_cores: int
    """SparseCores of each chip; 0: tables are in the engine of the first generations (see `engine`)."""
    bytes_per_chip: int
    """High-bandwidth memory that programs can use: less than the data sheet's."""

    @property
    def engine(self) -> str:
        """What holds the tables: tpu_embedding (v2, v3, v4) or sparse_core (v5p, v6e)."""
        return "sparse_core" if self.sparse_cores else "tpu_embedding"

    @property
    def hosts(self) -> int:
        """Machines that the chips are in: four to a machine, but all eight of v6e-8 in one."""
        return 1 if self.chips <= 8 and self.generation == "v6e" else -(-self.chips // 4)


class _Generation(NamedTuple):
    gib_per_chip: float
    per_chip: int
    """What the number in a slice's name counts, per chip: 2 TensorCores, or 1 chip."""
    sizes: list[int]
    """Numbers in the names of common slices."""
    devices: int
    """Of each chip, in TensorFlow."""
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
# Generations that hold every table whole on every chip.
_REPLICATED = {"v5e"}


def tpu_slice(name: str) -> Slice:
    """The slice of a name such as v5p-8.

    Raises:
      ConfigError: there is none of this name, or none that shards tables.
    """
    match = re.fullmatch(r"([a-z0-9]+)-([1-9]\d{0,5})", name)
    generation = _ALIASES.get(match.group(1), match.group(1)) if match else None
    if generation not in GENERATIONS:
        raise ConfigError(
            f"{name}: no TPU slice; a name is a generation ({', '.join(GENERATIONS)}), a dash and a number, "
            "such as v5p-8"
        )
    facts, number = GENERATIONS[generation], int(match.group(2))
    if number % facts.per_chip:
        raise ConfigError(
            f"{name}: no TPU slice; {generation} counts TensorCores, {facts.per_chip} on each chip"
        )
    if generation in _REPLICATED:
        sharding = ", ".join(other for other in GENERATIONS if other not in _REPLICATED)
        raise ConfigError(
            f"{name}: {generation} would hold every table whole on every chip; use one of {sharding}"
        )
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

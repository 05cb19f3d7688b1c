"""Levels of x86-64 processors that libraries are compiled for, and which of them this machine runs."""

import functools
import platform
from typing import NamedTuple


class Level(NamedTuple):
    """Processors with a common set of instructions."""

    name: str
    options: tuple[str, ...]
    """Of g++ and clang++."""
    flags: frozenset[str]
    """What /proc/cpuinfo says of a processor that has all of them."""


# The psABI's levels (gitlab.com/x86-psABIs/x86-64-ABI, "Micro-Architecture Levels"), and products of
# bfloat16, which are in none. /proc/cpuinfo calls LZCNT abm.
_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = (
    Level("x86-64-v4-bf16", ("-march=x86-64-v4", "-mavx512bf16"), _V4 | {"avx512_bf16"}),
    Level("x86-64-v4", ("-march=x86-64-v4",), _V4),
    Level("x86-64-v3", ("-march=x86-64-v3",), _V3),
)
"""The best first."""


@functools.cache
def processor() -> str:
    """The instruction sets of this machine's processor, as the system words them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line for line in file if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor()


def levels(line: str) -> list[Level]:
    """The levels that a processor runs, the best first.

    Args:
      line: what `processor` returns.
    """
    flags = set(line.partition(":")[2].split())
    return [level for level in LEVELS if level.flags <= flags]

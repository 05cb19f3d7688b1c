"""Stable 64-bit hashes of rows and keys, vectorized."""

import numpy as np
import pyarrow as pa

from configs.splitmix import GOLDEN, mix

_PRIME = np.uint64(0x100000001B3)


def hash_rows(rows: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """uint64 [n] hash of row numbers int64 [n]; distinct rows get distinct hashes.

    Args:
      seed: dataset.seed.
      stream: selects one of several independent hashes of a row.
    """
    with np.errstate(over="ignore"):
        key = mix(np.array([seed % 2**63], np.uint64) * GOLDEN + np.uint64(stream))
        return mix(rows.astype(np.uint64) * GOLDEN + key)


def unit_hashes(rows: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """float64 [n] in [0, 1): `hash_rows` as uniform numbers."""
    return (hash_rows(rows, seed, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def hash_keys(keys: pa.StringArray) -> np.ndarray:
    """uint64 [n] hash of the bytes of each key; only for sharding and sampling, never for ids."""
    keys = keys.cast(pa.large_string())
    lengths, data = string_parts(keys)
    if not len(lengths):
        return np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        longest = int(lengths.max())
        powers = np.full(longest + 1, _PRIME, np.uint64)
        powers[0] = 1
        powers = np.cumprod(powers)
        starts = np.cumsum(lengths) - lengths
        position = np.arange(len(data)) - np.repeat(starts, lengths)
        terms = (data.astype(np.uint64) + np.uint64(1)) * powers[position]
        sums = np.zeros(len(lengths), np.uint64)
        filled = lengths > 0
        if filled.any():
            sums[filled] = np.add.reduceat(terms, starts[filled])
        return mix(sums + lengths.astype(np.uint64) * GOLDEN)


def string_parts(keys: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths int64 [n] in bytes, and all bytes uint8 [sum] one after the other, of strings without nulls."""
    offsets = np.frombuffer(keys.buffers()[1], np.int64)[keys.offset : keys.offset + len(keys) + 1]
    if not len(offsets):
        return np.zeros(0, np.int64), np.zeros(0, np.uint8)
    buffer = keys.buffers()[2]
    data = np.frombuffer(buffer, np.uint8) if buffer is not None else np.zeros(0, np.uint8)
    return np.diff(offsets), data[offsets[0] : offsets[-1]]

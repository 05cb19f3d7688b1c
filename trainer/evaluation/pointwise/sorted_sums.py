"""Sums by key over any number of rows, read back in the order of the keys, in bounded memory.

Rows are collected in a buffer. A full buffer is sorted and rows of one key are added up; if that leaves it
more than half full, it is appended to a file as a sorted run. Reading merges the runs by ranges of keys: of
each run a stretch is loaded, and what is not above the lowest end of the stretches is complete.
"""

import os
import tempfile
from collections.abc import Iterator
from types import TracebackType

import numpy as np

from configs.errors import UserError

ENTRY = np.dtype([("key", "<u8"), ("pos", "<f8"), ("neg", "<f8")])
_FEWEST = 4  # entries of a buffer and of a stretch


class Spill:
    """A temporary directory for what does not fit into memory; removed at the end of the `with` block.

    Args:
      budget: bytes that all SortedSums of the directory may buffer together.
      sharers: number of those that will be made.
    """

    def __init__(self, budget: int, sharers: int):
        self.entries = max(budget // (sharers * _BYTES), _FEWEST)
        self._directory = tempfile.TemporaryDirectory(prefix="lazytower-evaluate-")
        self._files = 0

    def path(self) -> str:
        """Of a new file."""
        self._files += 1
        return os.path.join(self._directory.name, str(self._files))

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._directory.cleanup()


_BYTES = 3 * ENTRY.itemsize  # of a buffered entry, with the copies that sorting takes


class SortedSums:
    """Sums of the weights of positives and negatives by key.

    Args:
      spill: where runs go, and how many entries to buffer.
    """

    def __init__(self, spill: Spill):
        self._spill, self._path = spill, ""
        self._waiting: list[np.ndarray] = []
        self._number = 0
        self._runs: list[int] = []

    def add(self, keys: np.ndarray, pos: np.ndarray, neg: np.ndarray) -> None:
        """Adds rows: keys uint64 [n], pos and neg float64 [n].

        Raises:
          UserError: the temporary directory is full.
        """
        for start in range(0, len(keys), self._spill.entries):
            part = slice(start, start + self._spill.entries)
            entries = np.empty(len(keys[part]), ENTRY)
            entries["key"], entries["pos"], entries["neg"] = keys[part], pos[part], neg[part]
            self._waiting.append(entries)
            self._number += len(entries)
            if self._number >= self._spill.entries:
                self._compact()
                if 2 * self._number > self._spill.entries:
                    self._write()

    def chunks(self) -> Iterator[np.ndarray]:
        """ENTRY arrays with rising keys, each key once; after the last `add`."""
        self._compact()
        if not self._runs:
            if self._number:
                yield self._waiting[0]
            return
        self._write()
        stored = np.memmap(self._path, ENTRY, "r")
        ends = np.cumsum(self._runs)
        places = list(ends - self._runs)
        size = max(self._spill.entries // len(ends), _FEWEST)
        while any(place < end for place, end in zip(places, ends, strict=True)):
            stretches = [
                stored[place : min(place + size, end)] for place, end in zip(places, ends, strict=True)
            ]
            more = [
                stretch["key"][-1]
                for stretch, place, end in zip(stretches, places, ends, strict=True)
                if place + len(stretch) < end
            ]
            if more:  # above the lowest end, entries of that run may be missing
                bound = min(more)
                stretches = [part[: np.searchsorted(part["key"], bound, side="right")] for part in stretches]
            places = [place + len(part) for place, part in zip(places, stretches, strict=True)]
            yield _summed(np.concatenate(stretches))

    def _compact(self) -> None:
        if self._waiting:
            self._waiting = [_summed(np.concatenate(self._waiting))]
            self._number = len(self._waiting[0])

    def _write(self) -> None:
        if not self._number:
            return
        self._path = self._path or self._spill.path()
        try:
            with open(self._path, "ab") as file:
                self._waiting[0].tofile(file)
        except OSError as error:
            raise UserError(
                f"{os.path.dirname(self._path)}: the sorted predictions cannot be written "
                f"({error.strerror or error}); free space there, or set TMPDIR to a larger disk"
            ) from None
        self._runs.append(self._number)
        self._waiting, self._number = [], 0


def _summed(entries: np.ndarray) -> np.ndarray:
    """Entries sorted by key, those of one key added up."""
    if not len(entries):
        return entries
    order = np.argsort(entries["key"], kind="stable")
    keys = entries["key"][order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    found = np.empty(len(first), ENTRY)
    found["key"] = keys[first]
    for name in ("pos", "neg"):
        found[name] = np.add.reduceat(entries[name][order], first)
    return found


def falling(predictions: np.ndarray) -> np.ndarray:
    """uint64 [n] that rise as predictions, float32 [n], fall; equal for equal ones, below 2^32."""
    bits = (predictions + np.float32(0)).view(np.uint32)  # so that -0 is 0
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (~rising).astype(np.uint64)


def prediction_of(codes: np.ndarray) -> np.ndarray:
    """The float32 predictions of `falling`."""
    rising = ~codes.astype(np.uint32)
    return np.where(rising >> 31, rising & np.uint32(0x7FFFFFFF), ~rising).view(np.float32)

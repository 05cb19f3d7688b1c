"""The memory floor of an embedding step: floor.cc, loaded into this process and timed like any peer."""

import ctypes
import functools
import math
import os
import pathlib
from typing import Any

import numpy as np

from trainer.bench.timing import GIB, NotMeasured, need_memory

FLOOR_DECAY = 0.999
RATE = 1e-3
_BETAS = 0.9, 0.999
_POINTER = ctypes.POINTER(ctypes.c_float)
_IDS = np.ctypeslib.ndpointer(np.int64, ndim=1, flags="C_CONTIGUOUS")
_VALUES = np.ctypeslib.ndpointer(np.float32, ndim=2, flags="C_CONTIGUOUS")


class Floor:
    """Lookup and lazy Adam with exact averages on records of zeros.

    A step sees the first gradients for the distinct ids, in order of their first occurrence; `inputs` finds
    them.

    Args:
      rows, dim: of the table.
      threads: 0: one per core.
      address: of another table's records, float32 [rows, 4 dim + 1], to update in place; None allocates
        records.

    Raises:
      NotMeasured: no compiler, or not enough memory.
    """

    def __init__(self, rows: int, dim: int, threads: int, address: int | None = None):
        self._rows, self._dim, self._width, self._steps = rows, dim, 4 * dim + 1, 0
        self._output = np.zeros([0, dim], np.float32)
        self._library, self._owned = _library(), address is None
        self._memory: Any = None  # a pointer until `close`
        self._threads = threads or len(os.sched_getaffinity(0))
        if address is not None:
            self._memory = ctypes.cast(address, _POINTER)
            return
        need_memory(4 * rows * self._width / GIB + 1)
        self._memory = self._library.floor_open(rows, self._width, self._threads)
        if not self._memory:
            raise NotMeasured(f"cannot allocate memory for {rows:,} records")

    def inputs(self, ids: np.ndarray, gradient: np.ndarray):
        """As of trainer/bench/cases/rows.py: ids int64 [k, n] below rows, gradient float32 [n, dim]."""
        if ids.size and not 0 <= ids.min() <= ids.max() < self._rows:
            raise ValueError(f"ids outside the {self._rows} rows")  # the loop would write out of bounds
        if len(self._output) < ids.shape[1]:
            self._output = np.ones([ids.shape[1], self._dim], np.float32)  # in memory, unlike zeros
        return [(row, row[np.sort(np.unique(row, return_index=True)[1])]) for row in ids], gradient

    def steps(self, inputs) -> None:
        """See trainer/bench/cases/rows.py."""
        batches, gradient = inputs
        for ids, distinct in batches:
            self._one(ids, distinct, gradient)

    def _one(self, ids: np.ndarray, distinct: np.ndarray, gradient: np.ndarray) -> None:
        self._steps += 1
        first, second = (-math.expm1(self._steps * math.log(beta)) for beta in _BETAS)
        rate, step = RATE * math.sqrt(second) / first, float(self._steps)
        self._library.floor_step(
            self._memory,
            *(self._dim, ids, len(ids), distinct, len(distinct)),
            *(gradient, self._output, step, rate, FLOOR_DECAY, self._threads),
        )

    def records(self) -> np.ndarray:
        """The records, float32 [rows, 4 dim + 1]; not to be used after `close`."""
        return np.ctypeslib.as_array(self._memory, (self._rows, self._width))

    def close(self) -> None:
        """Frees the records that it allocated."""
        if self._owned:
            self._library.floor_close(self._memory, self._rows, self._width)
        self._memory = None


@functools.cache
def _library() -> ctypes.CDLL:
    from trainer.kernels.build import NoKernels, cached_library

    try:
        path = cached_library(
            "floor", [pathlib.Path(__file__).with_suffix(".cc")], ["-std=c++17", "-pthread"]
        )
    except NoKernels as reason:
        raise NotMeasured(str(reason)) from None
    library = ctypes.CDLL(path)
    whole, real = ctypes.c_int64, ctypes.c_float
    library.floor_open.argtypes = [whole, whole, ctypes.c_int]
    library.floor_open.restype = _POINTER
    library.floor_close.argtypes = [_POINTER, whole, whole]
    step: list[Any] = [
        _POINTER,
        whole,
        _IDS,
        whole,
        _IDS,
        whole,
        _VALUES,
        _VALUES,
        real,
        real,
        real,
        ctypes.c_int,
    ]
    library.floor_step.argtypes = step
    library.floor_step.restype = library.floor_close.restype = None
    return library

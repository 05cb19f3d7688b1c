"""Records as of one moment, read piece by piece while training steps update them: copy on write."""

import ctypes

import numpy as np
import tensorflow as tf

from trainer.kernels.build import without_tensorflow
from trainer.kernels.ops import address


class RecordSnapshot:
    """Some rows of a table as of the moment this is made; requires the kernels.

    A row that is to be updated before it was read is copied aside first, by the kernel that updates it
    (trainer/kernels/snapshot.h). Nothing else may write the table meanwhile.

    Args:
      records: variable from trainer.kernels.ops.allocate, float32 [rows, width].
      ids: int64 [n], ascending and in range; None: all rows.
      piece: rows of a piece; the last one may have fewer.
      limit: bytes that may be copied aside. When they are used up, updates wait until pieces have been read.
      beside: another table's, of the same moment, that has not ended: both share its limit.
    """

    def __init__(
        self,
        records: tf.Variable,
        ids: np.ndarray | None,
        piece: int,
        limit: int,
        beside: "RecordSnapshot | None" = None,
    ):
        rows, self._width = tf.raw_ops.VariableShape(input=records.handle, out_type=tf.int64).numpy().tolist()
        self._number, self._piece = (rows if ids is None else len(ids)), piece
        self._records = records  # its memory must stay
        ids = None if ids is None else np.ascontiguousarray(ids, np.int64)
        library = without_tensorflow()
        library.lazytower_snapshot.restype = ctypes.c_void_p
        library.lazytower_snapshot_end.restype = ctypes.c_double
        self._handle: int | None = library.lazytower_snapshot(
            *(ctypes.c_void_p(address(records)), ctypes.c_int64(rows), ctypes.c_int64(self._width)),
            ctypes.c_void_p(None if ids is None else ids.ctypes.data),
            *(ctypes.c_int64(self._number), ctypes.c_int64(piece), ctypes.c_int64(limit)),
            ctypes.c_void_p(None if beside is None else beside._handle),
        )

    def read(self, number: int) -> np.ndarray:
        """The records of a piece, float32 [rows, width], to be read once.

        Raises:
          ValueError: there is no such piece, or the snapshot has ended.
        """
        rows = min(self._piece, self._number - number * self._piece)
        if self._handle is None or number < 0 or rows <= 0:
            raise ValueError(f"no piece {number} of {self._number} rows, or the snapshot has ended")
        records = np.empty([rows, self._width], np.float32)
        without_tensorflow().lazytower_snapshot_read(
            *(ctypes.c_void_p(self._handle), ctypes.c_int64(number), ctypes.c_void_p(records.ctypes.data))
        )
        return records

    def end(self) -> float:
        """Frees what was copied; no update waits any more. Returns the seconds in which updates waited."""
        if self._handle is None:
            return 0.0
        handle, self._handle = self._handle, None
        return float(without_tensorflow().lazytower_snapshot_end(ctypes.c_void_p(handle)))

"""Splits: 0 train, 1 valid, 2 test, for rows sorted by user, then oldest first."""

import numpy as np

from configs.data import SplitConfig
from configs.dataset import SPLITS
from pipelines.hashes import hash_rows

TRAIN, VALID, TEST = range(len(SPLITS))
_STREAM = 1  # of hash_rows; write.py uses others


def temporal(timestamps: np.ndarray, first_valid: int, first_test: int) -> np.ndarray:
    """int8 [n] by the two cuts, seconds."""
    return (timestamps >= first_valid).astype(np.int8) + (timestamps >= first_test)


def leave_last_out(starts: np.ndarray, min_rows: int) -> np.ndarray:
    """int8 [n]: each user's last row is test, the one before it valid; users below min_rows are train.

    Args:
      starts: int64 [n], first row of the row's user.
    """
    n = len(starts)
    split = np.zeros(n, np.int8)
    ends = np.flatnonzero(np.r_[starts[1:] != starts[:-1], True][:n]) if n else np.zeros(0, int)
    ends = ends[ends - starts[ends] + 1 >= min_rows]
    split[ends] = TEST
    split[ends - 1] = VALID
    return split


def random(rows: np.ndarray, seed: int, valid_fraction: float, test_fraction: float) -> np.ndarray:
    """int8 [n] by a hash of the row number and the seed."""
    share = (hash_rows(rows, seed, _STREAM) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (share < valid_fraction + test_fraction).astype(np.int8) + (share < test_fraction)


def assign(config: SplitConfig, seed: int, cuts: tuple[int, int] | None, columns: dict) -> np.ndarray:
    """int8 [n] split of rows sorted by user, then oldest first.

    Args:
      cuts: first second of valid and test; only for temporal.
      columns: row, timestamp, starts int64 [n]; split int8 [n] when given.
    """
    match config.kind:
        case "temporal":
            return temporal(columns["timestamp"], *cuts)
        case "leave_last_out":
            return leave_last_out(columns["starts"], config.min_rows)
        case "random":
            return random(columns["_row"], seed, config.valid_fraction, config.test_fraction)
        case _:
            return columns["_split"]

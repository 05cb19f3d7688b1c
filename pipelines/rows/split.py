"""Splits: 0 train, 1 valid, 2 test, for rows sorted by user, then oldest first."""

import numpy as np

from configs.manifest import SPLITS
from configs.sections.dataset import SplitConfig
from pipelines.rows.hashes import hash_rows

TRAIN, VALID, TEST = range(len(SPLITS))
_STREAM = 1  # of hash_rows; finish.py uses others


def temporal(timestamps: np.ndarray, first_valid: int, first_test: int) -> np.ndarray:
    """int8 [n] split according to two cuts in nanoseconds."""
    return (timestamps >= first_valid).astype(np.int8) + (timestamps >= first_test)


def leave_last_out(
    starts: np.ndarray, event: np.ndarray, positive: np.ndarray, min_rows: int
) -> tuple[np.ndarray, int]:
    """Each user's last positive event is test, the one before it valid; users with fewer than min_rows are
    train.

    A row that is not positive is valid if it comes after the user's valid event, test if after the test
    event.

    Args:
      starts: int64 [n], first row of the row's user.
      event: int64 [n], as pipelines.rows.events.events.
      positive: bool [n].
      min_rows: at least 2.

    Returns:
      int8 [n], and the number of users with positive rows but too few events.
    """
    n, split = len(starts), np.zeros(len(starts), np.int8)
    rows = np.flatnonzero(positive)
    if not len(rows):
        return split, 0
    user, own = starts[rows], event[rows]
    begin = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    lengths = np.diff(np.r_[begin, len(rows)])
    distinct = np.zeros(len(rows), np.int64)
    distinct[np.unique(own, return_index=True)[1]] = 1
    enough = np.add.reduceat(distinct, begin) >= min_rows
    test_row = rows[begin + lengths - 1]
    earlier = own != np.repeat(event[test_row], lengths)
    valid_row = np.maximum.reduceat(np.where(earlier, rows, -1), begin)
    test_row, valid_row, users = test_row[enough], valid_row[enough], user[begin][enough]
    after_test, after_valid = np.full(n, n), np.full(n, n)
    after_test[users], after_valid[users] = test_row, valid_row
    place = np.arange(n)
    split += ~positive & (place > after_valid[starts])
    split += ~positive & (place > after_test[starts])
    for number, held_out in ((VALID, valid_row), (TEST, test_row)):
        members = np.zeros(n, bool)
        members[event[held_out]] = True
        split[members[event]] = number
    return split, int(len(enough) - enough.sum())


def random(rows: np.ndarray, seed: int, valid_fraction: float, test_fraction: float) -> np.ndarray:
    """int8 [n] split according to a hash of the row number and the seed."""
    share = (hash_rows(rows, seed, _STREAM) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (share < valid_fraction + test_fraction).astype(np.int8) + (share < test_fraction)


def assign(
    config: SplitConfig, seed: int, cuts: tuple[int, int] | None, columns: dict[str, np.ndarray]
) -> tuple[np.ndarray, int]:
    """int8 [n] split of rows sorted by user, then oldest first, and the number of users whom leave_last_out
    keeps in train.

    Args:
      cuts: first nanosecond of valid and test; only for temporal.
      columns: _row, timestamp, starts, event int64 [n]; positive bool [n]; _split int8 [n] when given.
    """
    match config.kind:
        case "temporal":
            assert cuts is not None
            return temporal(columns["timestamp"], *cuts), 0
        case "leave_last_out":
            event, positive = columns["event"], columns["positive"]
            return leave_last_out(columns["starts"], event, positive, config.min_rows)
        case "random":
            # By the event's first row, so that repeated deliveries are in one split.
            rows = columns["_row"][columns["event"]]
            return random(rows, seed, config.valid_fraction, config.test_fraction), 0
        case _:
            return columns["_split"], 0

"""Histories of rows without an order in plain Python, after RECORD COLUMNS of configs/manifest.py.

It shares no code with `prepare` or with the readers, so that it can contradict them.
"""

from collections.abc import Iterable

_GOLDEN = 0x9E3779B97F4A7C15


def other_items(
    found: Iterable[int], own: int | None, user: int, length: int, seed: int = 0, row: int | None = None
) -> list[int]:
    """The history of a row.

    Args:
      found: what the user has of in-vocabulary items, in any order, with repeats.
      own: the row's item; None: of no row, as in evaluation.
      user: catalog id.
      length: most items.
      seed: dataset.seed.
      row: number of a train row in the source; None for held-out rows.
    """
    circle = sorted(set(found) - {own}, key=lambda item: _hashed(_hashed(seed, user), item))
    start = _mix(row * _GOLDEN + _mix(seed * _GOLDEN + 3)) % len(circle) if circle and row is not None else 0
    return [*circle[start:], *circle[:start]][:length]


def _hashed(seed: int, number: int) -> int:
    return _mix(number * _GOLDEN + _mix(seed + _GOLDEN))


def _mix(value: int) -> int:
    value %= 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31

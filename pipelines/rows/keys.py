"""What a key is: text without outer blanks, and integers in any notation.

Every function works on the distinct keys of a piece.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

_BLANKS = " \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
# First bytes of the blanks above, and bytes that may end one.
_MAY_BEGIN_BLANK = np.isin(np.arange(256), [*range(33), 0xC2, 0xE1, 0xE2, 0xE3, 0xEF])
_MAY_END_BLANK = (np.arange(256) < 33) | (np.arange(256) >= 0x80)
_INTEGER = r"^-?[0-9]+\.0+$"


class Cleaned(NamedTuple):
    """Distinct keys with one spelling each."""

    keys: pa.StringArray
    """The keys as in the dataset; some may have become equal."""
    blanks: np.ndarray | None
    """bool [keys], which were stripped of outer blanks; None: none."""
    integers: np.ndarray | None
    """bool [keys], which lost a fraction of zeros, such as 17.0; None: none."""


def clean_keys(keys: pa.StringArray) -> Cleaned:
    """Strips outer blanks and fractions of zeros, so that one user does not become two."""
    keys, blanks = _strip(keys)
    keys, integers = _as_integers(keys)
    return Cleaned(keys, blanks, integers)


def break_lines(keys: pa.StringArray) -> np.ndarray | None:
    """bool [keys], which contain a line end or NUL, which vocabulary files cannot store; None: none."""
    offsets, data = _buffers(keys)
    if not (data[offsets[0] : offsets[-1]] < 14).any():
        return None
    return compute.match_substring_regex(keys, "[\r\n\\x00]").to_numpy(zero_copy_only=False).astype(bool)


def are_null(keys: pa.StringArray, nulls: list[str]) -> np.ndarray | None:
    """bool [keys], which spell a missing value; None: none."""
    if not nulls:
        return None
    found = compute.is_in(keys, pa.array(nulls, pa.string())).to_numpy(zero_copy_only=False)
    return found if found.any() else None


def _strip(keys: pa.StringArray) -> tuple[pa.StringArray, np.ndarray | None]:
    offsets, data = _buffers(keys)
    if not len(keys) or offsets[-1] == offsets[0]:
        return keys, None
    first = data[np.minimum(offsets[:-1], offsets[-1] - 1)]
    last = data[np.maximum(offsets[1:] - 1, offsets[0])]
    suspects = np.flatnonzero(_MAY_BEGIN_BLANK[first] | _MAY_END_BLANK[last])
    return _replace(keys, suspects, lambda some: compute.utf8_trim(some, characters=_BLANKS))


def _as_integers(keys: pa.StringArray) -> tuple[pa.StringArray, np.ndarray | None]:
    offsets, data = _buffers(keys)
    long = np.flatnonzero(np.diff(offsets) > 2)
    ends = offsets[1:][long]
    zeros = (data[ends - 1] == ord("0")) & np.isin(data[ends - 2], [ord("."), ord("0")])
    suspects = long[zeros]
    if len(suspects):
        matches = compute.match_substring_regex(keys.take(pa.array(suspects)), _INTEGER)
        suspects = suspects[matches.to_numpy(zero_copy_only=False).astype(bool)]
    return _replace(keys, suspects, _drop_fraction)


def _drop_fraction(keys: pa.StringArray) -> pa.StringArray:
    whole = compute.replace_substring_regex(keys, r"\.0+$", "")
    return compute.if_else(compute.equal(whole, "-0"), "0", whole)


def _replace(
    keys: pa.StringArray, suspects: np.ndarray, change: Callable[[pa.StringArray], pa.StringArray]
) -> tuple[pa.StringArray, np.ndarray | None]:
    """Keys with `change` applied to some, and where it made a difference."""
    if not len(suspects):
        return keys, None
    old = keys.take(pa.array(suspects))
    new = change(old)
    differs = compute.not_equal(new, old).to_numpy(zero_copy_only=False).astype(bool)
    if not differs.any():
        return keys, None
    mask = np.zeros(len(keys), bool)
    mask[suspects[differs]] = True
    return compute.replace_with_mask(keys, pa.array(mask), new.filter(pa.array(differs))), mask


def _buffers(keys: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int32 [keys + 1] and bytes."""
    _, offsets, data = keys.buffers()
    if not len(keys):
        return np.zeros(1, np.int32), np.zeros(0, np.uint8)
    offsets = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + len(keys) + 1]
    return offsets, np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)

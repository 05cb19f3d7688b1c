"""The order of a side table's rows of one key: numbers, or ISO 8601 times."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipelines.rows.faults import Faults
from pipelines.rows.numbers import parse_numbers
from pipelines.rows.times import to_nanoseconds

WHOLE, REST, TIME = "_order", "_order_rest", "_order_time"
_INTEGER = r"^[+-]?[0-9]{1,18}$"


def order_numbers(values: pa.Array, faults: Faults) -> dict[str, pa.Array]:
    """Columns that sort like the values: float64, then what is left of integers beyond 2^53, int64; and bool,
    which are times.

    Args:
      values: numbers, times, or text with either.
      faults: takes bad_order_by of values that are neither.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    numbers, is_time = np.zeros(len(values)), np.zeros(len(values), bool)
    whole = np.zeros(len(values), np.int64)
    exact = np.ones(len(values), bool)
    if pa.types.is_integer(values.type):
        bad = values.is_null().to_numpy(zero_copy_only=False).astype(bool)
        whole = values.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)
    elif pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        whole, bad = to_nanoseconds(values, "iso8601")
        is_time |= True
    else:
        numbers, bad = parse_numbers(values)
        text = _text(values)
        integer = compute.match_substring_regex(text, _INTEGER).fill_null(False)
        exact = integer.to_numpy(zero_copy_only=False).astype(bool)
        digits = compute.replace_substring(compute.if_else(integer, text, "0"), "+", "")
        whole = digits.cast(pa.int64()).to_numpy(zero_copy_only=False)
        if bad.any():
            times, no_time = to_nanoseconds(text, "iso8601")
            is_time = bad & ~no_time
            whole, bad, exact = np.where(is_time, times, whole), bad & no_time, exact | is_time
        bad |= ~np.isfinite(numbers)
    numbers = np.where(exact, whole.astype(np.float64), numbers)
    rest = np.where(exact, whole - np.where(exact, numbers, 0).astype(np.int64), 0)
    faults.add(bad, "bad_order_by")
    return {WHOLE: pa.array(numbers), REST: pa.array(rest), TIME: pa.array(is_time)}


def _text(values: pa.Array) -> pa.Array:
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        values = compute.if_else(
            compute.match_substring_regex(values, rb"^[\x00-\x7f]*$").fill_null(False), values, None
        )
    return compute.utf8_trim_whitespace(values.cast(pa.string()))

"""Numbers as they are written."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipelines.sources.text import decode

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^(?i)[+-]?(inf|infinity|nan)$"


def parse_numbers(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """float64 [n] and bool [n], where a value is not a number (0 there); text is parsed."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        values = decode(values)[0]
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = compute.utf8_trim_whitespace(values.cast(pa.string()))
        is_number = compute.match_substring_regex(values, _NUMBER).fill_null(False)
        values = compute.if_else(is_number, values, pa.scalar(None, pa.string()))
    bad = values.is_null().to_numpy(zero_copy_only=False).astype(bool)
    numbers = values.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy(zero_copy_only=False)
    return numbers, bad

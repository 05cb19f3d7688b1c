"""What a Parquet column of each type means as a key, a number, a time or a split, and which types are
refused. As a value that counts as 1 or not (`ones` of a label), floats too are text: 1 and 0.5.

| type | key | number | time |
|---|---|---|---|
| text (string, large, view, or bytes that are UTF-8) | itself | parsed | parsed by source.timestamp_unit |
| integers | their digits | themselves | by source.timestamp_unit |
| decimal without fraction | its digits | its value | by source.timestamp_unit |
| decimal with fraction, floats | - | their value | by source.timestamp_unit |
| boolean | true, false | 1, 0 | - |
| date | 2024-01-02 | - | its midnight, UTC |
| timestamp | - | - | itself; without a zone it is UTC |
| UUID | its usual text | - | - |
| null (no value in the whole file) | empty | empty | empty |

A dictionary-encoded column has the meaning of its values. A list column, of any kind of list, is a list of
keys or of numbers whose values follow the same table; a null list is an empty one.
"""

import json
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipelines.sources.reader import Wanted
from pipelines.sources.text import RAW_CHARACTERS

_TEXTS = ("key", "value")
"""Kinds of columns that are read as text."""
_OTHER_KIND = "declare the feature as kind: categorical or numeric"
_NEEDS = {
    "key": "a key must be text, an integer, a boolean, a date or a UUID",
    "value": "must be text, a number, a boolean, a date or a UUID",
    "number": "must be a number, a boolean or text with a number",
    "time": "must be a timestamp, a date, a number or text",
    "split": "must be text",
}


def problem(wanted: Wanted, kind: pa.DataType) -> str | None:
    """Why a column of this type cannot be read, and what to do; None: it can."""
    kind = _plain(kind)
    if pa.types.is_null(kind):
        return None
    if wanted.is_list:
        if not _is_list(kind):
            return (
                f"column {wanted.column!r} is {kind}; a list is needed: write a list column, or {_OTHER_KIND}"
            )
        value = Wanted(wanted.name, wanted.column, wanted.kind.removesuffix("s"))
        return problem(value, kind.value_type)
    if _is_text(kind):
        return None
    if wanted.kind in _TEXTS and _is_uuid(kind):
        return None
    if any(test(kind) for test in _FITTING[wanted.kind]):
        return None
    return f"column {wanted.column!r} is {kind}; {_NEEDS[wanted.kind]}: {_remedy(wanted, kind)}"


def _remedy(wanted: Wanted, kind: pa.DataType) -> str:
    types = pa.types
    if _is_list(kind):
        more = ", or declare the feature as kind: list" if wanted.kind == "key" else ""
        return f"write one value per row{more}"
    if types.is_map(kind):
        return "write one value per row"
    if types.is_struct(kind):
        return f"write the field you need as a separate column ({', '.join(f.name for f in kind)})"
    if types.is_floating(kind):
        return "write the column as integers (pandas: .astype('Int64')) or as text"
    if types.is_decimal(kind):
        return "write the column without fraction digits, as decimal(38, 0), as integers or as text"
    if wanted.kind == "time":
        return "this type is not a point in time; write a timestamp, or a number in source.timestamp_unit"
    return "write the column as text" if wanted.kind in ("key", "split") else "write the column as a number"


def convert(values: pa.Array, wanted: Wanted) -> pa.Array:
    """A column in a form that validation accepts: text, bytes of a key that are not UTF-8, numbers, dates,
    timestamps, large lists of them.

    Args:
      values: of a type without a `problem`.
    """
    if wanted.is_list and not pa.types.is_null(values.type):
        return _lists(values, wanted.kind.removesuffix("s"))
    return _scalars(values, wanted.kind)


def _lists(values: pa.Array, kind: str) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if isinstance(values.type, pa.BaseExtensionType):
        values = values.storage
    lengths = compute.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.r_[0, np.cumsum(lengths, dtype=np.int64)])
    inner = _scalars(values.flatten(), kind)
    if pa.types.is_dictionary(inner.type):
        inner = inner.dictionary_decode()
    return pa.LargeListArray.from_arrays(offsets, inner)


def _scalars(values: pa.Array, kind: str) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        if kind in _TEXTS and values.type.value_type == pa.string() and _is_valid(values.dictionary):
            return values
        values = values.dictionary_decode()
    if isinstance(values.type, pa.BaseExtensionType):
        values = _uuids(values.storage) if _is_uuid(values.type) else values.storage
    if pa.types.is_null(values.type):
        return values.cast(pa.string())
    if _is_text(values.type):
        return _text(values, kind)
    if kind == "value" and pa.types.is_floating(values.type):
        values = compute.if_else(compute.is_nan(values), None, values)
    if kind in _TEXTS and not pa.types.is_integer(values.type):
        return values.cast(pa.string())
    if pa.types.is_decimal(values.type):
        return _whole(values) if values.type.scale <= 0 else values.cast(pa.float64())
    return values.cast(pa.float64()) if pa.types.is_float16(values.type) else values


def _text(values: pa.Array, kind: str) -> pa.Array:
    """Text. Where bytes are not UTF-8, a key or value stays bytes, which validation rejects, and others
    become null."""
    if pa.types.is_binary_view(values.type) or pa.types.is_large_binary(values.type):
        values = values.cast(pa.binary())
    if pa.types.is_string_view(values.type) or pa.types.is_large_string(values.type):
        values = values.cast(pa.string())
    if pa.types.is_string(values.type):
        if _is_valid(values):
            return values
        values = values.cast(pa.binary())
    if kind in _TEXTS:
        return values
    return pa.array([_decoded(value) for value in values.to_pylist()], pa.string())


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _is_valid(values: pa.Array) -> bool:
    """Whether text is UTF-8, which Parquet requires but not every writer ensures."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _whole(values: pa.Array) -> pa.Array:
    """Decimals without fraction as int64, or float64 if they are too large."""
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values.cast(pa.float64())


def _uuids(values: pa.Array) -> pa.Array:
    texts = (None if value is None else str(uuid.UUID(bytes=value)) for value in values.to_pylist())
    return pa.array(texts, pa.string())


def row_text(batch: pa.RecordBatch, index: int) -> str:
    """A row for messages, as JSON, truncated."""
    row = {name: _shown(batch.column(i)[index]) for i, name in enumerate(batch.schema.names)}
    return json.dumps(row, default=_decoded_for_people, ensure_ascii=False)[:RAW_CHARACTERS]


def _decoded_for_people(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _shown(value: pa.Scalar) -> object:
    """A value for messages; times that Python cannot represent and broken text as Arrow prints them."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
    except (ValueError, OverflowError):
        return repr(value)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    tests = (
        types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view,
        types.is_large_list_view,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def _is_uuid(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.UuidType)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Type of the values."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.BaseExtensionType) and not _is_uuid(kind):
        kind = kind.storage_type
    return kind


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return any(
        test(kind)
        for test in (
            types.is_string, types.is_large_string, types.is_string_view,
            types.is_binary, types.is_large_binary, types.is_binary_view,
        )
    )  # fmt: skip


def _is_whole_decimal(kind: pa.DataType) -> bool:
    return pa.types.is_decimal(kind) and kind.scale == 0


_FITTING = {
    "key": (pa.types.is_integer, pa.types.is_boolean, pa.types.is_date, _is_whole_decimal),
    "value": (
        pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean,
        pa.types.is_date,
    ),
    "number": (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean),
    "time": (
        pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal,
        pa.types.is_timestamp, pa.types.is_date,
    ),
    "split": (),
}  # fmt: skip

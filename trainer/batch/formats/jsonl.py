"""JSON lines: an object for each row, made column by column, without a Python object for each value."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.batch.formats.base import BaseWriter

_CONTROL = "[\\x00-\\x1f]"


class Writer(BaseWriter):
    """As BaseWriter."""

    def write(self, batch):
        if batch.num_rows:
            lines = _objects(self._schema.names, batch.columns)
            self._file.write("\n".join([*lines.to_pylist(), ""]).encode())


def _text(array: pa.Array) -> pa.Array:
    """JSON of each value, as text."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _text(array.dictionary).take(array.indices)
    if pa.types.is_string(kind):
        return _strings(array)
    if pa.types.is_struct(kind):
        return _objects([field.name for field in kind], array.flatten())
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(array)
    return pc.if_else(pc.is_valid(array), pc.cast(array, pa.string()), "null")


def _strings(array: pa.Array) -> pa.Array:
    special = pc.match_substring_regex(array, _CONTROL)
    if pc.any(special).as_py():  # rare enough to be made one by one
        return pa.array([json.dumps(value, ensure_ascii=False) for value in array.to_pylist()], pa.string())
    escaped = pc.replace_substring(pc.replace_substring(array, "\\", "\\\\"), '"', '\\"')
    return pc.fill_null(pc.binary_join_element_wise('"', escaped, '"', ""), "null")


def _objects(names: list[str], columns: list[pa.Array]) -> pa.Array:
    parts: list = []
    for name, column in zip(names, columns, strict=True):
        parts += [f"{', ' if parts else '{'}{json.dumps(name)}: ", _text(column)]
    return pc.binary_join_element_wise(*parts, "}", "")


def _lists(array: pa.Array) -> pa.Array:
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    texts = pa.ListArray.from_arrays(pa.array(offsets), _text(array.flatten()))
    return pc.binary_join_element_wise("[", pc.binary_join(texts, ", "), "]", "")

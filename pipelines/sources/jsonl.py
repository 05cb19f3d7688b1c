"""JSON lines: pyarrow.json when all lines of a block agree on types, Python's json otherwise."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.json as arrow_json

from configs.errors import DataError
from pipelines.sources import text
from pipelines.sources.reader import Piece, wanted_columns
from pipelines.sources.text import Block


class Reader(text.TextReader):
    """Reads JSON lines."""

    def __init__(self, config, layout):
        super().__init__(config, layout)
        self._wanted = wanted_columns(config.roles, config.features)

    def check(self, name: str, lines: list[str]) -> tuple[str, ...]:
        try:
            row = json.loads(lines[0])
        except ValueError:
            row = None
        if not isinstance(row, dict):
            what = "check source.kind"
            if lines[0].lstrip().startswith("["):
                what = "an array of objects has to be written as one object a line (jq -c '.[]')"
            raise DataError(f"{name}: the first line is no JSON object; {what}: {lines[0][:80]!r}")
        required = (self.config.roles.user, self.config.roles.item)
        missing = [w.column for w in self._wanted if w.column not in row and w.column in required]
        if missing:
            raise DataError(f"{name}: no column {missing[0]!r}; the first object has: {', '.join(row)}")
        return ()

    def parse(self, block: Block) -> Piece:
        table = self._parse_typed(block)
        if table is not None:
            table = table.combine_chunks()
            columns = {w.name: table[w.column].chunk(0) for w in self._wanted}
            return block.piece(columns, np.arange(table.num_rows), [])
        return self._parse_each(block)

    def _parse_typed(self, block: Block) -> pa.Table | None:
        """All lines with the types of the first, or None when they differ or any line has a fault."""
        try:
            first = json.loads(block.raw(0))
            schema = pa.schema([(name, _type(first.get(name))) for name in self._names()])
        except (ValueError, AttributeError, KeyError):
            return None
        try:
            table = arrow_json.read_json(
                pa.BufferReader(block.data),
                arrow_json.ReadOptions(use_threads=False, block_size=len(block.data) + 1),
                arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            )
        except pa.ArrowInvalid:
            return None
        return table if table.num_rows == block.num_lines else None

    def _names(self) -> list[str]:
        return list(dict.fromkeys(w.column for w in self._wanted))

    def _parse_each(self, block: Block) -> Piece:
        """Line by line; keys that are no text and no integer are refused, other values are kept as text."""
        values = {w.name: [] for w in self._wanted}
        kept, rejects = [], []
        starts, ends = block.bounds
        for line in range(len(starts)):
            data = block.data[starts[line] : ends[line]]
            if not data.strip():
                continue
            row, reason = self._parse_one(data)
            if reason:
                rejects.append(block.reject(line, reason))
                continue
            kept.append(line)
            for wanted in self._wanted:
                values[wanted.name].append(row[wanted.name])
        columns = {name: pa.array(column, pa.string()) for name, column in values.items()}
        return block.piece(columns, np.array(kept, np.int64), rejects)

    def _parse_one(self, data: bytes) -> tuple[dict | None, str | None]:
        """Values by name as text or None, or the reason why there are none."""
        try:
            row = json.loads(data.decode())
        except UnicodeDecodeError:
            return None, "not_utf8"
        except (ValueError, RecursionError):
            return None, "invalid_json"
        if not isinstance(row, dict):
            return None, "invalid_json"
        result = {}
        for wanted in self._wanted:
            value = row.get(wanted.column)
            if isinstance(value, bool | list | dict) or (wanted.kind == "key" and isinstance(value, float)):
                return None, f"wrong_type_{wanted.name}"
            result[wanted.name] = None if value is None else str(value)
            try:
                str(value).encode()
            except UnicodeEncodeError:  # half of a surrogate pair
                return None, "not_utf8"
        return result, None


def _type(value) -> pa.DataType:
    """Arrow type of a first value; KeyError sends the block to the careful path."""
    return {str: pa.string(), int: pa.int64(), float: pa.float64()}[type(value)]

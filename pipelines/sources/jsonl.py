"""JSON lines: pyarrow.json when all lines of a block agree on types, Python's json otherwise.

Both interpret every value alike (tests/pipelines/sources/test_sources_agreement.py).
"""

import decimal
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.json as arrow_json

from configs.errors import DataError
from configs.sections.sources import JsonlSourceConfig
from pipelines.job import JobLayout
from pipelines.sources import text
from pipelines.sources.lines import MAX_LINE_BYTES
from pipelines.sources.reader import SourcePiece, Wanted, in_reason, wanted_columns
from pipelines.sources.text import Block

_FIRST = 20  # lines searched for a type
_MAX_NESTED = 500  # brackets of a line that Python's parser surely handles
_MAX_DIGITS = 30  # of an integer key written as a float


_Text = str | None | list[str | None]


class _Number(str):
    """A number as written in the file."""


class _Fraction(_Number):
    """A number with a point or an exponent."""


class _Constant(_Number):
    """NaN, Infinity or -Infinity, which Python, NumPy and pandas write."""


_parse = json.JSONDecoder(parse_int=_Number, parse_float=_Fraction, parse_constant=_Constant).decode


class Reader(text.TextReader):
    """Reads JSON lines."""

    config: JsonlSourceConfig

    def __init__(self, config: JsonlSourceConfig, layout: JobLayout):
        super().__init__(config, layout)
        self._wanted = wanted_columns(config)
        self._kinds: dict[str, set[str]] = {}
        for wanted in self._wanted:
            self._kinds.setdefault(wanted.column, set()).add(wanted.kind)

    def check(self, name: str, data: bytes) -> tuple[str, ...]:
        first = next((line for line in data.split(b"\n") if line.strip()), b"").decode("utf-8", "replace")
        try:
            row = _parse(first)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            what = "check source.kind"
            if first.lstrip().startswith("["):
                what = "write the array as one object per line (jq -c '.[]')"
            elif first.strip() == "{":
                what = "write each object on one line (jq -c .)"
            raise DataError(f"{name}: the first line is not a JSON object; {what}: {first[:80]!r}")
        missing = [w.column for w in self._wanted if w.column not in row and w.name in ("user", "item")]
        if missing:
            raise DataError(f"{name}: no column {missing[0]!r}; the first object has: {text.shown(row)}")
        return ()

    def parse(self, block: Block) -> SourcePiece:
        table = self._parse_typed(block)
        if table is not None:
            table = table.combine_chunks()
            columns = {w.name: table[w.column].chunk(0) for w in self._wanted}
            return block.piece(columns, np.arange(table.num_rows), [])
        return self._parse_each(block)

    def _parse_typed(self, block: Block) -> pa.Table | None:
        """All lines with the types of the first; None if they differ or any line has a fault."""
        if not self._is_plain(block):
            return None
        try:
            schema = self._schema(block)
            table = arrow_json.read_json(
                pa.BufferReader(block.data),
                arrow_json.ReadOptions(use_threads=False, block_size=len(block.data) + 1),
                arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            )
        except (pa.ArrowInvalid, ValueError, KeyError, RecursionError):
            return None
        return table if table.num_rows == block.num_lines else None

    def _is_plain(self, block: Block) -> bool:
        """Whether each line begins and ends like an object and contains nothing that parsers treat
        differently."""
        data = block.data
        starts, ends = block.bounds
        array = np.frombuffer(data, np.uint8)
        whole = (array[starts] == ord("{")) & (array[np.maximum(ends - 1, 0)] == ord("}")) & (ends > starts)
        if not whole.all() or b"\0" in data or block.has_long_record():
            return False
        for i in np.flatnonzero(ends - starts > 2 * _MAX_NESTED):
            if _brackets(data[starts[i] : ends[i]]) > _MAX_NESTED:
                return False
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return True

    def _schema(self, block: Block) -> pa.Schema:
        """Types of the wanted columns' first values; a KeyError means that lines must be parsed one by
        one."""
        starts, ends = block.bounds
        types: dict[str, pa.DataType] = {}
        for start, end in zip(starts[:_FIRST], ends[:_FIRST], strict=True):
            row = _parse(block.data[start:end].decode())
            for name, kinds in self._kinds.items():
                if row.get(name) is not None:
                    types.setdefault(name, _type(row[name], kinds))
            if len(types) == len(self._kinds):
                break
        return pa.schema([(name, types.get(name, pa.string())) for name in self._kinds])

    def _parse_each(self, block: Block) -> SourcePiece:
        """Parses line by line, keeping every value as text."""
        values: dict[str, list[_Text]] = {w.name: [] for w in self._wanted}
        kept, rejects = [], []
        starts, ends = block.bounds
        for line in range(len(starts)):
            data = block.data[starts[line] : ends[line]]
            if not data.strip():
                continue
            row, reason = self._parse_one(data)
            if row is None:
                rejects.append(block.reject(line, reason))
                continue
            kept.append(line)
            for wanted in self._wanted:
                values[wanted.name].append(row[wanted.name])
        types = {w.name: pa.list_(pa.string()) if w.is_list else pa.string() for w in self._wanted}
        columns = {name: pa.array(column, types[name]) for name, column in values.items()}
        return block.piece(columns, np.array(kept, np.int64), rejects)

    def _parse_one(self, data: bytes) -> tuple[dict[str, _Text] | None, str]:
        """Values by name as text, None or lists of them; or the reason for rejecting the line."""
        if len(data) > MAX_LINE_BYTES:
            return None, "line_too_long"
        try:
            row = _parse(data.decode())
        except UnicodeDecodeError:
            return None, "not_utf8"
        except (ValueError, RecursionError):
            return None, "invalid_json"
        if not isinstance(row, dict):
            return None, "invalid_json"
        result: dict[str, _Text] = {}
        for wanted in self._wanted:
            try:
                result[wanted.name] = _as_texts(row.get(wanted.column), wanted)
            except TypeError:
                return None, f"wrong_type_{in_reason(wanted.name)}"
            except UnicodeEncodeError:  # half of a surrogate pair
                return None, "not_utf8"
        return result, ""


def _as_texts(value: object, wanted: Wanted) -> _Text:
    """A value or the values of a list as CSV would have them. Raises TypeError: not of this column."""
    if not wanted.is_list:
        return _as_text(value, wanted.kind)
    if value is not None and not isinstance(value, list):
        raise TypeError
    kind = wanted.kind.removesuffix("s")
    return None if value is None else [_as_text(part, kind) for part in value]


def _as_text(value: object, kind: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) and kind in _BOOLEANS:
        return _BOOLEANS[kind][int(value)]
    if isinstance(value, bool | list | dict):
        raise TypeError
    if isinstance(value, _Number) and kind == "key":
        return _as_key(value)
    if isinstance(value, _Number) and kind == "value":
        return None if value == "NaN" else str(value)
    text_ = str(value)
    text_.encode()
    return text_


_BOOLEANS = {"number": ("0", "1"), "value": ("false", "true")}
"""false and true as text, by kind of column."""


def _as_key(number: _Number) -> str | None:
    """An integer as its digits; NaN is missing, as in pandas."""
    if number == "NaN":
        return None
    if isinstance(number, _Constant):
        raise TypeError
    if isinstance(number, _Fraction):
        if not re.fullmatch(r"-?\d+\.0+", number):
            value = decimal.Decimal(number)
            if value.adjusted() >= _MAX_DIGITS or value != value.to_integral_value():
                raise TypeError
            number = _Number(f"{value:f}")
        number = _Number(number.partition(".")[0])
    return "0" if number == "-0" else str(number)


def _type(value: object, kinds: set[str]) -> pa.DataType:
    """Arrow type of a first value; a KeyError means that lines must be parsed one by one."""
    if isinstance(value, list):
        return pa.list_(_type_of_part(value, kinds))
    if kinds & {"keys", "numbers"}:
        raise KeyError
    if isinstance(value, bool) and kinds <= {"number", "value"}:
        return pa.bool_()
    if type(value) is _Fraction and not kinds & {"key", "value", "time"}:  # there every digit counts
        return pa.float64()
    types: dict[type, pa.DataType] = {str: pa.string(), _Number: pa.int64()}
    return types[type(value)]


def _type_of_part(value: list[object], kinds: set[str]) -> pa.DataType:
    if kinds == {"numbers"}:
        return pa.float64()
    part = next((part for part in value if part is not None), "")
    if kinds != {"keys"} or isinstance(part, list):
        raise KeyError
    return _type(part, {"key"})


def _brackets(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{")

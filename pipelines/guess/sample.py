"""The first rows of a file of unknown format, as columns of text, and what its format seems to be."""

import collections
import dataclasses
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from configs.errors import DataError
from pipelines.sources.compression import compression_of, foreign_format, open_file, open_stream, read_head
from pipelines.sources.lines import MAX_LINE_BYTES, stream_lines
from pipelines.sources.listing.files import list_files
from pipelines.sources.quoting import Quoting

SAMPLE_ROWS = 20_000
_SAMPLE_BYTES = 4 << 20
_DELIMITERS = [",", "\t", ";", "|", "::", "\x01", " "]
_COMPRESSION = 5  # bytes of logs in a byte of gzip, about
_ORDER_ROWS = 200  # rows that decide on the delimiter

Value = str | list[str] | None
"""A cell: text, a list of texts (JSON and Parquet), or nothing."""


@dataclasses.dataclass
class Sample:
    """Some rows from the beginning of a source."""

    path: str
    """As given: a file, directory or glob."""
    file: str
    """The file that was read."""
    format: dict[str, tuple[Any, str]]
    """Keys of a source section, each with its value and the reason for it."""
    names: list[str]
    """Names of the columns, left to right."""
    columns: dict[str, list[Value]]
    """Values of each column."""
    types: dict[str, pa.DataType]
    """Types that the file itself declares (Parquet)."""
    rows: int
    """Number of rows of all files, estimated unless the sample is everything."""

    @property
    def num_rows(self) -> int:
        """Rows of the sample."""
        return len(next(iter(self.columns.values())))


def read_sample(path: str) -> Sample:
    """Reads the beginning of a source.

    Raises:
      DataError: there is no such file, it is empty, or it is neither text nor Parquet.
    """
    files = list_files([path])
    first = files[0]
    if read_head(first.name).startswith(b"PAR1"):
        return _read_parquet(path, first.name, len(files))
    with open_stream(first.name) as stream:  # says what is wrong with a compressed file
        stream.read(1)
    data = b""
    for chunk in stream_lines(first.name, _SAMPLE_BYTES):
        data += chunk
        if len(data) >= _SAMPLE_BYTES:
            break
    if what := foreign_format(data):
        raise DataError(f"{first.name}: contains {what}")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise DataError(f"{first.name}: the file is empty; name a file with rows")
    whole = len(data) < _SAMPLE_BYTES
    stored = max(1, first.size)
    size = stored * (_COMPRESSION if compression_of(read_head(first.name)) else 1)
    estimate = _Estimate(data, whole, size, sum(file.size for file in files) / stored)
    if data.lstrip()[:1] in (b"{", b"["):
        return _read_json(path, first.name, data, estimate)
    return _read_delimited(path, first.name, data, estimate)


@dataclasses.dataclass
class _Estimate:
    """The number of rows of a source from a part of its first file's text."""

    data: bytes
    whole: bool
    """Whether the data is the whole file."""
    size: int
    """Bytes of the file; about, if it is compressed."""
    files: float
    """Size of all files in sizes of the first one."""

    def rows(self, records: int) -> int:
        """Estimated rows of all files; `records`: rows of the sample."""
        first = records if self.whole else records * self.size / len(self.data)
        return max(1, round(first * self.files))


def _read_json(path: str, name: str, data: bytes, estimate: _Estimate) -> Sample:
    if data.lstrip().startswith(b"["):
        raise DataError(
            f"{name}: one JSON array; write one object a line (jq -c '.[]' FILE > FILE.jsonl), which can be "
            "read in parts"
        )
    columns: dict[str, list[Value]] = {}
    lines = [line for line in data.split(b"\n") if line.strip()][:SAMPLE_ROWS]
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}: line {number + 1} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{name}: line {number + 1} is not a JSON object")
        for key, value in row.items():
            columns.setdefault(key, [None] * number).append(_json_value(value))
        for values in columns.values():
            values += [None] * (number + 1 - len(values))
    form: dict[str, tuple[Any, str]] = {"kind": ("jsonl", "each line is a JSON object")}
    return Sample(path, name, form, list(columns), columns, {}, estimate.rows(data.count(b"\n")))


def _json_value(value: Any) -> Value:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return [str(_json_value(part)) for part in value]
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return None  # an object is not a feature


def _read_delimited(path: str, name: str, data: bytes, estimate: _Estimate) -> Sample:
    delimiter, reason = _delimiter(name, data)
    quoting = Quoting(delimiter, '"', None)
    found = quoting.records(data, final=estimate.whole)
    rows = []
    for start, end in zip(found.starts, found.ends, strict=True):
        if data[start:end].strip():
            rows.append([cell.decode("utf-8", "replace") for cell in quoting.cells(data[start:end])])
        if len(rows) > SAMPLE_ROWS:
            break
    if not rows:
        raise DataError(f"{name}: no row of text found; check that lines end in newlines")
    width = collections.Counter(map(len, rows)).most_common(1)[0][0]
    header, why = _header(rows, width)
    form: dict[str, tuple[Any, str]] = {"kind": ("delimited", ""), "delimiter": (delimiter, reason)}
    names = [cell.strip() for cell in rows[0]] if header else [f"column_{i}" for i in range(width)]
    if header:
        rows = rows[1:]
        if not rows:
            raise DataError(f"{name}: has a header and no rows; name a file with rows")
    else:
        form["header"] = (False, why)
    rows = [row for row in rows if len(row) == width]
    columns: dict[str, list[Value]] = {
        column: [row[i] if row[i] else None for row in rows] for i, column in enumerate(names[:width])
    }
    records = max(len(rows), len(found.starts) - int(header))
    return Sample(path, name, form, names, columns, {}, estimate.rows(records))


def _delimiter(name: str, data: bytes) -> tuple[str, str]:
    """The delimiter that cuts most of the first rows into the same number of columns, and why."""
    text = data[: MAX_LINE_BYTES * 2].decode("utf-8", "replace")
    lines = [line for line in text.split("\n")[:_ORDER_ROWS] if line.strip()]
    best: tuple[float, int, str] | None = None
    for delimiter in _DELIMITERS:
        quoting = Quoting(delimiter, '"', None)
        widths = collections.Counter(len(quoting.cells(line.encode())) for line in lines)
        width, times = widths.most_common(1)[0]
        if width > 1:
            # Blanks separate words of a text too, so they count less than any other delimiter.
            share = times / len(lines) - (0.2 if delimiter == " " else 0.0)
            if best is None or share > best[0] + 0.05:
                best = (share, width, delimiter)
    if best is None:
        raise DataError(f"{name}: no delimiter cuts its lines into columns; interactions have at least two")
    return best[2], f"cuts the first rows into {best[1]} columns"


def _header(rows: list[list[str]], width: int) -> tuple[bool, str]:
    """Whether the first row names the columns, and why."""
    first, others = rows[0], rows[1:]
    if len(first) != width or len(set(first)) != len(first) or not all(cell.strip() for cell in first):
        return False, "the first row looks like the others"
    if any(is_number(cell) for cell in first):
        return False, "the first row has numbers"
    for i in range(width):
        numbers = [is_number(row[i]) for row in others if len(row) == width and row[i]]
        if numbers and sum(numbers) > 0.9 * len(numbers):
            return True, "the first row has no numbers where the others have"
    seen = {cell for row in others for cell in row}
    if any(cell in seen for cell in first):
        return False, "values of the first row occur again"
    return True, "values of the first row do not occur again"


def is_number(text: str) -> bool:
    """Whether a text is a finite or infinite number in decimal notation."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _read_parquet(path: str, name: str, number: int) -> Sample:
    try:
        with open_file(name) as raw, parquet.ParquetFile(raw, pre_buffer=False) as file:
            rows = file.metadata.num_rows
            batch = next(file.iter_batches(SAMPLE_ROWS), None)
    except (pa.ArrowException, IndexError) as error:
        raise DataError(f"{name}: incomplete or broken Parquet file ({error})") from None
    if batch is None or not batch.num_rows:
        raise DataError(f"{name}: has no rows; name a file with rows")
    columns: dict[str, list[Value]] = {}
    types = {}
    for field, values in zip(batch.schema, batch.columns, strict=True):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        types[field.name] = kind
        columns[field.name] = [_parquet_value(value) for value in values]
    form: dict[str, tuple[Any, str]] = {"kind": ("parquet", "the file begins with PAR1")}
    return Sample(path, name, form, list(columns), columns, types, rows * number)


def _parquet_value(scalar: pa.Scalar) -> Value:
    try:
        value = scalar.as_py()
    except (ValueError, OverflowError, UnicodeDecodeError):
        return None
    if value is None or isinstance(value, dict):
        return None
    if isinstance(value, list):
        return [str(part) for part in value]
    return value if isinstance(value, str) else str(value)

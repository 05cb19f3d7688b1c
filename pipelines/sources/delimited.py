"""Delimited text through pyarrow.csv.

A block without faults needs one typed parse. A block with any fault is parsed again with every column as
text, after the records that would break the parse have been removed. Both parses interpret every value alike
(tests/pipelines/sources/test_sources_agreement.py), so a value never depends on the rest of its block.
"""

import functools
import re
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.csv as csv

from configs.errors import DataError
from configs.sections.sources import DelimitedSourceConfig
from pipelines.job import JobLayout
from pipelines.sources import lines, text
from pipelines.sources.lines import BOM, MAX_LINE_BYTES
from pipelines.sources.quoting import REASONS, Quoting, Records
from pipelines.sources.reader import Range, Reject, SourcePiece, wanted_columns
from pipelines.sources.text import Block

_KEYS = pa.dictionary(pa.int32(), pa.string())
_TYPES = {"number": pa.float64()} | dict.fromkeys(("key", "value", "split", "keys", "numbers"), _KEYS)
_OTHERS = {
    "comma": ",", "tab": "\t", "semicolon": ";", "bar": "|", "space": " ", "colon": ":",
    "two colons": "::", "control-A": "\x01",
}  # fmt: skip
_HEADER_COLUMNS = 100  # of which names are recognized in a header in the middle
_SAMPLE = 20  # records that are checked before the job starts
_STAND_INS = [bytes([code]) for code in (31, 30, 29, 28, *range(1, 9), *range(14, 28))]


class Reader(text.TextReader):
    """Reads delimited text."""

    config: DelimitedSourceConfig

    def __init__(self, config: DelimitedSourceConfig, layout: JobLayout):
        super().__init__(config, layout)
        self.header = config.header
        self._wanted = wanted_columns(config)
        self._types = self._column_types()
        self._quoting = Quoting(config.delimiter, config.quote, config.escape)
        # With escapes MySQL and Hive write missing values like this; Arrow would read an N.
        ends, escape = re.escape(self._quoting.delimiter), re.escape(self._quoting.escape or b"\\")
        self._null = re.compile(b"(?m)(^|" + ends + b")" + escape + b"N(?=" + ends + b"|\r?$)")
        before = [self._quoting.delimiter[-1], *(self._quoting.quote or b""), *b"\n\t "]
        self._begins_cell = np.isin(np.arange(256), before)

    def check(self, name: str, data: bytes) -> tuple[str, ...]:
        found = self._quoting.records(data, final=False)
        if not len(found.starts):
            found = self._quoting.records(data, final=True)
        rows = [data[a:b] for a, b in zip(found.starts[:_SAMPLE], found.ends[:_SAMPLE], strict=True)]
        rows = [row for row in rows if row.strip()]
        if not rows:
            raise DataError(f"{name}: the first lines are blank; remove them")
        line = rows[0].decode("utf-8", "replace")
        widths = [len(self._quoting.cells(row)) for row in rows]
        names = self._names(rows[0]) if self.header else tuple(self.config.columns)
        self._check_names(name, line, names)
        if self.header and len(widths) > 1 and {*widths[1:]} == {len(names) + 1}:
            if all(row.rstrip(b" \t").endswith(self._quoting.delimiter) for row in rows[1:]):
                names += ("",)  # every row ends in a delimiter, the header does not
        if not self.header and len(names) not in widths:  # a single odd line does not stop the job
            if {*widths} == {len(names) + 1} and all(not self._quoting.cells(row)[-1] for row in rows):
                return (*names, "")
            hint = self._delimiter_hint(line, len(names))
            raise DataError(
                f"{name}: the first line has {widths[0]} columns, {self.key}.columns names {len(names)}{hint}"
            )
        return names

    def _names(self, header: bytes) -> tuple[str, ...]:
        return tuple(cell.decode("utf-8", "replace").strip() for cell in self._quoting.cells(header))

    def _check_names(self, name: str, line: str, names: tuple[str, ...]) -> None:
        """Raises DataError: a wanted column is missing from a file, or occurs twice."""
        shown = text.shown(names)
        missing = [w.column for w in self._wanted if w.column not in names]
        if missing:
            where = "the header has" if self.header else f"{self.key}.columns has"
            hint = self._header_hint(line, names, missing[0]) if self.header else ""
            raise DataError(f"{name}: no column {missing[0]!r}; {where}: {shown}{hint}")
        if twice := [w.column for w in self._wanted if names.count(w.column) > 1]:
            raise DataError(f"{name}: duplicate column {twice[0]!r} in: {shown}; rename one")

    def _header_hint(self, line: str, names: tuple[str, ...], wanted: str) -> str:
        if line.startswith("{"):
            return f"; is {self.key}.kind jsonl?"
        for name in names:
            if name.lower() == wanted.lower():
                return f"; write {name!r} in {self.key}.{self.key_of_keys} or {self.key}.features"
        return self._delimiter_hint(line)

    def _delimiter_hint(self, line: str, columns: int | None = None) -> str:
        for name, other in _OTHERS.items():
            cells = len(line.split(other))
            if other != self.config.delimiter and (cells == columns if columns else cells > 1):
                return f"; is {self.key}.delimiter {other!r} ({name}) instead of {self.config.delimiter!r}?"
        return ""

    def blocks(self, part: Range, first_row: int, first_line: int) -> Iterator[Block]:
        if not self._quoting.states:
            yield from super().blocks(part, first_row, first_line)
        elif part.stop < 0:
            yield from self._stream_blocks(part, first_row, first_line)
        else:
            yield from self._range_block(part, first_row, first_line)

    def _stream_blocks(self, part: Range, first_row: int, first_line: int) -> Iterator[Block]:
        """Records of a file that is read from its beginning."""
        rest, is_first = b"", True
        for chunk in lines.stream_lines(part.path, self.layout.chunk_bytes):
            chunk, is_first = chunk.removeprefix(BOM) if is_first else chunk, False
            block, rest = self._cut(part, rest + chunk, first_row, first_line)
            block.own_lines = text.num_lines(chunk)
            yield block
            first_row += block.num_lines
            first_line += block.num_lines
        yield self._cut(part, rest, first_row, first_line, final=True)[0]

    def _range_block(self, part: Range, first_row: int, first_line: int) -> Iterator[Block]:
        """The records that begin in a range of bytes; the last one may end beyond it."""
        at, own = lines.read_lines(part.path, part.start, part.stop)
        end = at + len(own)
        own_lines = text.num_lines(own)
        own = own.removeprefix(BOM) if part.start == 0 else own
        after, begin = None, 0
        if part.start and own and self._quoting.continuations(own, final=False):
            after = lines.read_lines(part.path, end, end + MAX_LINE_BYTES)[1]
            begin = self._quoting.first_record(own + after, at, lambda size: self._before(part, at, size))
        skipped = own[:begin].count(b"\n")
        own, place = own[begin:], (first_row + skipped, first_line + skipped)
        block, rest = self._cut(part, own, *place)
        if rest:
            after = lines.read_lines(part.path, end, end + MAX_LINE_BYTES)[1] if after is None else after
            block = self._cut(part, own + after, *place, final=True, stop=len(own))[0]
        block.own_lines = own_lines
        yield block

    def _before(self, part: Range, at: int, size: int) -> bytes:
        """Whole lines that begin within the `size` bytes before a line."""
        start, data = lines.read_lines(part.path, max(0, at - size), at)
        return data if start else data.removeprefix(BOM)

    def _cut(
        self, part: Range, data: bytes, first_row: int, first_line: int, final: bool = False, stop: int = -1
    ) -> tuple[Block, bytes]:
        """Records that begin before `stop`, and trailing lines that need more text to be complete."""
        rest, records = b"", None
        if self._quoting.may_span(data):
            records = self._quoting.records(data, final)
            kept = int(np.searchsorted(records.starts, stop)) if stop >= 0 else len(records.starts)
            end = len(data) if records.open_at is None else records.open_at
            if kept < len(records.starts):
                end = int(records.starts[kept])
            data, rest = data[:end], data[end:]
            starts, ends, numbers, faults, _ = records
            records = Records(starts[:kept], ends[:kept], numbers[:kept], faults[:kept], None)
        return Block(part.path, data, first_row, first_line, part.columns, records), rest

    def parse(self, block: Block) -> SourcePiece:
        table = self._parse_typed(block)
        if table is not None:
            return self._piece(block, table, np.arange(table.num_rows), [])
        good, rejects = self._screen(block)
        table, kept = self._parse_text(block, good, rejects)
        return self._piece(block, table, kept, sorted(rejects))

    def _parse_typed(self, block: Block) -> pa.Table | None:
        """All records with their expected types; None if any is blank or has a fault."""
        data = block.data
        if block.records is not None and block.records.faults.any():
            return None
        if b"\0" in data or self._holds_odd_numbers(data) or block.has_long_record():
            return None
        if data.count(b"\r") != data.count(b"\r\n"):
            return None  # Arrow treats a lone carriage return as a line end
        try:
            table = self._read(data, block.columns, self._types)
        except pa.ArrowInvalid:
            return None
        return table if table.num_rows == block.num_records else None

    def _holds_odd_numbers(self, data: bytes) -> bool:
        """Whether a cell may begin like text that only Arrow reads as a number, such as 0x1f and nan(1)."""
        if b"x" in data or b"X" in data:
            array = np.frombuffer(data, np.uint8)
            places = np.flatnonzero((array | 32) == ord("x"))
            places = places[array[places - 1] == ord("0")]
            if len(places) and (places[0] == 1 or self._begins_cell[array[places - 2]].any()):
                return True
        return b"(" in data and b"nan(" in data.lower()

    def _screen(self, block: Block) -> tuple[np.ndarray, list[Reject]]:
        """Records that Arrow can parse, int64 [good], and rejects; blank lines are neither."""
        starts, ends = block.bounds
        reasons = {}
        if block.records is not None:
            faults = block.records.faults
            reasons = {int(i): REASONS[int(faults[i])] for i in np.flatnonzero(faults)}
        array = np.frombuffer(block.data, np.uint8)
        for i in np.flatnonzero(_count_in(np.flatnonzero(array == 13), starts, ends)).tolist():
            if self._quoting.has_bare_return(block.data[starts[i] : ends[i]]):
                reasons.setdefault(i, "stray_carriage_return")
        for i in np.flatnonzero(_count_in(np.flatnonzero(array == 0), starts, ends)).tolist():
            reasons.setdefault(i, "nul_byte")
        for i in np.flatnonzero(ends - starts > MAX_LINE_BYTES).tolist():
            reasons[i] = "line_too_long"
        if not _is_utf8(block.data):
            for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
                record = block.data[start:end]
                if i not in reasons and record.strip() and not _is_utf8(record):
                    # Arrow cannot report such a record if its number of columns is wrong too.
                    if len(self._quoting.cells(record)) != len(block.columns):
                        reasons[i] = "wrong_column_count"
        good = np.ones(len(starts), bool)
        good[list(reasons)] = False
        # If blanks are delimiters, a blank line has cells.
        strip = None if self.config.delimiter.strip() else b""
        for i in np.flatnonzero(good & (ends - starts < 100)).tolist():
            good[i] = bool(block.data[starts[i] : ends[i]].strip(strip))
        return np.flatnonzero(good), [block.reject(i, reason) for i, reason in reasons.items()]

    def _parse_text(
        self, block: Block, good: np.ndarray, rejects: list[Reject]
    ) -> tuple[pa.Table, np.ndarray]:
        """Parses records as text; appends to `rejects`. Returns the table and its records, int64 [rows]."""
        starts, ends = block.bounds
        data = b"\n".join(block.data[a:b] for a, b in zip(starts[good], ends[good], strict=True))
        wrong: list[int] = []

        def note(row: csv.InvalidRow) -> str:
            wrong.append(row.number - 1)
            return "skip"

        table = self._read(data, block.columns, {name: pa.binary() for name in self._types}, note)
        if table.num_rows + len(wrong) != len(good):
            raise RuntimeError(f"{block.path}: {len(good)} records became {table.num_rows} rows")
        rejects += [block.reject(i, "wrong_column_count") for i in good[wrong]]
        good = np.delete(good, wrong)
        columns, bad = {}, np.zeros(len(good), bool)
        for name in table.column_names:
            columns[name], invalid = text.decode(_only(table[name]))
            bad |= invalid
        rejects += [block.reject(i, "not_utf8") for i in good[bad]]
        return pa.table(columns).filter(pa.array(~bad)), good[~bad]

    def _read(
        self,
        data: bytes,
        columns: tuple[str, ...],
        types: dict[str, pa.DataType],
        handler: Callable[[csv.InvalidRow], str] | None = None,
    ) -> pa.Table:
        if not data.endswith(b"\n"):
            data += b"\n"  # so that an open quote means the same at the end of a block as inside it
        if data == b"\n":
            return pa.table({name: pa.array([], kind) for name, kind in types.items()})
        if escape := self._quoting.escape:
            data = data.replace(escape + b"\r\n", escape + b"\n")  # Arrow would escape only the first half
            if f"{self.config.escape}N" in self.config.nulls and escape + b"N" in data:
                data = self._null.sub(rb"\1", data)
        delimiter = self.config.delimiter
        if len(self._quoting.delimiter) > 1:
            delimiter = next(code for code in _STAND_INS if code not in data).decode()
            data = data.replace(self._quoting.delimiter, delimiter.encode())
        table = csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(column_names=columns, use_threads=False, block_size=len(data) + 1),
            csv.ParseOptions(
                delimiter=delimiter,
                quote_char=self.config.quote or False,
                escape_char=self.config.escape or False,
                invalid_row_handler=handler,
            ),
            csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
            ),
        )
        if delimiter != self.config.delimiter and self._quoting.quote and self._quoting.quote in data:
            table = _put_back(table, delimiter, self.config.delimiter)
        return table

    def _column_types(self) -> dict[str, pa.DataType]:
        """Arrow type of each column in the typed parse; text if two roles need different types."""
        types: dict[str, pa.DataType] = {}
        for wanted in self._wanted:
            kind = _TYPES.get(wanted.kind)
            if kind is None:
                kind = pa.string() if self.config.timestamp_unit == "iso8601" else pa.int64()
            types[wanted.column] = kind if types.get(wanted.column, kind) == kind else pa.string()
        return types

    def _piece(self, block: Block, table: pa.Table, kept: np.ndarray, rejects: list[Reject]) -> SourcePiece:
        """The rows of a table without repeated headers."""
        table = table.combine_chunks()
        headers = self._header_rows(block, table, kept)
        if len(headers):
            table, kept = table.take(np.delete(np.arange(len(kept)), headers)), np.delete(kept, headers)
        piece = block.piece({w.name: _only(table[w.column]) for w in self._wanted}, kept, rejects)
        piece.notes["repeated_header"] += len(headers)
        return piece

    def _header_rows(self, block: Block, table: pa.Table, kept: np.ndarray) -> np.ndarray:
        """Rows (int64) that repeat the header in letters of any case, as in files concatenated with their
        headers.

        Raises:
          DataError: one has the columns in another order, so that the rows after it would be misread.
        """
        forms, names = _header_forms((*table.column_names, *block.columns[:_HEADER_COLUMNS]))
        found, own = np.ones(table.num_rows, bool), np.ones(table.num_rows, bool)
        for name in table.column_names:
            values = _only(table[name])
            if not pa.types.is_dictionary(values.type) and not pa.types.is_string(values.type):
                return np.zeros(0, np.int64)
            places = _places_in(forms, values)
            found &= places >= 0
            if not found.any():
                return np.zeros(0, np.int64)
            own &= names[places] == name.casefold()
        others = np.flatnonzero(found & ~own)
        if len(others) and len(table.column_names) > 2:  # two names may be two keys
            line = block.first_line + int(block.lines(kept[others[:1]])[0])
            raise DataError(
                f"{block.path}:{line}: a header in the middle has the columns in another order "
                f"({block.raw(int(kept[others[0]]))[:100]!r}); make the lines from there a file of their own"
            )
        return np.flatnonzero(found & own)


@functools.lru_cache(maxsize=8)
def _header_forms(columns: tuple[str, ...]) -> tuple[pa.Array, np.ndarray]:
    """Spellings of column names in a repeated header, and the name (str, casefolded) that each spells."""
    names: dict[str, str] = {}
    for name in columns:
        for spelling in (name, name.lower(), name.upper(), name.title()):
            for form in ("{}", " {}", "{} ", "\ufeff{}", '\ufeff"{}"'):
                names.setdefault(form.format(spelling), name.casefold())
    return pa.array(list(names)), np.array(list(names.values()))


def _places_in(forms: pa.Array, values: pa.Array) -> np.ndarray:
    """Index in `forms` of each value, int64 [values]; -1 where it is none of them."""
    is_dictionary = pa.types.is_dictionary(values.type)
    texts = values.dictionary if is_dictionary else values
    places = compute.index_in(texts, forms).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return places[values.indices.to_numpy(zero_copy_only=False)] if is_dictionary else places


def _is_utf8(data: bytes) -> bool:
    return text.decode_one(data) is not None


def _put_back(table: pa.Table, stand_in: str, delimiter: str) -> pa.Table:
    """Restores delimiters of several characters inside quoted values."""
    for i, field in enumerate(table.schema):
        values = table[i]
        if pa.types.is_dictionary(field.type):
            values = values.cast(pa.string())
        if pa.types.is_string(values.type) or pa.types.is_binary(values.type):
            kind = values.type
            values = compute.replace_substring(values, pattern=stand_in, replacement=delimiter)
            values = values.cast(kind)
            if pa.types.is_dictionary(field.type):
                values = values.dictionary_encode()
            table = table.set_column(i, field.name, values)
    return table


def _only(values: pa.ChunkedArray) -> pa.Array:
    return values.chunk(0) if values.num_chunks else pa.array([], values.type)


def _count_in(positions: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Number of sorted positions in each [start, end)."""
    return np.searchsorted(positions, ends) - np.searchsorted(positions, starts)

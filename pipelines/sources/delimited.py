"""Delimited text through pyarrow.csv.

Blocks without a fault take one typed parse. A block with any fault is parsed again with every column as
bytes, after the lines that would break the parse were taken out, so that good rows always mean the same.
"""

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

from configs.errors import DataError
from pipelines.sources import text
from pipelines.sources.reader import Piece, wanted_columns
from pipelines.sources.text import Block

_KEYS = pa.dictionary(pa.int32(), pa.string())
_OTHERS = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|", "space": " ", "colons": ":"}


class Reader(text.TextReader):
    """Reads delimited text."""

    def __init__(self, config, layout):
        super().__init__(config, layout)
        self.header = config.header
        self._wanted = wanted_columns(config.roles, config.features)
        self._types = self._column_types()

    def check(self, name: str, lines: list[str]) -> tuple[str, ...]:
        line = lines[0]
        names = tuple(self._cells(line)) if self.header else tuple(self.config.columns)
        missing = [w.column for w in self._wanted if w.column not in names]
        if missing:
            where = "the header has" if self.header else "source.columns has"
            hint = self._header_hint(line, names, missing[0]) if self.header else ""
            raise DataError(f"{name}: no column {missing[0]!r}; {where}: {', '.join(names)}{hint}")
        twice = [w.column for w in self._wanted if names.count(w.column) > 1]
        if twice:
            raise DataError(f"{name}: column {twice[0]!r} stands twice in: {', '.join(names)}; rename one")
        found = {len(self._cells(other)) for other in lines}
        if not self.header and len(names) not in found:  # a single odd line is no reason to stop
            hint = self._delimiter_hint(line, len(names))
            raise DataError(
                f"{name}: {len(self._cells(line))} columns in the first line, "
                f"source.columns names {len(names)}{hint}"
            )
        return names

    def _cells(self, line: str) -> list[str]:
        cells = line.split(self.config.delimiter)
        quote = self.config.quote
        return [c[1:-1] if quote and len(c) > 1 and c[0] == c[-1] == quote else c for c in cells]

    def _header_hint(self, line: str, names: tuple[str, ...], wanted: str) -> str:
        if line.startswith("{"):
            return "; is source.kind jsonl?"
        for name in names:
            if name.strip() == wanted:
                return f"; {name!r} is not {wanted!r}: take the spaces out of the file"
        return self._delimiter_hint(line)

    def _delimiter_hint(self, line: str, columns: int | None = None) -> str:
        for name, other in _OTHERS.items():
            cells = len(line.split(other))
            if other != self.config.delimiter and (cells == columns if columns else cells > 1):
                return f"; is source.delimiter {other!r} ({name}) and not {self.config.delimiter!r}?"
        return ""

    def parse(self, block: Block) -> Piece:
        table = self._parse_typed(block)
        if table is not None:
            return block.piece(self._by_name(table), np.arange(table.num_rows), [])
        good, rejects = self._screen(block)
        table, kept = self._parse_lines(block, good, rejects)
        return block.piece(self._by_name(table), kept, sorted(rejects))

    def _parse_typed(self, block: Block) -> pa.Table | None:
        """All lines with their expected types, or None when any line has a fault or is blank."""
        if block.data.count(b"\r") != block.data.count(b"\r\n"):
            return None  # Arrow takes a lone carriage return for a line end
        try:
            table = self._read(block.data, block.columns, self._types)
        except pa.ArrowInvalid:
            return None
        return table if table.num_rows == block.num_lines else None

    def _screen(self, block: Block) -> tuple[np.ndarray, list]:
        """Lines that Arrow may see, int64 [good], and rejects; blank lines are neither."""
        starts, ends = block.bounds
        data = np.frombuffer(block.data, np.uint8)
        faults = np.zeros(len(starts), np.int8)
        if self.config.quote:
            quotes = _count_in(np.flatnonzero(data == ord(self.config.quote)), starts, ends)
            faults[quotes % 2 == 1] = 1
        faults[_count_in(np.flatnonzero(data == 13), starts, ends) > 0] = 2
        for line in np.flatnonzero(_count_in(np.flatnonzero(data > 127), starts, ends)):
            try:
                block.data[starts[line] : ends[line]].decode()
            except UnicodeDecodeError:
                faults[line] = 3
        reasons = {1: "unbalanced_quote", 2: "stray_carriage_return", 3: "not_utf8"}
        rejects = [block.reject(line, reasons[int(faults[line])]) for line in np.flatnonzero(faults)]
        return np.flatnonzero((faults == 0) & (ends > starts)), rejects

    def _parse_lines(self, block: Block, good: np.ndarray, rejects: list) -> tuple[pa.Table, np.ndarray]:
        """Parses some lines as text; appends to `rejects`. Returns the table and its lines, int64 [rows]."""
        starts, ends = block.bounds
        data = b"\n".join(block.data[a:b] for a, b in zip(starts[good], ends[good], strict=True))
        wrong = []

        def note(row) -> str:
            wrong.append(row.number - 1)
            return "skip"

        types = {name: pa.string() for name in self._types}
        table = self._read(data, block.columns, types, note)
        if table.num_rows + len(wrong) == len(good):
            rejects += [block.reject(line, "wrong_column_count") for line in good[wrong]]
            return table, np.delete(good, wrong)
        # A quote that opens late swallowed the lines after it: halve until it stands alone.
        if len(good) == 1:
            rejects.append(block.reject(good[0], "unbalanced_quote"))
            return table.slice(0, 0), good[:0]
        middle = len(good) // 2
        halves = [self._parse_lines(block, half, rejects) for half in (good[:middle], good[middle:])]
        return pa.concat_tables([h[0] for h in halves]), np.concatenate([h[1] for h in halves])

    def _read(self, data: bytes, columns: tuple, types: dict, handler=None) -> pa.Table:
        if not data.endswith(b"\n"):
            data += b"\n"  # an open quote must mean the same at the end of a block as inside it
        if data == b"\n":
            return pa.table({name: pa.array([], kind) for name, kind in types.items()})
        return csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(column_names=columns, use_threads=False, block_size=len(data) + 1),
            csv.ParseOptions(
                delimiter=self.config.delimiter,
                quote_char=self.config.quote or False,
                invalid_row_handler=handler,
            ),
            csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
            ),
        )

    def _column_types(self) -> dict[str, pa.DataType]:
        """Arrow type of each column in the typed parse; text when two roles want different types."""
        types = {}
        for wanted in self._wanted:
            kind = {"key": _KEYS, "split": _KEYS, "number": pa.float64()}.get(wanted.kind)
            if kind is None:
                kind = pa.string() if self.config.timestamp_unit == "iso8601" else pa.int64()
            types[wanted.column] = kind if types.get(wanted.column, kind) == kind else pa.string()
        return types

    def _by_name(self, table: pa.Table) -> dict[str, pa.Array]:
        table = table.combine_chunks()
        return {w.name: _only(table[w.column]) for w in self._wanted}


def _only(chunked: pa.ChunkedArray) -> pa.Array:
    return chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)


def _count_in(positions: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Number of sorted positions in each [start, end)."""
    return np.searchsorted(positions, ends) - np.searchsorted(positions, starts)

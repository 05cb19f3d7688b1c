"""What delimited text and JSON lines share: files that are cut into byte ranges at line ends."""

import abc
import dataclasses
import functools
from collections.abc import Collection, Generator, Iterator

import numpy as np
import pyarrow as pa

from configs.sections.sources import FileSourceConfig
from pipelines.sources import lines
from pipelines.sources.identity import SourceFile, each
from pipelines.sources.lines import BOM, MAX_LINE_BYTES
from pipelines.sources.listing import files
from pipelines.sources.quoting import Records, line_bounds
from pipelines.sources.reader import Range, Reader, Reject, SourcePiece

_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_BYTES_PER_ROW = 20  # of a short text row; only used for the sizes of a job
RAW_CHARACTERS = 500  # kept of a rejected row


def num_lines(data: bytes) -> int:
    """Number of lines, the last with or without its newline."""
    return data.count(b"\n") + int(not data.endswith(b"\n") and bool(data))


@dataclasses.dataclass
class Block:
    """Whole records of one file."""

    path: str
    data: bytes
    first_row: int
    """Global row number of the first line; a record has the number of its first line."""
    first_line: int
    """Its line number in the file, from 1."""
    columns: tuple[str, ...]
    """Names of columns for delimited text."""
    records: Records | None = None
    """Where records begin and end; None: each line is one."""
    own_lines: int = 0
    """Lines of the range that were read, to compare with the number that was counted."""

    @functools.cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """First byte, and end without newline and carriage return, of each record: int64 [records] each."""
        return line_bounds(self.data) if self.records is None else self.records[:2]

    @property
    def num_lines(self) -> int:
        return num_lines(self.data)

    @property
    def num_records(self) -> int:
        return self.num_lines if self.records is None else len(self.records.starts)

    def has_long_record(self) -> bool:
        """Whether some record may be longer than MAX_LINE_BYTES; False is certain."""
        if self.records is not None:
            return bool((self.records.ends - self.records.starts > MAX_LINE_BYTES).any())
        half = MAX_LINE_BYTES // 2
        places = range(0, len(self.data) - half, half)
        return any(self.data.find(b"\n", place, place + half) < 0 for place in places)

    def lines(self, records: np.ndarray) -> np.ndarray:
        """Number in this block of the first line of each record (int64)."""
        return records if self.records is None else self.records.lines[records]

    def raw(self, record: int) -> str:
        """Text of a record, truncated."""
        starts, ends = self.bounds
        data = self.data[starts[record] : min(ends[record], starts[record] + 4 * RAW_CHARACTERS)]
        return data.decode("utf-8", "backslashreplace")[:RAW_CHARACTERS]

    def reject(self, record: int, reason: str) -> Reject:
        """A Reject for a record."""
        line = int(self.lines(np.array([record]))[0])
        return Reject(self.first_row + line, self.path, self.first_line + line, reason, self.raw(record))

    def piece(self, columns: dict[str, pa.Array], kept: np.ndarray, rejects: list[Reject]) -> SourcePiece:
        """A piece with the records `kept` (int64 indices in this block) and their `columns`."""
        places = self.lines(kept)
        return SourcePiece(
            columns=columns,
            rows=self.first_row + places,
            lines=self.first_line + places,
            path=self.path,
            raw=lambda i: self.raw(kept[i]),
            rejects=rejects,
        )


class TextReader(Reader):
    """Reads lines; a sub-class parses them."""

    config: FileSourceConfig
    header = False

    @functools.cache  # noqa: B019 - a reader lives as long as its job
    def files(self) -> list[SourceFile]:
        return files.list_files(self.config.paths, f"{self.key}.paths")

    def estimated_rows(self) -> int:
        # Names suffice here: the estimate only determines the sizes of the job.
        sizes = (f.size * (4 if f.name.lower().endswith(_PACKED) else 1) for f in self.files())
        return sum(sizes) // _BYTES_PER_ROW

    def ranges(self) -> list[Range]:
        ranges: list[Range] = []
        for file, (columns, cut) in zip(self.files(), each(self._look, self.files()), strict=True):
            step = self.layout.chunk_bytes if cut else file.size
            for start in range(0, file.size, step):
                stop = min(start + step, file.size) if cut else -1
                header = self.header and start == 0
                ranges.append(Range(len(ranges), file.name, start, stop, header, columns, file.version))
        return ranges

    def _look(self, file: SourceFile) -> tuple[tuple[str, ...], bool]:
        """Column names of a file, and whether it can be cut."""
        return self.check(file.name, lines.first_lines(file.name)), lines.can_cut(file.name)

    def count(self, part: Range) -> int:
        if part.stop < 0:
            blocks = lines.stream_lines(part.path, self.layout.chunk_bytes)
            return sum(map(num_lines, blocks))
        return lines.count_lines(part.path, part.start, part.stop)

    def read(self, part: Range, first_row: int, first_line: int) -> Generator[SourcePiece, None, int]:
        header, count = part.header, 0
        for block in self.blocks(part, first_row - header, first_line):  # a header line is not a row
            count += block.own_lines
            if header and block.data:
                block, header = _without_header(block), False
            if block.data:
                yield self.parse(block)
        return count

    def blocks(self, part: Range, first_row: int, first_line: int) -> Iterator[Block]:
        """The lines of a range, each a record."""
        if part.stop < 0:
            chunks = lines.stream_lines(part.path, self.layout.chunk_bytes)
        else:
            chunks = iter([lines.read_lines(part.path, part.start, part.stop)[1]])
        for number, data in enumerate(chunks):
            own_lines = num_lines(data)
            if part.start == 0 and number == 0:
                data = data.removeprefix(BOM)
            block = Block(part.path, data, first_row, first_line, part.columns)
            block.own_lines = own_lines
            yield block
            first_row += block.num_lines
            first_line += block.num_lines

    @abc.abstractmethod
    def check(self, name: str, data: bytes) -> tuple[str, ...]:
        """Checks a file's first lines and returns its column names. Raises DataError."""

    @abc.abstractmethod
    def parse(self, block: Block) -> SourcePiece:
        """Parses whole records."""


def shown(names: Collection[str]) -> str:
    """Column names for a message of one line."""
    line = ", ".join(names)
    line = line if len(line) <= 1000 else f"{line[:1000]}... ({len(names)} columns)"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _without_header(block: Block) -> Block:
    """The records after the first that is not blank."""
    starts, ends = block.bounds
    blank = np.array([not block.data[a:b].strip() for a, b in zip(starts[:100], ends[:100], strict=True)])
    first = int(np.argmin(blank)) + 1 if not blank.all() else len(starts)
    cut, skipped = len(block.data), block.num_lines
    if first < len(starts):
        cut, skipped = int(starts[first]), int(block.lines(np.array([first]))[0])
    records = block.records
    if records is not None:
        records = Records(
            records.starts[first:] - cut,
            records.ends[first:] - cut,
            records.lines[first:] - skipped,
            records.faults[first:],
            None,
        )
    place = block.first_row + skipped, block.first_line + skipped
    return Block(block.path, block.data[cut:], *place, block.columns, records)


def decode(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Bytes as text (null if not UTF-8), and bool [n] of where they are not UTF-8."""
    try:
        return values.cast(pa.string()), np.zeros(len(values), bool)
    except pa.ArrowInvalid:
        decoded = [None if v is None else decode_one(v) for v in values.to_pylist()]
        bad = [d is None and v.is_valid for d, v in zip(decoded, values, strict=True)]
        return pa.array(decoded, pa.string()), np.array(bad)


def decode_one(value: bytes) -> str | None:
    """Bytes as text; None: they are not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None

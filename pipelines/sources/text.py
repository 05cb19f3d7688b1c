"""What delimited text and JSON lines share: files cut into byte ranges at line ends."""

import abc
import dataclasses
import functools
from collections.abc import Generator, Iterator

import numpy as np

from pipelines.sources import files, lines
from pipelines.sources.compression import can_cut
from pipelines.sources.identity import SourceFile, each
from pipelines.sources.reader import Piece, Range, Reader, Reject

_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_BYTES_PER_ROW = 20  # of a short text row; only sizes a job
_BOM = b"\xef\xbb\xbf"
RAW_CHARACTERS = 500  # kept of a refused row


@dataclasses.dataclass
class Block:
    """Whole lines of one file."""

    path: str
    data: bytes
    first_row: int
    """Global number of the first line's row."""
    first_line: int
    """Its line number in the file, from 1."""
    columns: tuple[str, ...]
    """Names of columns for delimited text."""

    @functools.cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """First byte, and end without newline and carriage return, of each line: int64 [lines] each."""
        data = np.frombuffer(self.data, np.uint8)
        ends = np.flatnonzero(data == 10)
        if len(data) and data[-1] != 10:
            ends = np.append(ends, len(data))
        starts = np.r_[0, ends[:-1] + 1][: len(ends)]
        returns = (ends > starts) & (data[np.maximum(ends - 1, 0)] == 13)
        return starts, ends - returns

    @property
    def num_lines(self) -> int:
        return self.data.count(b"\n") + int(not self.data.endswith(b"\n") and bool(self.data))

    def raw(self, line: int) -> str:
        """Text of a line, truncated."""
        starts, ends = self.bounds
        data = self.data[starts[line] : min(ends[line], starts[line] + 4 * RAW_CHARACTERS)]
        return data.decode("utf-8", "backslashreplace")[:RAW_CHARACTERS]

    def reject(self, line: int, reason: str) -> Reject:
        """Refuses a line."""
        line = int(line)
        return Reject(self.first_row + line, self.path, self.first_line + line, reason, self.raw(line))

    def piece(self, columns: dict, kept: np.ndarray, rejects: list[Reject]) -> Piece:
        """A piece of the lines `kept` (int64 indices in this block), in which `columns` were found."""
        return Piece(
            columns=columns,
            rows=self.first_row + kept,
            lines=self.first_line + kept,
            path=self.path,
            raw=lambda i: self.raw(kept[i]),
            rejects=rejects,
        )


class TextReader(Reader):
    """Reads lines; a sub-class parses them."""

    header = False

    @functools.cache  # noqa: B019 - a reader lives as long as its job
    def files(self) -> list[SourceFile]:
        return files.list_files(self.config.paths)

    def estimated_rows(self) -> int:
        # Names are good enough here: the estimate only sizes the job.
        sizes = (f.size * (4 if f.name.lower().endswith(_PACKED) else 1) for f in self.files())
        return sum(sizes) // _BYTES_PER_ROW

    def ranges(self) -> list[Range]:
        ranges = []
        for file, (columns, cuts) in zip(self.files(), each(self._look, self.files()), strict=True):
            for start, stop in cuts:
                header = self.header and start == 0
                ranges.append(Range(len(ranges), file.name, start, stop, header, columns, file.version))
        return ranges

    def _look(self, file: SourceFile) -> tuple[tuple[str, ...], list[tuple[int, int]]]:
        """Column names of a file and the ranges of its bytes."""
        cuts = [(0, -1)]  # what is compressed cannot be entered in the middle
        if can_cut(file.name):
            step = self.layout.chunk_bytes
            cuts = [(start, min(start + step, file.size)) for start in range(0, file.size, step)]
        return self.check(file.name, lines.first_lines(file.name)), cuts

    def count(self, part: Range) -> int:
        if part.stop < 0:
            blocks = lines.stream_lines(part.path, self.layout.chunk_bytes)
            return sum(Block("", data, 0, 0, ()).num_lines for data in blocks)
        return lines.count_lines(part.path, part.start, part.stop)

    def read(self, part: Range, first_row: int, first_line: int) -> Generator[Piece, None, int]:
        header, start_line = part.header, first_line
        for data in self._data(part):
            if part.start == 0 and data.startswith(_BOM):
                data = data[len(_BOM) :]
            if header:
                data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
                first_line += 1
                header = False
            block = Block(part.path, data, first_row, first_line, part.columns)
            if data:
                yield self.parse(block)
            first_row += block.num_lines
            first_line += block.num_lines
        return first_line - start_line

    def _data(self, part: Range) -> Iterator[bytes]:
        if part.stop < 0:
            yield from lines.stream_lines(part.path, self.layout.chunk_bytes)
        elif data := lines.read_lines(part.path, part.start, part.stop):
            yield data

    @abc.abstractmethod
    def check(self, name: str, lines: list[str]) -> tuple[str, ...]:
        """Looks at a file's first lines; returns its column names. Raises DataError."""

    @abc.abstractmethod
    def parse(self, block: Block) -> Piece:
        """Parses whole lines."""

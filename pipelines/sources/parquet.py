"""Parquet files, by row groups."""

import contextlib
import functools
from collections.abc import Generator, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from configs.errors import DataError
from configs.sections.sources import ParquetSourceConfig
from pipelines.job import JobLayout
from pipelines.sources import reader
from pipelines.sources.compression import compression_of, foreign_format, open_file, read_head
from pipelines.sources.identity import SourceFile, each
from pipelines.sources.listing import files
from pipelines.sources.parquet_types import convert, problem, row_text
from pipelines.sources.reader import Range, SourcePiece, wanted_columns

_SHOWN = 50  # columns in a message


class Reader(reader.Reader):
    """Reads Parquet."""

    config: ParquetSourceConfig

    def __init__(self, config: ParquetSourceConfig, layout: JobLayout):
        super().__init__(config, layout)
        self._wanted = wanted_columns(config)

    @functools.cache  # noqa: B019 - a reader lives as long as its job
    def files(self) -> list[SourceFile]:
        return files.list_files(self.config.paths, f"{self.key}.paths")

    def estimated_rows(self) -> int:
        return sum(rows for groups in self._groups() for rows in groups)

    def ranges(self) -> list[Range]:
        ranges: list[Range] = []
        for file, groups in zip(self.files(), self._groups(), strict=True):
            for group in range(len(groups)):
                ranges.append(Range(len(ranges), file.name, group, group + 1, version=file.version))
        return ranges

    @functools.cache  # noqa: B019
    def _groups(self) -> list[list[int]]:
        """Rows of each row group of each file."""
        groups = each(self._check, [file.name for file in self.files()])
        if not any(sum(rows) for rows in groups):
            raise DataError(f"{', '.join(self.config.paths)}: no rows in any file; check {self.key}.paths")
        return groups

    def _check(self, name: str) -> list[int]:
        """Rows of each row group of a file.

        Raises:
          DataError: it is not Parquet, or columns are missing, duplicate, or have an unusable type.
        """
        with _opened(name) as file:
            schema, metadata = file.schema_arrow, file.metadata
        missing = [w.column for w in self._wanted if w.column not in schema.names]
        if missing:
            names = ", ".join(map(repr, dict.fromkeys(missing)))
            raise DataError(f"{name}: no column {names}; the file has: {_listed(schema.names)}")
        for wanted in self._wanted:
            if schema.names.count(wanted.column) > 1:
                raise DataError(
                    f"{name}: duplicate column {wanted.column!r} in: {_listed(schema.names)}; rename one"
                )
            if what := problem(wanted, schema.field(wanted.column).type):
                raise DataError(f"{name}: {what}")
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def count(self, part: Range) -> int:
        with _opened(part.path) as file:
            return file.metadata.row_group(part.start).num_rows if part.start < file.num_row_groups else 0

    def read(self, part: Range, first_row: int, first_line: int) -> Generator[SourcePiece, None, int]:
        names = list(dict.fromkeys(w.column for w in self._wanted))
        start_row = first_row
        with _opened(part.path) as file:
            batches = file.iter_batches(
                self.layout.chunk_rows, row_groups=[part.start], columns=names, use_threads=False
            )
            for batch in batches:
                yield self._piece(batch, part.path, first_row, first_line)
                first_row += batch.num_rows
                first_line += batch.num_rows
        return first_row - start_row

    def _piece(self, batch: pa.RecordBatch, path: str, first_row: int, first_line: int) -> SourcePiece:
        place = np.arange(batch.num_rows)
        return SourcePiece(
            columns={w.name: convert(batch.column(w.column), w) for w in self._wanted},
            rows=first_row + place,
            lines=first_line + place,
            path=path,
            raw=functools.partial(row_text, batch),
        )


@contextlib.contextmanager
def _opened(name: str) -> Iterator[parquet.ParquetFile]:
    """An open file. Raises DataError: it is not Parquet, or broken; also when reading inside the block."""
    with open_file(name) as raw:
        try:
            with parquet.ParquetFile(raw, pre_buffer=False) as file:
                yield file
        except (pa.ArrowException, OSError, IndexError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the data
                raise
            raise DataError(f"{name}: incomplete or broken Parquet file ({_what(name, error)})") from None


def _what(name: str, error: Exception) -> str:
    head = read_head(name)
    if head.startswith(b"PAR1"):
        return f"{str(error).splitlines()[0]}; write it again"
    if packed := compression_of(head):
        return f"it is compressed with {packed}; decompress it"
    what = foreign_format(head) or f"unknown data, beginning with {head[:16]!r}; check source.kind"
    return f"it contains {what}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

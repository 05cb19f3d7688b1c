"""Parquet files, by row groups."""

import functools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from configs.errors import DataError
from pipelines.sources import files, reader
from pipelines.sources.reader import Piece, Range, Wanted, wanted_columns
from pipelines.sources.text import RAW_CHARACTERS


class Reader(reader.Reader):
    """Reads Parquet."""

    def __init__(self, config, layout):
        super().__init__(config, layout)
        self._wanted = wanted_columns(config.roles, config.features)

    @functools.cache  # noqa: B019 - a reader lives as long as its job
    def files(self) -> list[tuple[str, int]]:
        return files.list_files(self.config.paths)

    def estimated_rows(self) -> int:
        return sum(rows for groups in self._groups() for rows in groups)

    def ranges(self) -> list[Range]:
        ranges = []
        for (name, _), groups in zip(self.files(), self._groups(), strict=True):
            for group in range(len(groups)):
                ranges.append(Range(len(ranges), name, group, group + 1))
        return ranges

    @functools.cache  # noqa: B019
    def _groups(self) -> list[list[int]]:
        """Rows of each row group of each file."""
        with ThreadPoolExecutor(16) as pool:
            groups = list(pool.map(self._check, [name for name, _ in self.files()]))
        if not any(sum(rows) for rows in groups):
            raise DataError(f"{', '.join(self.config.paths)}: no rows in any file; check source.paths")
        return groups

    def _check(self, name: str) -> list[int]:
        """Rows of each row group of a file. Raises DataError: no Parquet, or columns are missing."""
        try:
            with fsspec.open(name, "rb") as file, parquet.ParquetFile(file) as opened:
                schema, metadata = opened.schema_arrow, opened.metadata
        except pa.ArrowInvalid as error:
            raise DataError(f"{name}: not a Parquet file ({str(error).splitlines()[0]})") from None
        missing = [w.column for w in self._wanted if w.column not in schema.names]
        if missing:
            raise DataError(f"{name}: no column {missing[0]!r}; the file has: {', '.join(schema.names)}")
        for wanted in self._wanted:
            kind = schema.field(wanted.column).type
            if not _fits(wanted, kind):
                need = "a key is text or an integer" if wanted.kind == "key" else "a number or text is needed"
                raise DataError(f"{name}: column {wanted.column!r} is {kind}; {need}")
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def count(self, part: Range) -> int:
        with fsspec.open(part.path, "rb") as file, parquet.ParquetFile(file) as opened:
            return opened.metadata.row_group(part.start).num_rows

    def read(self, part: Range, first_row: int, first_line: int) -> Iterator[Piece]:
        names = list(dict.fromkeys(w.column for w in self._wanted))
        with fsspec.open(part.path, "rb") as file, parquet.ParquetFile(file, pre_buffer=False) as opened:
            batches = opened.iter_batches(
                self.layout.chunk_rows, row_groups=[part.start], columns=names, use_threads=False
            )
            for batch in batches:
                place = np.arange(batch.num_rows)
                yield Piece(
                    columns={w.name: batch.column(w.column) for w in self._wanted},
                    rows=first_row + place,
                    lines=first_line + place,
                    path=part.path,
                    raw=functools.partial(_raw, batch),
                )
                first_row += batch.num_rows
                first_line += batch.num_rows


def _fits(wanted: Wanted, kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_text = is_text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if is_text or pa.types.is_integer(kind):
        return True
    if wanted.kind == "time" and pa.types.is_temporal(kind) and not pa.types.is_time(kind):
        return True
    is_number = pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind)
    return wanted.kind in ("number", "time") and is_number


def _raw(batch: pa.RecordBatch, index: int) -> str:
    row = batch.slice(index, 1).to_pylist()[0]
    return json.dumps(row, default=str, ensure_ascii=False)[:RAW_CHARACTERS]

"""TFRecord files of tf.train.Example, whose features are columns.

A file is one range, because it has no index; many files are read at once.
"""

import functools
from collections.abc import Generator

import numpy as np
import pyarrow as pa

from configs.errors import DataError
from configs.sections.sources import TFRecordSourceConfig
from pipelines.job import JobLayout
from pipelines.sources import reader, text
from pipelines.sources.examples import records
from pipelines.sources.examples.columns import KEYS, column_of
from pipelines.sources.examples.records import Records, stream_records
from pipelines.sources.examples.wire import FLOATS, Block, NotAnExample, find_features
from pipelines.sources.identity import SourceFile, each
from pipelines.sources.listing import files
from pipelines.sources.parquet_types import convert, row_text
from pipelines.sources.reader import Range, Reject, SourcePiece, in_reason, wanted_columns

_FIRST_BYTES = 1 << 16
_FIRST_RECORDS = 100  # that are checked before the job starts
_BYTES_PER_ROW = 50  # of a short Example; only used for the sizes of a job


class Reader(reader.Reader):
    """Reads TFRecord files."""

    config: TFRecordSourceConfig

    def __init__(self, config: TFRecordSourceConfig, layout: JobLayout):
        super().__init__(config, layout)
        self._wanted = wanted_columns(config)
        self._columns = list(dict.fromkeys(w.column for w in self._wanted))

    @functools.cache  # noqa: B019 - a reader lives as long as its job
    def files(self) -> list[SourceFile]:
        return files.list_files(self.config.paths, f"{self.key}.paths")

    def estimated_rows(self) -> int:
        return sum(file.size for file in self.files()) // _BYTES_PER_ROW

    def ranges(self) -> list[Range]:
        found = each(self._check, [file.name for file in self.files()])
        if not any(found):
            raise DataError(f"{', '.join(self.config.paths)}: no records in any file; check {self.key}.paths")
        return [Range(i, file.name, 0, -1, version=file.version) for i, file in enumerate(self.files())]

    def _check(self, name: str) -> int:
        """Number of the first records of a file that were looked at.

        Raises:
          DataError: they are no Examples, lack a key, or have one of another type.
        """
        part = next(stream_records(name, self.config.compression, _FIRST_BYTES, _FIRST_RECORDS), None)
        if part is None:
            return 0
        block = self._block(name, part)
        for wanted in self._wanted:
            kinds = block.features[wanted.column].kinds
            if wanted.name in ("user", "item") and not block.features[wanted.column].present:
                raise DataError(
                    f"{name}: no feature {wanted.column!r} in the first {len(kinds):,} records; "
                    f"the first one has: {text.shown(block.others)}"
                )
            if wanted.kind in KEYS and kinds.any() and (kinds[kinds > 0] == FLOATS).all():
                raise DataError(
                    f"{name}: feature {wanted.column!r} is a float_list; a key must be text or an integer: "
                    "write it as bytes_list or int64_list, or declare the feature as kind: numeric"
                )
        return len(part.starts)

    def count(self, part: Range) -> int:
        return records.count_records(part.path, self.config.compression, self.layout.chunk_bytes)

    def read(self, part: Range, first_row: int, first_line: int) -> Generator[SourcePiece, None, int]:
        limits = self.layout.chunk_bytes, self.layout.chunk_rows
        count = 0
        for found in stream_records(part.path, self.config.compression, *limits):
            yield self._piece(self._block(part.path, found), part.path, first_row + count, first_line + count)
            count += len(found.starts)
        return count

    def _block(self, name: str, part: Records) -> Block:
        try:
            return find_features(part, self._columns)
        except NotAnExample as error:
            raise DataError(f"{name}: record {part.first + error.record:,} {error.what}") from None

    def _piece(self, block: Block, path: str, first_row: int, first_line: int) -> SourcePiece:
        columns: dict[str, pa.Array] = {}
        reasons: dict[int, str] = {}
        for wanted in self._wanted:
            feature = block.features[wanted.column]
            columns[wanted.name], wrong = column_of(block.data, feature, wanted.kind)
            for i in np.flatnonzero(wrong):
                reasons.setdefault(int(i), f"wrong_type_{in_reason(wanted.name)}")
        batch = pa.RecordBatch.from_pydict(columns)
        rejects = [
            Reject(first_row + i, path, first_line + i, reason, row_text(batch, i))
            for i, reason in sorted(reasons.items())
        ]
        kept = np.delete(np.arange(batch.num_rows), sorted(reasons)) if reasons else np.arange(batch.num_rows)
        batch = batch.take(pa.array(kept)) if reasons else batch
        return SourcePiece(
            columns={w.name: convert(batch.column(w.name), w) for w in self._wanted},
            rows=first_row + kept,
            lines=first_line + kept,
            path=path,
            raw=functools.partial(row_text, batch),
            rejects=rejects,
        )

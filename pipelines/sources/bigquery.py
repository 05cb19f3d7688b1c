"""Tables of BigQuery and results of queries, through the Storage Read API.

One read session serves the whole job, so that all workers see the table as of one moment. A stream of the
session is a range. The session is opened when the job starts and ends with it; training reads the dataset.
"""

import base64
import functools
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import DataError
from configs.sections.sources import BigQuerySourceConfig
from pipelines.job import JobLayout
from pipelines.sources import reader, text
from pipelines.sources.identity import SourceFile
from pipelines.sources.parquet_types import convert, problem, row_text
from pipelines.sources.reader import Range, SourcePiece, wanted_columns
from pipelines.sources.warehouse.clients import one_line, patience, rest_client, storage_client
from pipelines.sources.warehouse.streams import read_stream, stream_rows
from pipelines.sources.warehouse.tables import Found, find, identities, name_of, run_query


class Reader(reader.Reader):
    """Reads a table or the result of a query."""

    config: BigQuerySourceConfig

    def __init__(self, config: BigQuerySourceConfig, layout: JobLayout):
        super().__init__(config, layout)
        self._wanted = wanted_columns(config)
        self._columns = list(dict.fromkeys(w.column for w in self._wanted))
        self._name = name_of(config)

    @functools.cache  # noqa: B019 - a reader lives as long as its job
    def files(self) -> list[SourceFile]:
        return identities(self._rest, self.config, self.key)

    def estimated_rows(self) -> int:
        return self._table.rows

    @functools.cached_property
    def _rest(self) -> Any:
        return rest_client(self.config.billed)

    @functools.cached_property
    def _storage(self) -> Any:
        return storage_client()

    @functools.cached_property
    def _table(self) -> Found:
        if self.config.table is None:
            return run_query(self._rest, self.config, self.key)
        return find(self._rest, self.config.table, self.key)

    def ranges(self) -> list[Range]:
        self._check_columns()
        session = self._session()
        schema = self._checked_schema(session)
        self._check_unchanged()
        if not session.streams:
            what = "no row meets row_restriction" if self.config.row_restriction else "the table has no rows"
            raise DataError(f"{self._name}: {what}; check {self.key}")
        encoded = base64.b64encode(schema.serialize()).decode()
        return [Range(i, stream.name, 0, -1, schema=encoded) for i, stream in enumerate(session.streams)]

    def _check_columns(self) -> None:
        """Raises DataError: a column is missing."""
        has = self._table.columns
        if missing := [column for column in self._columns if column not in has]:
            names = ", ".join(map(repr, missing))
            raise DataError(f"{self._name}: no column {names}; it has: {text.shown(has)}")

    def _session(self) -> Any:
        from google.cloud.bigquery_storage_v1 import types

        options = types.ReadSession.TableReadOptions(
            selected_fields=self._columns, row_restriction=self.config.row_restriction or ""
        )
        wanted = types.ReadSession(
            table=self._table.path, data_format=types.DataFormat.ARROW, read_options=options
        )
        if self.config.snapshot_time:
            wanted.table_modifiers = types.ReadSession.TableModifiers(snapshot_time=self.config.snapshot_time)
        with one_line(self._name, self.key):
            return self._storage.create_read_session(
                parent=f"projects/{self.config.billed}", read_session=wanted, retry=patience()
            )

    def _checked_schema(self, session: Any) -> pa.Schema:
        """Raises DataError: a column has a type that cannot be read."""
        if not session.arrow_schema.serialized_schema:  # as of an empty table
            return pa.schema([])
        schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
        for wanted in self._wanted:
            if what := problem(wanted, schema.field(wanted.column).type):
                raise DataError(f"{self._name}: {what}")
        return schema

    def _check_unchanged(self) -> None:
        """Raises DataError: a table has changed between its listing and the session, which reads it as of its
        own beginning."""
        for before, now in zip(self.files(), identities(self._rest, self.config, self.key), strict=True):
            if before != now:
                raise DataError(
                    f"{before.name}: has changed since it was listed; nothing is published. Rerun the same "
                    "command when no process writes to it, or set snapshot_time"
                )

    def count(self, part: Range) -> int:
        with one_line(self._name, self.key, reading=True):
            return stream_rows(self._storage, part.path)

    def read(self, part: Range, first_row: int, first_line: int) -> Generator[SourcePiece, None, int]:
        count = 0
        for batch in self._batches(part):
            place = np.arange(batch.num_rows)
            yield SourcePiece(
                columns={w.name: convert(batch.column(w.column), w) for w in self._wanted},
                rows=first_row + count + place,
                lines=first_row + count + place + 1,  # a stream has no numbers that mean anything
                path=self._name,
                raw=functools.partial(row_text, batch),
            )
            count += batch.num_rows
        return count

    def _batches(self, part: Range) -> Iterator[pa.RecordBatch]:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(part.schema)))
        with one_line(self._name, self.key, reading=True):
            for data in read_stream(self._storage, part.path):
                batch = pa.ipc.read_record_batch(pa.py_buffer(data), schema)
                for start in range(0, batch.num_rows, self.layout.chunk_rows):
                    yield batch.slice(start, self.layout.chunk_rows)

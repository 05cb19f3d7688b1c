"""Streams of a read session: each response holds some rows, and a stream that breaks goes on behind them."""

import time
from collections.abc import Iterator
from typing import Any

_ATTEMPTS = 6  # without any rows in between
_FIRST_SECONDS = 0.5
_SILENT_SECONDS = 600  # longest time without a response


def read_stream(client: Any, name: str) -> Iterator[bytes]:
    """Record batches of a stream, serialized, from its beginning.

    Raises:
      GoogleAPIError: BigQuery refuses the stream, or it breaks again and again without any rows.
    """
    for response in _responses(client, name):
        if response.row_count:
            yield response.arrow_record_batch.serialized_record_batch


def stream_rows(client: Any, name: str) -> int:
    """Number of rows of a stream. Only reading says it. Raises as read_stream."""
    return sum(response.row_count for response in _responses(client, name))


def _responses(client: Any, name: str) -> Iterator[Any]:
    """All responses; whenever the stream breaks, it is opened again at the first row that has not come."""
    from google.api_core import exceptions

    transient = (
        exceptions.ServiceUnavailable,
        exceptions.InternalServerError,
        exceptions.Unknown,
        exceptions.Aborted,
        exceptions.Cancelled,
        exceptions.DeadlineExceeded,
        exceptions.TooManyRequests,
    )
    offset, failures = 0, 0
    while True:
        try:
            for response in client.read_rows(name, offset, retry=None, timeout=_SILENT_SECONDS):
                offset += response.row_count
                failures = 0
                yield response
            return
        except transient:
            failures += 1
            if failures >= _ATTEMPTS:
                raise
            time.sleep(_FIRST_SECONDS * 2 ** (failures - 1))

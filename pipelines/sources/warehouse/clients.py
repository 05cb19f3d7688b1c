"""Google's clients of BigQuery, and their errors as one line.

BIGQUERY_EMULATOR_HOST and BIGQUERY_STORAGE_EMULATOR_HOST name local servers in place of Google's.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from configs.errors import ConfigError, DataError

REST_VARIABLE = "BIGQUERY_EMULATOR_HOST"
"""URL of a local server of metadata and queries; Google's own client reads it, too."""
STORAGE_VARIABLE = "BIGQUERY_STORAGE_EMULATOR_HOST"
"""host:port of a local server of the Storage Read API, without TLS."""
_PATIENCE_SECONDS = 60


def rest_client(project: str, key: str = "source.kind: bigquery") -> Any:
    """A client of metadata, queries and jobs, of which `project` is billed.

    `key`: what asks for it, for messages.

    Raises:
      ConfigError: the clients are not installed, or one variable of a local server is set and the other not.
      DataError: there are no credentials.
    """
    bigquery, _ = _libraries(key)
    if not os.environ.get(REST_VARIABLE):
        with one_line(f"bigquery project {project}"):
            return bigquery.Client(project=project)
    from google.auth.credentials import AnonymousCredentials

    anonymous: Any = AnonymousCredentials
    return bigquery.Client(project=project, credentials=anonymous())


def storage_client() -> Any:
    """A client of the Storage Read API. Raises as rest_client."""
    _, storage = _libraries()
    address = os.environ.get(STORAGE_VARIABLE)
    if not address:
        with one_line("bigquery"):
            return storage.BigQueryReadClient()
    import grpc
    from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

    sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    channel = grpc.insecure_channel(address, options=sizes)
    return storage.BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))


def patience() -> Any:
    """How long an answer is waited for again where the service is busy or does not answer."""
    from google.api_core import exceptions, retry
    from requests.exceptions import ConnectionError as NoConnection

    kinds = (
        exceptions.ServiceUnavailable,
        exceptions.InternalServerError,
        exceptions.TooManyRequests,
        NoConnection,
    )
    return retry.Retry(retry.if_exception_type(*kinds), initial=0.5, timeout=_PATIENCE_SECONDS)


def _libraries(key: str = "source.kind: bigquery") -> tuple[Any, Any]:
    try:
        from google.cloud import bigquery, bigquery_storage
    except ImportError as error:
        raise ConfigError(
            f"{key} needs Google's clients ({error}); run `pip install lazytower[bigquery]` "
            "where the command and its workers run"
        ) from None
    if bool(os.environ.get(REST_VARIABLE)) != bool(os.environ.get(STORAGE_VARIABLE)):
        raise ConfigError(
            f"{REST_VARIABLE} and {STORAGE_VARIABLE} belong together; set both for a local server, or neither"
        )
    return bigquery, bigquery_storage


@contextlib.contextmanager
def one_line(
    name: str,
    key: str = "source",
    reading: bool = False,
    explained: Callable[[Exception, str], str | None] | None = None,
) -> Iterator[None]:
    """Turns errors of Google's clients into a DataError of one line.

    Args:
      name: what was asked for, for messages.
      key: section of the config that names it.
      reading: whether a stream of a session is read, so that what is missing is the session.
      explained: says of an error and its first line what to do about it, where that is not a source's; None:
        what it does not know.
    """
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except GoogleAuthError as error:
        raise DataError(
            f"{name}: no credentials ({_first_line(error)}); run `gcloud auth application-default login`, or "
            "set GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    except GoogleAPIError as error:
        own = explained(error, _first_line(error)) if explained else None
        raise DataError(f"{name}: {own or _explained(error, key, reading)}") from None


def _explained(error: Exception, key: str, reading: bool) -> str:
    from google.api_core import exceptions

    said = _first_line(error)
    if reading and (isinstance(error, exceptions.NotFound) or "expired" in said.lower()):
        return (
            f"its read session has expired or is gone ({said}); nothing is published. BigQuery keeps "
            "sessions for some hours: rerun with more workers, or with a row_restriction; `lazytower score` "
            "opens a new session with --overwrite"
        )
    if isinstance(error, exceptions.NotFound):
        return f"no such table or dataset ({said}); check {key}.table, or the tables in {key}.query"
    if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
        return (
            f"access denied ({said}); grant this account roles/bigquery.dataViewer on the table and its "
            "columns, and roles/bigquery.readSessionUser and roles/bigquery.jobUser on the project"
        )
    if isinstance(error, exceptions.BadRequest):
        return f"refused by BigQuery ({said}); correct {key}.query, row_restriction or snapshot_time"
    return f"BigQuery does not answer as expected ({said}); rerun the same command"


def _first_line(error: Exception) -> str:
    # Of REST the message of the answer, without the address of the request.
    answers = [
        found.get("message") for found in getattr(error, "errors", None) or () if isinstance(found, dict)
    ]
    text = next(filter(None, answers), None) or getattr(error, "message", None) or str(error)
    return str(text or type(error).__name__).strip().partition("\n")[0][:500]

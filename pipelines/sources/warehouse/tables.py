"""What a BigQuery source reads: a table, or the result of a query, and what says that it has not changed."""

import datetime
import hashlib
from typing import Any, NamedTuple

from configs.errors import DataError
from configs.sections.source_kinds.bigquery import BigQueryFormat, table_parts
from pipelines.sources.identity import SourceFile
from pipelines.sources.warehouse.clients import one_line, patience

_PREFIX = "bigquery:"


class Found(NamedTuple):
    """A table to read."""

    name: str
    """For messages."""
    path: str
    """As the Storage Read API names it."""
    columns: tuple[str, ...]
    rows: int
    changed: str
    """Time of its last change."""


def name_of(config: BigQueryFormat) -> str:
    """What is read, for messages and dataset.json."""
    return f"{_PREFIX}{config.table or 'query'}"


def identities(client: Any, config: BigQueryFormat, key: str) -> list[SourceFile]:
    """What the rows depend on, in place of files: the table, or the query and the tables that it reads.

    Without a snapshot_time, rows are the same if no table has changed since; with one, they never change.
    Names have the condition or a digest of the query: other rows of one table are another source.

    Raises:
      DataError: a table is missing, denied or no table; or BigQuery refuses the query.
    """
    if config.table is not None:
        rows = f" where {' '.join(config.row_restriction.split())}" if config.row_restriction else ""
        return [_identity(find(client, config.table, key), rows, config.snapshot_time)]
    from google.cloud import bigquery

    name = name_of(config)
    with one_line(name, key):
        options = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
        job = client.query(config.query, job_config=options, retry=patience())
        tables = [f"{t.project}.{t.dataset_id}.{t.table_id}" for t in job.referenced_tables]
    rows = f" in query {hashlib.sha256((config.query or '').encode()).hexdigest()[:12]}"
    return [_identity(_look(client, table, key)[0], rows, None) for table in dict.fromkeys(tables)]


def _identity(found: Found, rows: str, snapshot: datetime.datetime | None) -> SourceFile:
    name = found.name + rows
    version = f"snapshot {snapshot.isoformat()}" if snapshot else f"changed {found.changed}"
    return SourceFile(name, 0, version, f"{name} {version}", fixed=True)


def find(client: Any, table: str, key: str) -> Found:
    """A table as it is now. Raises DataError: it is missing, denied, or a view."""
    found, kind = _look(client, table, key)
    if kind not in ("TABLE", "SNAPSHOT", "EXTERNAL"):
        raise DataError(
            f"{found.name}: is a {kind.lower()}, which has no stored rows; set {key}.query to "
            f"SELECT * FROM `{table}` in place of table"
        )
    return found


def _look(client: Any, table: str, key: str) -> tuple[Found, str]:
    """A table or view, and what it is."""
    name = f"{_PREFIX}{table}"
    with one_line(name, key):
        found = client.get_table(table, retry=patience())
    return Found(name, _path(table), *_facts(found)), str(found.table_type)


def _facts(found: Any) -> tuple[tuple[str, ...], int, str]:
    return tuple(f.name for f in found.schema), int(found.num_rows or 0), f"{found.modified.isoformat()}"


def _path(table: str) -> str:
    project, dataset, name = table_parts(table)
    return f"projects/{project}/datasets/{dataset}/tables/{name}"


def run_query(client: Any, config: BigQueryFormat, key: str) -> Found:
    """Runs the query; its result is a temporary table, which BigQuery deletes after about a day.

    Raises:
      DataError: BigQuery refuses it, or it writes a table instead of returning rows.
    """
    name = name_of(config)
    with one_line(name, key):
        job = client.query(config.query, retry=patience())
        job.result(max_results=0)
        target = job.destination
        if target is None or job.statement_type not in (None, "SELECT"):
            raise DataError(
                f"{name}: returns no rows ({job.statement_type}); write one SELECT in {key}.query"
            )
        found = client.get_table(target, retry=patience())
    return Found(name, _path(f"{target.project}.{target.dataset_id}.{target.table_id}"), *_facts(found))

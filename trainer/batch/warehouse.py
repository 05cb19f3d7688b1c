"""Loads a finished output into BigQuery: one load job a table, of all its files.

A job has a name made of the output's fingerprint, of the table, and of the number of failed jobs before it.
So a rerun finds the job of the run before it, running or done, and loads nothing twice. A job replaces the
rows of the table at once (WRITE_TRUNCATE): readers see those before or those after it.
"""

import hashlib
import itertools
import re
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from absl import logging

from configs.errors import ConfigError, DataError
from configs.sections.source_kinds.bigquery import is_table, table_parts
from configs.system import storage
from pipelines.sources.warehouse.clients import one_line, patience, rest_client

PREFIX = "bigquery:"
_WAIT_SECONDS = 6 * 3600  # BigQuery ends load jobs after as long


class WarehouseTable(NamedTuple):
    """Where an output is loaded to."""

    name: str
    """project.dataset.table."""
    staging: str
    """Directory of the files, in a bucket."""

    def check(self) -> None:
        """Raises DataError unless the dataset can be written to, ConfigError if the clients are missing."""
        self._location(self._client())

    def load(self, manifest: dict[str, Any], again: bool = False) -> None:
        """Loads the files; of `vectors`, users and items into tables <table>_users and <table>_items.

        Args:
          manifest: of the output in `staging`.
          again: also if a job has loaded it before.

        Raises:
          DataError: the table has other columns or is none, or BigQuery refuses the job.
        """
        client = self._client()
        location = self._location(client)
        shards: dict[str, list[str]] = {}
        for shard in manifest["shards"]:
            path = storage.join(self.staging, storage.inner_path(shard["name"]))
            shards.setdefault(shard["of"], []).append(path)
        for of, files in shards.items():
            name = self.name if len(shards) == 1 else f"{self.name}_{of}"
            if not again:
                _check_columns(client, name, files[0])
            digest = hashlib.sha256(f"{manifest['fingerprint']} {name}".encode()).hexdigest()[:32]
            job = _job(client, name, location, files, f"lazytower-{digest}", again)
            with one_line(f"{PREFIX}{name}", explained=_explained):
                job.result(timeout=_WAIT_SECONDS, retry=patience())
            logging.info("%s%s: loaded by job %s, %s rows", PREFIX, name, job.job_id, f"{job.output_rows:,}")

    def _client(self) -> Any:
        return rest_client(table_parts(self.name)[0], f"--to {PREFIX}{self.name}")

    def _location(self, client: Any) -> str:
        """Of the dataset; jobs run there."""
        project, dataset, _ = table_parts(self.name)
        with one_line(f"--to {PREFIX}{self.name}", explained=_explained):
            found: str = client.get_dataset(f"{project}.{dataset}", retry=patience()).location
            return found


def warehouse_table(to: str, staging: str | None, format_name: str) -> WarehouseTable | None:
    """The table that --to names, if it names one.

    Raises:
      ConfigError: it is not a table, or --staging or --format do not fit.
    """
    if not to.startswith(PREFIX):
        if staging is not None:
            raise ConfigError(f"--staging {staging}: is for --to {PREFIX}PROJECT.DATASET.TABLE; remove it")
        return None
    name = to.removeprefix(PREFIX)
    if not is_table(name):
        raise ConfigError(f"--to {to}: is not a table; write {PREFIX}project.dataset.table")
    if staging is None or not re.match("gc?s://", staging):
        found = "not given" if staging is None else f"{staging} is not in a bucket"
        raise ConfigError(
            f"--to {to}: BigQuery loads files from a bucket, and --staging is {found}; add "
            "--staging gs://BUCKET/DIRECTORY"
        )
    if format_name != "parquet":
        raise ConfigError(f"--format {format_name}: BigQuery loads Parquet; remove it")
    return WarehouseTable(name, staging)


def _check_columns(client: Any, name: str, file: str) -> None:
    """Raises DataError if there is such a table, but of something else: its rows would be lost."""
    from google.api_core.exceptions import NotFound

    with one_line(f"{PREFIX}{name}", explained=_explained):
        try:
            table = client.get_table(name, retry=patience())
        except NotFound:
            return
    with storage.reading(file) as opened:
        ours = pq.ParquetFile(opened).schema_arrow.names
    theirs = [field.name for field in table.schema]
    if table.table_type != "TABLE" or (theirs and theirs != ours):
        what = f"is a {table.table_type.lower()}" if table.table_type != "TABLE" else f"has columns {theirs}"
        raise DataError(
            f"{PREFIX}{name}: {what}, not {ours}; choose another table, or pass --overwrite to replace it"
        )


def _job(client: Any, table: str, location: str, files: list[str], name: str, again: bool) -> Any:
    """The job that loads the files: one that runs or has succeeded, else a new one."""
    from google.api_core.exceptions import Conflict, NotFound
    from google.cloud import bigquery

    lists = bigquery.ParquetOptions()
    lists.enable_list_inference = True  # lists are REPEATED, without Parquet's own levels
    options = bigquery.LoadJobConfig(
        source_format=bigquery.SourceFormat.PARQUET,
        write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
        parquet_options=lists,
    )
    for attempt in itertools.count():
        identity: dict[str, Any] = {"location": location, "retry": patience()}
        job_id = f"{name}-{attempt}"
        with one_line(f"{PREFIX}{table}", explained=_explained):
            try:
                job = client.get_job(job_id, **identity)
            except NotFound:
                try:
                    return client.load_table_from_uri(
                        files, table, job_id=job_id, job_config=options, **identity
                    )
                except Conflict:  # the answer to an earlier request was lost
                    return client.get_job(job_id, **identity)
        if job.state != "DONE" or (not job.error_result and not again):
            return job
    raise AssertionError("unreachable")


def _explained(error: Exception, said: str) -> str | None:
    from google.api_core import exceptions

    if isinstance(error, exceptions.NotFound):
        return (
            f"no such dataset, or a file is gone ({said}); create the dataset with `bq mk --dataset`, and "
            "rerun the same command"
        )
    if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
        return (
            f"access denied ({said}); grant this account roles/bigquery.dataEditor on the dataset, "
            "roles/bigquery.jobUser on the project and roles/storage.objectViewer on the bucket"
        )
    if isinstance(error, exceptions.BadRequest):
        return f"refused by BigQuery ({said}); the files are kept: correct this, and rerun the same command"
    return None

"""What sources in BigQuery have in common: a table, or a query, and which of its rows are read."""

import datetime
import re

from pydantic import Field, field_validator, model_validator

from configs.sections.base import Section

_TABLE = re.compile(r"(?:[\w.-]+:)?[A-Za-z][\w-]*\.\w+\.[^.`]+")


def is_table(text: str) -> bool:
    """Whether it is project.dataset.table."""
    return _TABLE.fullmatch(text) is not None


def table_parts(table: str) -> tuple[str, str, str]:
    """Project, dataset and name of project.dataset.table; a project of a domain has points of its own."""
    project, dataset, name = table.rsplit(".", 2)
    return project, dataset, name


class BigQueryFormat(Section):
    """Where rows are in BigQuery."""

    table: str | None = None
    """Table, as project.dataset.table. Only the columns that roles and features name are read."""
    query: str | None = Field(None, min_length=1)
    """SELECT statement in GoogleSQL in place of `table`. BigQuery runs it once, and its result is read."""
    project: str | None = Field(None, min_length=1)
    """Project that pays; null: that of the table. Required by query."""
    row_restriction: str | None = Field(None, min_length=1)
    """Condition in GoogleSQL that rows of the table must meet, such as "day >= '2026-01-01'"; it is checked
    by BigQuery, so that other rows are not sent."""
    snapshot_time: datetime.datetime | None = None
    """Read the table as it was then, within its time travel (seven days by default); ISO 8601 with a zone.
    null: as it is when prepare starts. All workers read the same rows in either case."""

    @field_validator("table")
    @classmethod
    def _is_qualified(cls, value: str | None) -> str | None:
        if value is not None and not is_table(value):
            raise ValueError(f"{value!r} is not a table; write project.dataset.table, without quotes inside")
        return value

    @field_validator("snapshot_time")
    @classmethod
    def _has_zone(cls, value: datetime.datetime | None) -> datetime.datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone; write {value.isoformat()}Z for UTC")
        return value

    @model_validator(mode="after")
    def _is_table_or_query(self) -> "BigQueryFormat":
        if (self.table is None) == (self.query is None):
            raise ValueError("set either table or query")
        if self.query is not None and self.project is None:
            raise ValueError("query requires project, which pays for it; set project")
        for name in ("row_restriction", "snapshot_time"):
            if self.query is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} applies to table only; write it into query")
        return self

    @property
    def billed(self) -> str:
        """Project that pays."""
        return self.project or table_parts(self.table or "")[0]

    @property
    def where(self) -> str:
        """What is read, for messages."""
        return f"bigquery:{self.table or 'query'}"

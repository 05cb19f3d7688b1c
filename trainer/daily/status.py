"""What became of each day, as a table or as plain values."""

from collections.abc import Sequence
from typing import Any

from configs.text import aligned
from trainer.daily.record import DayFolder, DayRecord

_HEADING = ["day", "rows", "users", "items", "metric", "model", "served", "result", "version"]


def status_text(days: Sequence[DayFolder]) -> str:
    """A line for each day, and the reason of the newest one's result."""
    if not days:
        return "no day yet; make one with --new FILES"
    newest = days[-1].record
    lines = [aligned([_HEADING, *(_row(day) for day in days)])]
    if newest.reason:
        lines.append(f"\n{days[-1].name}: {newest.reason}")
    return "\n".join(lines)


def _row(day: DayFolder) -> list[str]:
    record = day.record
    new = record.new or {}
    return [
        day.name,
        "-" if record.rows is None else f"{sum(record.rows.values()):,}",
        *(f"+{new[name]:,}" if name in new else "-" for name in ("user", "item")),
        record.metric or "-",
        *("-" if value is None else f"{value:.4f}" for value in (record.value, record.served_value)),
        result_text(record),
        "-" if record.version is None else str(record.version),
    ]


def result_text(record: DayRecord) -> str:
    """accepted or refused, or how far the day has come."""
    if not record.is_done:
        return f"interrupted after {record.done}" if record.done else "interrupted"
    return "accepted" if record.accepted else "refused"


def status_values(days: Sequence[DayFolder]) -> list[dict[str, Any]]:
    """The records, for JSON, with the name of each day."""
    left_out = {"format", "number"}
    return [{**day.record.model_dump(exclude=left_out), "name": day.name} for day in days]

"""Lists and segments of an evaluation of a retrieval model as text for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from configs.text import aligned
from trainer.report.segments import list_names, segment_notes, segment_title, shown_metrics

Segment = TypeVar("Segment")
_SHOWN_SEGMENTS = 21
"""Most segments of a table in the terminal; the report and the JSON have all."""


def with_interval(value: float | None, limits: Sequence[float] | None) -> str:
    """A figure with its interval, such as 0.1234 (0.1201 to 0.1266)."""
    if value is None:
        return "-"
    return figure_text(value) + (f" ({figure_text(limits[0])} to {figure_text(limits[1])})" if limits else "")


def figure_text(value: float | None) -> str:
    """A figure with four decimals, or fewer above 10."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def lists_text(lines: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    """A table of the figures of lists at the last cut-off, a line for each scorer; "" if there are none.

    Args:
      lines: of one evaluation.
      labels: what the scorers are called.
    """
    names = list_names(lines[0])
    if not names:
        return ""
    rows = [["lists", *names]]
    for line, label in zip(lines, labels, strict=True):
        own, limits = line["lists"], line["intervals"]
        rows.append([label, *(with_interval(own.get(name), limits.get(name)) for name in names)])
    return aligned(rows)


def segment_texts(line: Mapping[str, Any]) -> list[str]:
    """A table for each name of evaluate.by, with the main metrics and their intervals.

    Args:
      line: of the served weights.
    """
    tables = line.get("by", {})
    found = [_table(name, segments) for name, segments in tables.items() if segments]
    return [*found, *filter(None, ["\n".join(segment_notes(tables))])]


def shown_segments(segments: Sequence[Segment]) -> list[Segment]:
    """Those of a table that the terminal shows."""
    return [*segments[:_SHOWN_SEGMENTS], *segments[max(_SHOWN_SEGMENTS, len(segments) - 2) :]]


def _table(name: str, segments: Sequence[Mapping[str, Any]]) -> str:
    sizes = [size for size in ("users", "targets") if size in segments[0]]
    metrics = shown_metrics(segments[0])
    rows = [[segment_title(name, segments), *sizes, *metrics]]
    shown = shown_segments(segments)
    for one in shown:
        figures = [with_interval(one[metric], one["intervals"].get(metric)) for metric in metrics]
        rows.append([one["value"], *(f"{one[size]:,}" for size in sizes), *figures])
    more = len(segments) - len(shown)
    return aligned(rows) + (f"\n({more:,} further segments are in the JSON and the report)" if more else "")

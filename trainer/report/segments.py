"""The report's sections about retrieval models: intervals, lists of recommended items, and segments."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trainer.report.facts import comparable, grouped, subject
from trainer.report.page import escape, note, section, table

_SIZES = ("users", "targets")
_DIVIDED = {
    "activity/users": "train rows of the user",
    "activity/items": "train rows of the target item",
    "age/users": "since the user's first train row",
    "age/items": "since the target item's first train row",
}


def segment_title(name: str, segments: Sequence[Mapping[str, Any]]) -> str:
    """What a table of evaluate.by divides, in words."""
    return division_title(name, bool(segments) and "users" in segments[0])


def division_title(name: str, of_users: bool) -> str:
    """As segment_title, of a table that divides users, or target items."""
    return _DIVIDED.get(name, f"{name} of the {'user' if of_users else 'target item'}")


def segment_notes(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What a reader of the tables of evaluate.by, by name, must know; nothing without tables."""
    first = [segments[0] for segments in tables.values() if segments]
    notes = division_notes(["users" in segment for segment in first])
    if notes:
        notes.append(
            "There is no interval below 10 blocks of users, and where all bootstrap samples are equal."
        )
    return notes


def division_notes(of_users: Collection[bool]) -> list[str]:
    """What segments are means over, of tables that divide users, or target items."""
    notes = []
    if True in of_users:
        notes.append("Users: means over the users of a segment, of all their targets.")
    if False in of_users:
        notes.append(
            "Target items: means over the targets of a segment, each of which counts by itself, as all "
            "targets do in the last line."
        )
    return notes


def list_names(line: Mapping[str, Any]) -> list[str]:
    """Names of the metrics of lists at the last cut-off."""
    return _last_cutoff(list(line.get("lists") or {}))


def shown_metrics(segment: Mapping[str, Any]) -> list[str]:
    """Names of a segment's main metrics: those of the last cut-off but HR beside Recall, and MRR."""
    names = [name for name in segment if "@" in name or name == "mrr"]
    last = _last_cutoff([name for name in names if name.partition("@")[0] in ("hr", "recall", "ndcg")])
    if any(name.startswith("recall@") for name in last):
        last = [name for name in last if not name.startswith("hr@")]
    return [*last, *(name for name in names if name == "mrr")]


def _last_cutoff(names: list[str]) -> list[str]:
    end = names[-1].partition("@")[2] if names else ""
    return [name for name in names if name.partition("@")[2] == end]


def retrieval_sections(evaluations: Sequence[dict]) -> list[str]:
    """A section for each split and protocol; none for ranking models, and lines of before there were any.

    Args:
      evaluations: lines of metrics.jsonl, by rising step.
    """
    parts = []
    mine = [line for line in evaluations if "task" not in line and line.get("intervals")]
    for lines in grouped(mine, comparable).values():
        latest = [own[-1] for own in grouped(lines, subject).values()]
        model = next((line for line in latest if line.get("scorer") == "model"), latest[0])
        found = [_intervals(model), _lists(latest)]
        for name, segments in (model.get("by") or {}).items():
            title = segment_title(name, segments)
            found.append(_heading(f"Segments: {title}"))
            found.append(table([_row(title, one) for one in segments]))
        found += map(note, segment_notes(model.get("by") or {}))
        parts.append(section(f"Detail: {model.get('split', '')}", *found))
    return parts


def _heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def _intervals(line: Mapping[str, Any]) -> str:
    limits, lists = line["intervals"], line.get("lists") or {}
    rows = [
        {"metric": name, "value": line.get(name, lists.get(name)), "from": pair[0], "to": pair[1]}
        for name, pair in limits.items()
        if pair
    ]
    if not rows:
        return ""
    weights = f", {line['weights']} weights" if line.get("weights") else ""
    return _heading(f"Metrics with their intervals{weights}") + table(rows) + note(line.get("resampling", ""))


def _lists(lines: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        {"scorer": " ".join(filter(None, subject(dict(line)))).replace("_", " "), **line["lists"]}
        for line in lines
        if line.get("lists")
    ]
    return _heading("Lists of recommended items") + table(rows) if rows else ""


def _row(title: str, segment: Mapping[str, Any]) -> dict[str, Any]:
    row = {title: segment["value"], **{size: segment[size] for size in _SIZES if size in segment}}
    main = shown_metrics(segment)
    for name, limits in segment["intervals"].items():
        row[name] = segment.get(name)
        if limits and name in main:
            row |= {f"{name} from": limits[0], f"{name} to": limits[1]}
    return row

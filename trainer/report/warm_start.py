"""The report's section on the run that a run started from."""

from typing import Any

from trainer.report.page import note, pairs, section, table

WARM_START, MOVED = "warm_start", "moved"
"""Events of metrics.jsonl."""
EVENTS_OF_START = (WARM_START, MOVED)


def start_sections(lines: list[dict]) -> list[str]:
    """The section as a list, empty for a run that began with random weights.

    Args:
      lines: of metrics.jsonl.
    """
    starts = [line for line in lines if line.get("event") == WARM_START]
    if not starts:
        return []
    # The counts stand in the line of the process that started; later ones resumed.
    start = next((line for line in reversed(starts) if "tables" in line), starts[-1])
    names = ("run", "source_step", "weights", "slots", "seconds", "bytes")
    facts = {name: start[name] for name in names if name in start}
    ends = [line for line in lines if line.get("event") == MOVED]
    rows = _rows(start.get("tables") or {}, (ends[-1].get("tables") or {}) if ends else {})
    meaning = note(
        "Kept rows continue a row of the other run, new ones start at random, dropped ones are rows of the "
        "other run without a successor. Moved: root mean square of the change of a kept row's values in this "
        "run, and as a share of their root mean square at its start; of many rows a sample is compared."
    )
    return [section("Warm start", pairs(facts), table(rows) if rows else "", meaning if rows else "")]


def _rows(tables: dict[str, Any], moved: dict[str, Any]) -> list[dict]:
    found = []
    for name in dict.fromkeys([*tables, *moved]):
        row = {"table": name, **tables.get(name, {})}
        if figures := moved.get(name):
            row |= {"rows_compared": figures["rows_compared"], "moved": figures["rms"]}
            row["relative_share"] = figures.get("relative")
        found.append(row)
    return found

"""A comparison of runs as text and as plain values."""

import math
from typing import Any

from configs.text import aligned
from trainer.comparison.comparing import ComparedRun, RunComparison
from trainer.comparison.groups import EVERYONE, Group
from trainer.evaluation.segments.text import shown_segments
from trainer.report.segments import division_notes

_LONGEST = 60  # letters of a value
_HEADING = ("difference", "", "from", "to", "is", "users +", "users -")


def compared_text(comparison: RunComparison) -> str:
    """Tables of the runs, what differs in their configs, their metrics, and the main metric of groups."""
    parts = [_runs(comparison), _configs(comparison)]
    for task in comparison.tasks:
        parts.append(_metrics(comparison, task))
        parts += filter(
            None, [_groups(comparison, task, table) for table in comparison.runs[0].measured.tables]
        )
    return "\n\n".join([*parts, *_notes(comparison)])


def _runs(comparison: RunComparison) -> str:
    rows = [["run", "step", "", "run time", "peak memory"]]
    for run in comparison.runs:
        facts = run.facts()
        seconds, memory = facts["run_seconds"], facts["peak_memory_bytes"]
        rows.append(
            [
                run.name,
                f"{facts['step']:,}",
                facts["chosen"],
                "-" if seconds is None else f"{seconds:,.0f} s",
                "-" if memory is None else f"{memory / 2**20:,.0f} MiB",
            ]
        )
    return aligned(rows, left=(0, 2))


def _configs(comparison: RunComparison) -> str:
    if not comparison.keys:
        return "the configs are equal"
    rows = [["key", *(run.name for run in comparison.runs)]]
    rows += [[key, *(_short_value(value) for value in values)] for key, values in comparison.keys]
    return aligned(rows, left=range(len(rows[0])))


def _short_value(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _metrics(comparison: RunComparison, task: str) -> str:
    """All metrics of all users or rows."""
    first, everyone = comparison.runs[0], Group(task, "", EVERYONE)
    title = f"task {task}" if task else comparison.split
    rows = [[title, "run", "value", *_HEADING]]
    for name, value in first.measured.figures[everyone].values.items():
        rows.append([name, first.name, _figure(value), *[""] * len(_HEADING)])
        rows += [["", *cells] for cells in _others(comparison, everyone, name)]
    return aligned(_without_empty(rows), left=(0, 1))


def _groups(comparison: RunComparison, task: str, table: str) -> str:
    """The main metric by group of a table; empty: no group has any rows."""
    first, groups = comparison.runs[0], comparison.groups(task, table)
    if not groups:
        return ""
    (title, unit), metric = first.measured.tables[table], comparison.metric_of(groups[0])
    rows = [[title, unit, "run", metric, *_HEADING]]
    shown = shown_segments(groups)
    for group in shown:
        figures = first.measured.figures[group]
        value = _figure(figures.values[metric])
        rows.append([group.name, f"{figures.rows:,}", first.name, value, *[""] * len(_HEADING)])
        rows += [["", "", *cells] for cells in _others(comparison, group, metric)]
    more = len(groups) - len(shown)
    text = aligned(_without_empty(rows), left=(0, 2))
    return text + (f"\n({more:,} further segments are in the JSON and the page)" if more else "")


def _others(comparison: RunComparison, group: Group, metric: str) -> list[list[str]]:
    """A metric of the runs that are compared with the first one."""
    return [cells for run in comparison.runs[1:] if (cells := _cells(run, group, metric))]


def _cells(run: ComparedRun, group: Group, metric: str) -> list[str]:
    """Run, value, difference absolute and relative, interval, verdict and shares of users of one metric;
    empty: it is undefined."""
    one = run.difference(group, metric)
    if one is None:
        return []
    low, high = one.interval or (None, None)
    return [
        run.name,
        _figure(one.value),
        f"{one.by:+.4f}",
        f"{one.by / abs(one.reference):+.1%}" if one.reference else "",
        *("" if limit is None else f"{limit:+.4f}" for limit in (low, high)),
        one.verdict,
        *("" if share is None else f"{share:.0%}" for share in (one.won, one.lost)),
    ]


def _without_empty(rows: list[list[str]]) -> list[list[str]]:
    """Without columns that are empty below their heading."""
    kept = [place for place in range(len(rows[0])) if any(row[place] for row in rows[1:])]
    return [[row[place] for place in kept] for row in rows]


def _figure(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def _notes(comparison: RunComparison) -> list[str]:
    """How the figures came about."""
    first = comparison.runs[0]
    units = [table.unit for table in first.measured.tables.values() if table.unit != "rows"]
    groups = sum(bool(group.table) for group in first.measured.figures)
    return [
        f"differences from {first.name}, with {100 * comparison.confidence:g} % intervals of "
        f"{comparison.samples:,} paired bootstrap samples; noise: the interval contains 0\n"
        f"By chance, {100 * (1 - comparison.confidence):g} % of the differences that are nothing are called "
        f"better or worse; {groups:,} segments are compared here.",
        "\n".join([*division_notes([unit == "users" for unit in units]), first.measured.protocol]),
    ]


def comparison_values(comparison: RunComparison) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "split": comparison.split,
        "protocol": comparison.runs[0].measured.protocol,
        "confidence": comparison.confidence,
        "samples": comparison.samples,
        "tables": {name: table._asdict() for name, table in comparison.runs[0].measured.tables.items()},
        "keys": {key: values for key, values in comparison.keys},
        "runs": [
            run.facts()
            | {
                "path": run.contender.config.output.path,
                "metrics": [
                    {"task": group.task, "table": group.table, "group": group.name, "number": found.rows}
                    | _finite_values(found.values)
                    for group, found in run.measured.figures.items()
                ],
                "differences": [one._asdict() | {"difference": one.by} for one in run.differences],
            }
            for run in comparison.runs
        ],
    }


def _finite_values(values: dict[str, Any]) -> dict[str, float | None]:
    return {name: float(value) if value == value else None for name, value in values.items()}

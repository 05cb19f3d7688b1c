"""A comparison of runs as text and as plain values."""

from collections.abc import Iterator
from typing import Any

from configs.text import aligned
from trainer.comparison.comparing import ComparedRun, RunComparison
from trainer.comparison.groups import EVERYONE

_LONGEST = 60  # letters of a value


def compared_text(comparison: RunComparison) -> str:
    """Tables of the runs, what differs in their configs, their metrics, and those of groups of users."""
    parts = [_runs(comparison), _configs(comparison)]
    for task in comparison.tasks:
        parts.append(_metrics(comparison, task))
        if groups := _groups(comparison, task):
            parts.append(groups)
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
    first = comparison.runs[0]
    title = f"task {task}" if task else comparison.split
    rows = [[title, "run", "value", "difference", "", "from", "to", "is", "users +", "users -"]]
    for name, value in first.measured.figures[task, EVERYONE].values.items():
        rows.append([name, first.name, _figure(value), *[""] * 7])
        for run in comparison.runs[1:]:
            rows += [["", run.name, *cells] for cells in _cells(run, task, EVERYONE, name)]
    return aligned(_without_empty(rows), left=(0, 1))


def _groups(comparison: RunComparison, task: str) -> str:
    """The main metric by group; empty: there are no groups."""
    first = comparison.runs[0].measured
    groups = [group for of, group in first.figures if of == task and group != EVERYONE]
    if not groups or first.groups is None:
        return ""
    metric = comparison.metric
    if metric not in first.figures[task, groups[0]].values:
        metric = next(iter(first.figures[task, groups[0]].values))
    heading = ["value", "difference", "", "from", "to", "is", "users +", "users -"]
    rows = [[f"{metric} by {first.groups.name}", first.unit, "run", *heading]]
    for group in groups:
        figures = first.figures[task, group]
        value = figures.values[metric]
        rows.append([group, f"{figures.rows:,}", comparison.runs[0].name, _figure(value), *[""] * 7])
        for run in comparison.runs[1:]:
            rows += [["", "", run.name, *cells] for cells in _cells(run, task, group, metric)]
    return aligned(_without_empty(rows), left=(0, 2))


def _cells(run: ComparedRun, task: str, group: str, metric: str) -> Iterator[list[str]]:
    """Value, difference absolute and relative, interval, verdict and shares of users of one metric."""
    for one in run.differences:
        if (one.task, one.group, one.metric) == (task, group, metric):
            low, high = one.interval or (None, None)
            relative = f"{one.by / abs(one.reference):+.1%}" if one.reference else ""
            yield [
                _figure(one.value),
                f"{one.by:+.4f}",
                relative,
                *("" if limit is None else f"{limit:+.4f}" for limit in (low, high)),
                one.verdict,
                *("" if share is None else f"{share:.0%}" for share in (one.won, one.lost)),
            ]


def _without_empty(rows: list[list[str]]) -> list[list[str]]:
    """Without columns that are empty below their heading."""
    kept = [place for place in range(len(rows[0])) if any(row[place] for row in rows[1:])]
    return [[row[place] for place in kept] for row in rows]


def _figure(value: float) -> str:
    return f"{value:.4f}"


def _notes(comparison: RunComparison) -> list[str]:
    """How the figures came about."""
    first = comparison.runs[0]
    return [
        f"differences from {first.name}, with {100 * comparison.confidence:g} % intervals of "
        f"{comparison.samples:,} paired bootstrap samples; noise: the interval contains 0",
        first.measured.protocol,
    ]


def comparison_values(comparison: RunComparison) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "split": comparison.split,
        "protocol": comparison.runs[0].measured.protocol,
        "confidence": comparison.confidence,
        "samples": comparison.samples,
        "keys": {key: values for key, values in comparison.keys},
        "runs": [
            run.facts()
            | {
                "path": run.contender.config.output.path,
                "metrics": [
                    {"task": task, "group": group, "number": found.rows} | _finite_values(found.values)
                    for (task, group), found in run.measured.figures.items()
                ],
                "differences": [one._asdict() | {"difference": one.by} for one in run.differences],
            }
            for run in comparison.runs
        ],
    }


def _finite_values(values: dict[str, Any]) -> dict[str, float | None]:
    return {name: float(value) if value == value else None for name, value in values.items()}

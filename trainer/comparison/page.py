"""A comparison of runs as one self-contained HTML page, with their curves over each other."""

import math
from collections.abc import Sequence
from typing import Any

from trainer.comparison.comparing import RunComparison
from trainer.comparison.groups import EVERYONE, Group
from trainer.comparison.text import compared_text
from trainer.report.facts import comparable, grouped, metric_names, subject
from trainer.report.figures import Curve, curve, figure, legend, plotly_source, smoothed
from trainer.report.page import cards, escape, folded, label, note, number, page, section, table
from trainer.report.segments import division_notes

_FEWEST_TO_SMOOTH = 20


def comparison_page(comparison: RunComparison) -> str:
    """The page."""
    sections = [
        section("Runs", table([run.facts() for run in comparison.runs])),
        section("What differs in the configs", _configs(comparison)),
        section("Loss", *_loss(comparison)),
        *_metric_sections(comparison),
        *(
            section(
                f"Metrics{f' of task {task}' if task else ''} on {comparison.split}",
                _metrics(comparison, Group(task, "", EVERYONE)),
            )
            for task in comparison.tasks
        ),
        *_group_sections(comparison),
        section("As text", f"<pre>{escape(compared_text(comparison))}</pre>"),
    ]
    has_figures = any('class="figure"' in part for part in sections)
    names = " and ".join(run.name for run in comparison.runs)
    title = f"Comparison of {names}" if len(names) < 100 else f"Comparison of {len(comparison.runs)} runs"
    head = note(f"Differences from {comparison.runs[0].name}; {_how(comparison)}") + cards(_cards(comparison))
    return page(title, head, sections, plotly_source() if has_figures else "")


def _titled(text: str, task: str) -> str:
    return f"{text}, task {task}" if task else text


def _how(comparison: RunComparison) -> str:
    return (
        f"{100 * comparison.confidence:g} % intervals of {comparison.samples:,} paired bootstrap samples. "
        "Noise: the interval contains 0."
    )


def _cards(comparison: RunComparison) -> list[tuple[str, str]]:
    """The main metric of each run."""
    everyone = Group(comparison.tasks[0], "", EVERYONE)
    found: list[tuple[str, str]] = []
    for run in comparison.runs:
        value = number(float(run.measured.figures[everyone].values[comparison.metric]))
        difference = run.difference(everyone, comparison.metric)
        verdict = f": {difference.verdict}" if difference and difference.verdict else ""
        found.append((f"{label(comparison.metric)}, {run.name}{verdict}", value))
    return found


def _configs(comparison: RunComparison) -> str:
    if not comparison.keys:
        return note("Nothing.")
    names = [run.name for run in comparison.runs]
    return table(
        [
            {"key": key} | {name: number(value) for name, value in zip(names, values, strict=True)}
            for key, values in comparison.keys
        ]
    )


def _loss(comparison: RunComparison) -> list[str]:
    curves = []
    for place, run in enumerate(comparison.runs):
        train = [line for line in run.lines if line.get("kind") == "train"]
        raw = curve(train, "loss", run.name, colour=place)
        if raw.steps:
            curves.append(smoothed(raw, run.name) if len(raw.steps) >= _FEWEST_TO_SMOOTH else raw)
    if not curves:
        return [note("No training steps recorded.")]
    return [legend(curves), figure("loss", "", curves, height=360, from_zero=False)]


def _metric_sections(comparison: RunComparison) -> list[str]:
    """A figure of each metric over steps, of evaluations that all can be compared."""
    lines = [
        line | {"run": place}
        for place, run in enumerate(comparison.runs)
        for line in run.evaluations
        if subject(line)[0] == "model"
    ]
    found: list[str] = []
    for at, ((split, _), of_pair) in enumerate(grouped(lines, comparable).items()):
        for task, of_task in grouped(of_pair, lambda line: line.get("task", "")).items():
            figures, shown = _figures(comparison, of_task, f"{at}-{len(found)}")
            if figures:
                title = _titled(f"Metrics by step on {split}", task)
                found.append(section(title, legend(shown), f'<div class="grid">{"".join(figures)}</div>'))
    return found


def _figures(
    comparison: RunComparison, lines: Sequence[dict[str, Any]], identity: str
) -> tuple[list[str], list[Curve]]:
    """(figures, curves of the legend); nothing if each run has a single evaluation."""
    weights = lines[0].get("weights")
    of_runs = [
        [line for line in lines if line["run"] == place and line.get("weights") == weights]
        for place in range(len(comparison.runs))
    ]
    if max(len({line["step"] for line in mine}) for mine in of_runs) < 2:
        return [], []
    figures: list[str] = []
    shown: list[Curve] = []
    for name in metric_names(lines):
        curves = [
            curve(mine, name, run.name, colour=place)
            for place, (run, mine) in enumerate(zip(comparison.runs, of_runs, strict=True))
        ]
        shown = [one for one in curves if one.steps]
        figures.append(figure(f"metric-{identity}-{len(figures)}", label(name), shown))
    return figures, shown


def _metrics(comparison: RunComparison, group: Group) -> str:
    """All metrics of a group."""
    rows = []
    for name in comparison.runs[0].measured.figures[group].values:
        of_runs = _of_runs(comparison, group, name)
        rows += [{"metric": label(name) if not place else ""} | row for place, row in enumerate(of_runs)]
    return table(rows)


def _of_runs(comparison: RunComparison, group: Group, metric: str) -> list[dict[str, Any]]:
    """A row for the first run, and one for each of the others, of one metric."""
    first = comparison.runs[0]
    value = float(first.measured.figures[group].values[metric])
    rows: list[dict[str, Any]] = [{"run": first.name, "value": value if math.isfinite(value) else None}]
    for run in comparison.runs[1:]:
        if one := run.difference(group, metric):
            low, high = one.interval or (None, None)
            rows.append(
                {
                    "run": run.name,
                    "value": one.value,
                    "difference": one.by,
                    "relative_share": one.by / abs(one.reference) if one.reference else None,
                    "from": low,
                    "to": high,
                    "is": one.verdict,
                }
            )
            if one.won is not None:
                rows[-1] |= {"users_better_share": one.won, "users_worse_share": one.lost}
    return rows


def _group_sections(comparison: RunComparison) -> list[str]:
    """For each task and table the main metric of all groups, and below it all metrics of each."""
    first, found = comparison.runs[0].measured, []
    for task in comparison.tasks:
        for name, (title, unit) in first.tables.items():
            if groups := comparison.groups(task, name):
                heading = _titled(f"Segments: {title}", task)
                found.append(section(heading, *_segments(comparison, groups, unit)))
    return found


def _segments(comparison: RunComparison, groups: Sequence[Group], unit: str) -> list[str]:
    figures, metric = comparison.runs[0].measured.figures, comparison.metric_of(groups[0])
    rows, all_metrics = [], []
    for group in groups:
        size = f"{figures[group].rows:,}"
        for place, row in enumerate(_of_runs(comparison, group, metric)):
            own = {metric if key == "value" else key: cell for key, cell in row.items()}
            rows.append({"segment": "" if place else group.name, unit: "" if place else size} | own)
        all_metrics += [
            f"<h3>{escape(group.name)} ({size} {unit})</h3>",
            _metrics(comparison, group),
        ]
    notes = map(note, division_notes([unit == "users"]) if unit != "rows" else [])
    return [table(rows), *notes, folded("All metrics of each segment", *all_metrics)]

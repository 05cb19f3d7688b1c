"""A comparison of runs as one self-contained HTML page, with their curves over each other."""

from collections.abc import Sequence
from typing import Any

from trainer.comparison.comparing import RunComparison
from trainer.comparison.groups import EVERYONE
from trainer.comparison.text import compared_text
from trainer.report.facts import comparable, grouped, metric_names, subject
from trainer.report.figures import Curve, curve, figure, legend, plotly_source, smoothed
from trainer.report.page import cards, escape, label, note, number, page, section, table

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
                _metrics(comparison, task),
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
    task = comparison.tasks[0]
    found: list[tuple[str, str]] = []
    for run in comparison.runs:
        value = number(float(run.measured.figures[task, EVERYONE].values[comparison.metric]))
        verdict = next(
            (
                one.verdict
                for one in run.differences
                if (one.task, one.group, one.metric) == (task, EVERYONE, comparison.metric)
            ),
            "",
        )
        found.append((f"{label(comparison.metric)}, {run.name}{f': {verdict}' if verdict else ''}", value))
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


def _metrics(comparison: RunComparison, task: str, group: str = EVERYONE) -> str:
    first = comparison.runs[0]
    rows = []
    for name, value in first.measured.figures[task, group].values.items():
        rows.append({"metric": label(name), "run": first.name, "value": float(value)})
        for run in comparison.runs[1:]:
            for one in run.differences:
                if (one.task, one.group, one.metric) == (task, group, name):
                    low, high = one.interval or (None, None)
                    rows.append(
                        {
                            "metric": "",
                            "run": run.name,
                            "value": one.value,
                            "difference": one.by,
                            "relative_share": one.by / abs(one.reference) if one.reference else None,
                            "from": low,
                            "to": high,
                            "is": one.verdict,
                            "users_better_share": one.won,
                            "users_worse_share": one.lost,
                        }
                    )
    return table(rows)


def _group_sections(comparison: RunComparison) -> list[str]:
    first = comparison.runs[0].measured
    if first.groups is None:
        return []
    found = []
    for task in comparison.tasks:
        parts = [
            f"<h3>{escape(group)} ({figures.rows:,} {first.unit})</h3>{_metrics(comparison, task, group)}"
            for (of, group), figures in first.figures.items()
            if of == task and group != EVERYONE
        ]
        found.append(section(_titled(f"By {first.groups.name}", task), *parts))
    return found

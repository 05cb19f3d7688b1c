"""The report's sections about ranking models: curves, deciles, and slices of the latest evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.report.facts import comparable, grouped, subject
from trainer.report.figures import Curve, figure, legend
from trainer.report.page import escape, note, section, table


def prediction_sections(evaluations: Sequence[dict]) -> list[str]:
    """A section for each split and task; none if the model is not a ranking model.

    Args:
      evaluations: lines of metrics.jsonl, by rising step.
    """
    parts = []
    tasks = [line for line in evaluations if "task" in line]
    for place, lines in enumerate(grouped(tasks, comparable).values()):
        latest = [own[-1] for own in grouped(lines, subject).values()]
        parts.append(_section(latest, place))
    return parts


def _section(lines: list[dict], place: int) -> str:
    model = next((line for line in lines if line.get("scorer") == "model"), lines[0])
    title = f"Predictions: task {model['task']}, {model.get('split', '')}"
    parts = [_intervals(model), *_curves(lines, model, place)]
    if deciles := model.get("deciles"):
        rows = [_with_limits({k: v for k, v in one.items() if k != "interval"}, one) for one in deciles]
        parts += [_heading("Deciles of the prediction, each a tenth of the weight"), table(rows)]
    for feature, values in (model.get("by") or {}).items():
        parts += [_heading(f"By {feature}"), table([_slice_row(feature, value) for value in values])]
    return section(title, *parts, *_worst(model.get("worst")))


def _heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def _intervals(line: Mapping[str, Any]) -> str:
    rows = [
        _with_limits({"metric": _name(metric), "value": line.get(metric)}, {"interval": limits})
        for metric, limits in (line.get("intervals") or {}).items()
    ]
    undefined = [f"{_name(name)} is undefined: {why}." for name, why in (line.get("undefined") or {}).items()]
    if "groups" in line:
        undefined.append(
            f"{line['one_class_groups']:,} of {line['groups']:,} groups have rows of one label only and are "
            "left out of the grouped AUC."
        )
    weights = f", {line['weights']} weights" if line.get("weights") else ""
    heading = _heading(f"Metrics with their intervals{weights}")
    return heading + table(rows) + "".join(map(note, undefined)) if rows else ""


def _name(metric: str) -> str:
    return metric.replace("_", " ")


def _with_limits(row: dict[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    low, high = source.get("interval") or (None, None)
    return row | {"from": low, "to": high}


def _curves(lines: list[dict], model: dict, place: int) -> list[str]:
    """ROC and calibration, side by side."""
    roc = [
        Curve(_scorer(line), x, y, dashed=line.get("scorer") != "model", colour=colour)
        for colour, line in enumerate(lines)
        for x, y in filter(None, [line.get("roc")])
    ]
    calibration = []
    for colour, line in enumerate(lines):
        deciles = line.get("deciles")
        if deciles and line.get("scorer") == "model":
            x, y = ([one[key] for one in deciles] for key in ("mean_prediction", "mean_label"))
            calibration.append(Curve(_scorer(line), x, y, colour=colour))
    figures = []
    if roc:
        figures.append(
            figure(
                f"roc-{place}",
                "ROC: share of positives found, by share of negatives",
                *([*roc, _diagonal(1.0)], 360),
                x="share of negatives",
            )
        )
    if calibration:
        most = max(value or 0.0 for curve in calibration for value in (*curve.steps, *curve.values))
        figures.append(
            figure(
                f"calibration-{place}",
                "Calibration: mean label, by mean prediction of each decile",
                *([*calibration, _diagonal(most)], 360),
                x="mean prediction",
            )
        )
    if not figures:
        return []
    drawn = {curve.name: curve for curve in [*roc, *calibration]}
    return [legend(list(drawn.values())), f'<div class="grid">{"".join(figures)}</div>']


def _scorer(line: Mapping[str, Any]) -> str:
    return " ".join(part for part in subject(dict(line)) if part).replace("_", " ")


def _diagonal(end: float) -> Curve:
    return Curve("diagonal", [0.0, end], [0.0, end], dashed=True, faint=True, colour=5)


def _slice_row(feature: str, value: Mapping[str, Any]) -> dict[str, Any]:
    names = list(value.get("intervals") or {})
    row = {feature: value["value"] or "(empty)", "rows": value["rows"], "mean_label": value["base_rate"]}
    return row | {name: value.get(name) for name in names}


def _worst(worst: Mapping[str, Any] | None) -> list[str]:
    if worst is None:
        return []
    explained = note(
        f"Of {worst['examined']:,} slices (values of {', '.join(worst['features'])}) with at least "
        f"{worst['fewest_rows']:,} rows: those with the largest |log(predictions / labels)| whose interval, "
        "corrected for the number of slices, excludes 1."
    )
    rows = [_with_limits({k: v for k, v in one.items() if k != "interval"}, one) for one in worst["slices"]]
    found = table(rows) if rows else note("None: no slice is calibrated worse than chance explains.")
    return [_heading("Worst calibrated slices"), explained, found]

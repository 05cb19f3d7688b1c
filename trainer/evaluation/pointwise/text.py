"""An evaluation of a ranking model as text for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from configs.text import aligned

_SHOWN_VALUES = 10
"""Most values of a feature in a table; the report and the JSON have all."""


def format_predictions(lines: Sequence[Mapping[str, Any]]) -> str:
    """Tables of the figures of each task, and the protocol.

    Args:
      lines: from trainer.evaluation.pointwise.evaluator.
    """
    tasks = dict.fromkeys(line["task"] for line in lines)
    return "\n\n".join(_task_text([line for line in lines if line["task"] == task]) for task in tasks)


def _task_text(lines: Sequence[Mapping[str, Any]]) -> str:
    first, names = lines[0], list(lines[0]["intervals"])
    several = len([line for line in lines if line["scorer"] == "model"]) > 1
    rows = [[f"task {first['task']}", *names]]
    for line in lines:
        weights = f", {line['weights']}" if several and line["scorer"] == "model" else ""
        rows.append([line["scorer"].replace("_", " ") + weights, *(_figure(line[name]) for name in names)])
    for side, name in enumerate(("from", "to")):
        limits = [first["intervals"][metric] for metric in names]
        if any(limits):
            rows.insert(2 + side, [f"  {name}", *(_figure(pair and pair[side]) for pair in limits)])
    notes = [_counts(first)]
    notes += [f"{name} is undefined: {why}" for name, why in first["undefined"].items()]
    notes.append(first["protocol"])
    parts = [aligned(rows), "\n".join(notes)]
    parts += [_by_text(feature, values, names) for feature, values in first.get("by", {}).items()]
    return "\n\n".join([*parts, *_worst_text(first.get("worst"))])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _counts(line: Mapping[str, Any]) -> str:
    text = f"{line['split']}: {line['rows']:,} rows, mean label {_figure(line['base_rate'])}"
    if "groups" not in line:
        return text
    one, everything = line["one_class_groups"], line["groups"]
    return f"{text}, {everything:,} groups; {one:,} of them have one label only and no AUC, and are left out"


def _by_text(feature: str, values: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    own = [name for name in names if values and name in values[0]]
    rows = [[feature, "rows", "mean label", *own]]
    shown = [*values[:_SHOWN_VALUES], *values[max(_SHOWN_VALUES, len(values) - 1) :]]
    rows += [
        [v["value"] or "(empty)", f"{v['rows']:,}", _figure(v["base_rate"]), *(_figure(v[n]) for n in own)]
        for v in shown
    ]
    more = len(values) - len(shown)
    return aligned(rows) + (f"\n({more:,} further values are in the JSON and the report)" if more else "")


def _worst_text(worst: Mapping[str, Any] | None) -> list[str]:
    if worst is None:
        return []
    looked = f"of {worst['examined']:,} slices with at least {worst['fewest_rows']:,} rows"
    if not worst["slices"]:
        return [f"No slice is calibrated worse than chance explains, {looked}."]
    rows = [["worst calibrated", "value", "rows", "mean label", "prediction", "calibration", "from", "to"]]
    rows += [
        [
            *(one["feature"], one["value"] or "(empty)", f"{one['rows']:,}"),
            *map(_figure, (one["mean_label"], one["mean_prediction"], one["calibration"], *one["interval"])),
        ]
        for one in worst["slices"]
    ]
    return [f"{aligned(rows)}\n({looked})"]

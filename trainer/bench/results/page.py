"""Output of a benchmark: a table in the terminal, a CSV file, and a self-contained HTML file."""

import csv
import os
from collections.abc import Mapping, Sequence

from configs.text import aligned
from trainer.bench.timing import PHASES
from trainer.report import page
from trainer.report.figures import fragment, plotly_source

_COLOURS = {"forward": "#3f82f0", "gradient": "#e0782f", "update": "#2a9d6f"}
_LINES = ("#3f82f0", "#e0782f", "#2a9d6f", "#b0489a")


def print_table(rows: Sequence[Mapping], keys: Sequence[str]) -> None:
    """Prints keys, median and spread of each phase in ms, and sizes; '-' where the reason is below."""
    titles = [*keys, *(f"{phase} ms" for phase in PHASES), "total ms", "model MB", "state MB"]
    lines = [titles, *([*(_text(row[key]) for key in keys), *_figures(row)] for row in rows)]
    _print_lines(lines, len(keys))
    print("median ± interquartile range")
    for reason, names in missing_reasons(rows, keys).items():
        print(f"-  {reason}: {', '.join(names)}")


def print_plain_table(rows: Sequence[Mapping], columns: Sequence[str]) -> None:
    """Prints rows under `columns`; '-' for missing values, with the row's `reason`, if any, below."""
    shown = [name for name in columns if name != "reason"]
    _print_lines([shown, *([_text(row.get(name, "-")) for name in shown] for row in rows)], 0)
    for row in rows:
        if row.get("reason"):
            known = [_text(row[name]) for name in shown if name in row]
            print(f"-  {' '.join(known)}: {row['reason']}")


def _print_lines(lines: Sequence[Sequence[str]], num_left: int) -> None:
    """Prints cells in columns, the first `num_left` of which are left-aligned."""
    print(aligned(lines, left=range(num_left)))


def missing_reasons(rows: Sequence[Mapping], keys: Sequence[str]) -> dict[str, list[str]]:
    """Reasons of the rows without figures: {reason: names of the rows}."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            found.setdefault(row["reason"], []).append(" ".join(_text(row[key]) for key in keys))
    return found


def _text(value) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figures(row: Mapping) -> list[str]:
    if row["reason"]:
        return ["-"] * (len(PHASES) + 3)
    times = [f"{row[f'{p}_ms']:,.1f} ± {row[f'{p}_iqr']:,.1f}" for p in (*PHASES, "total")]
    return [*times, *(f"{row[key] / (1 << 20):,.1f}" for key in ("model_bytes", "state_bytes"))]


def write_csv(path: str, rows: Sequence[Mapping], keys: Sequence[str]) -> None:
    """Writes all rows; those without figures have a reason."""
    times = [f"{phase}_{kind}" for phase in (*PHASES, "total") for kind in ("ms", "iqr")]
    columns = [*keys, *times, "model_bytes", "state_bytes", "reason"]
    write_plain_csv(path, rows, columns)


def write_plain_csv(path: str, rows: Sequence[Mapping], columns: Sequence[str] | None = None) -> None:
    """Writes rows (at least one) under `columns`, default: the first row's keys; '-' for missing values."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), restval="-", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_page(
    path: str, title: str, command: str, figures: Sequence[str], rows: Sequence[Mapping], keys
) -> None:
    """Writes the HTML page: figures from `bars` and `lines`, then the table and the reasons."""
    cells = [
        {key: _text(row[key]) for key in keys} | dict(zip(_TITLES, _figures(row), strict=True))
        for row in rows
    ]
    notes = [page.note(f"- {why}: {', '.join(names)}") for why, names in missing_reasons(rows, keys).items()]
    sections = [page.section("Figures", *figures)] if figures else []
    sections.append(page.section("Median ± interquartile range", page.table(cells), *notes))
    _write_html(path, page.page(title, page.note(command), sections, plotly_source()))


def write_tables(path: str, title: str, command: str, tables: Mapping[str, Sequence[Mapping]]) -> None:
    """Writes an HTML page of plain tables: rows by the table's title."""
    sections = [page.section(name, page.table(rows)) for name, rows in tables.items()]
    _write_html(path, page.page(title, page.note(command), sections, ""))


def _write_html(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


_TITLES = (*(f"{phase}_ms" for phase in PHASES), "total_ms", "model_MB", "state_MB")


def bars(identity: str, title: str, rows: Sequence[Mapping], keys: Sequence[str]) -> str:
    """HTML of stacked bars of the phases, one bar per row; rows without figures are omitted."""
    rows = [row for row in rows if not row["reason"]]
    names = [" ".join(_text(row[key]) for key in keys) for row in rows]
    traces = [
        {
            "type": "bar",
            "y": names,
            "x": [row[f"{phase}_ms"] for row in rows],
            "name": phase,
            "orientation": "h",
            "marker": {"color": _COLOURS[phase]},
        }
        for phase in PHASES
    ]
    layout = {"barmode": "stack", "yaxis": {"autorange": "reversed", "automargin": True}}
    return fragment(identity, traces, layout | _layout(title, 110 + 24 * len(rows), "ms per step, median"))


def lines(identity: str, title: str, rows: Sequence[Mapping], x: str, by: str, y: str) -> str:
    """HTML of curves of row[y] in ms over row[x], one per value of row[by], on logarithmic axes."""
    traces = []
    for i, name in enumerate(dict.fromkeys(row[by] for row in rows)):
        points = [
            (row[x], row[y], row.get(y.replace("_ms", "_iqr")))
            for row in rows
            if row[by] == name and not row["reason"]
        ]
        xs, ys, spread = zip(*points, strict=True) if points else ((), (), ())
        traces.append(
            {
                "type": "scatter",
                "x": xs,
                "y": ys,
                "name": name,
                "mode": "lines+markers",
                "line": {"color": _LINES[i % len(_LINES)]},
                "error_y": {"array": [s / 2 for s in spread]},
            }
        )
    layout = {"yaxis": {"type": "log", "title": {"text": "ms"}}}
    return fragment(identity, traces, layout | _layout(title, 340, x, {"type": "log"}))


def _layout(title: str, height: int, x_title: str, x_axis: Mapping | None = None) -> dict:
    return {
        "title": {"text": title, "font": {"size": 14}},
        "xaxis": {"title": {"text": x_title}, "automargin": True} | dict(x_axis or {}),
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        "font": {"color": "#5d6877"},
    }

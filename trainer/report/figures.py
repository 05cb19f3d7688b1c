"""Figures of the report: curves, mostly over steps, as HTML fragments for a page that includes plotly.js.

plotly-basic-4.1.1.min.js.gz is plotly.js' bundle of lines and bars, a quarter of the whole, under the MIT
licence: `npm pack plotly.js-basic-dist-min@4.1.1`, then its plotly-basic.min.js through `gzip -9n`.
"""

import base64
import html
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_PLOTLY = pathlib.Path(__file__).parent / "plotly-basic-4.1.1.min.js.gz"
MAX_POINTS = 4000  # more are indistinguishable on a screen, and make the file slow to open
COLOURS = ("#3f82f0", "#e0782f", "#2a9d6f", "#b0489a", "#8a7a2e", "#5d6877")  # readable on white and black
FAINT = 0.5  # opacity


class Curve(NamedTuple):
    """One line of a figure."""

    name: str
    """Plain text for the legend."""
    steps: Sequence[float]
    """x, increasing; steps in most figures."""
    values: Sequence[float | None]
    """y, one per x; None is a gap."""
    dashed: bool = False
    """For baselines."""
    faint: bool = False
    """For the raw values behind a smoothed curve."""
    colour: int = 0
    """Index into COLOURS."""


def figure(
    identity: str,
    title: str,
    curves: Sequence[Curve],
    height: int = 240,
    unit: str = "",
    from_zero: bool = True,
    x: str = "step",
) -> str:
    """Curves as `fragment` gives them.

    Args:
      identity: the element's id, unique on the page; letters, digits and dashes.
      title: plain text over the figure.
      curves: the lines, in the order of the legend.
      height: pixels.
      unit: plotly's tick format of the y axis, such as ".0%"; "" for plotly's default.
      from_zero: whether the y axis begins at 0, which keeps small changes small.
      x: title of the x axis; other than steps, x are numbers with a fraction.
    """
    axis = {
        "gridcolor": "rgba(128,128,128,0.25)",
        "zeroline": False,
        "automargin": True,
        "ticklabelstandoff": 4,
    }
    form = {"tickformat": "~s", "hoverformat": ",d"} if x == "step" else {"hoverformat": ".4~g"}
    across = {"title": {"text": x, "standoff": 6}, "rangemode": "tozero", **form, **axis}
    upright = {"rangemode": "tozero" if from_zero else "normal", **axis}
    upright |= {"tickformat": unit} if unit else {}
    layout = {**_layout(title, height), "xaxis": across, "yaxis": upright}
    return fragment(identity, [_trace(curve) for curve in curves], layout)


def fragment(identity: str, traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> str:
    """One figure as a <div> with its data, which the page's script draws; plotly.js is not included.

    Args:
      identity: the element's id, unique on the page; letters, digits and dashes.
      traces: of plotly.js, scatter or bar; numbers that are not finite are gaps.
      layout: of plotly.js, with a height.
    """
    config = {"displayModeBar": False, "responsive": True}
    plot = json.dumps(_finite({"data": traces, "layout": layout, "config": config}), allow_nan=False)
    return (
        f'<div class="figure"><div id="{identity}" style="height: {layout["height"]}px"></div>'
        f'<script type="application/json" data-plot="{identity}">'
        # Text cannot end the element.
        f"{plot.replace('<', chr(92) + 'u003c')}</script></div>"
    )


def _finite(value: Any) -> Any:
    """The same for JSON, which has no infinity and no NaN: they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def legend(curves: Sequence[Curve]) -> str:
    """The legend of figures that draw these curves, as HTML; "" for a single curve."""
    if len(curves) < 2:
        return ""
    entries = []
    for c in curves:
        looks = f"border-top: {'dashed' if c.dashed else 'solid'} 2px {_colour(c)}"
        looks += f"; opacity: {FAINT}" if c.faint else ""
        entries.append(f'<span><i style="{looks}"></i>{html.escape(c.name)}</span>')
    return f'<div class="legend">{"".join(entries)}</div>'


def plotly_source() -> str:
    """plotly.js, compressed with gzip, in base64: `page` includes it."""
    return base64.b64encode(_PLOTLY.read_bytes()).decode()


def curve(lines: Sequence[dict[str, Any]], key: str, name: str, **looks) -> Curve:
    """The values of `key` over the steps of the lines that have it."""
    points = [(line["step"], line[key]) for line in lines if key in line]
    return Curve(name, [step for step, _ in points], [value for _, value in points], **looks)


def smoothed(raw: Curve, name: str, points: int = 50) -> Curve:
    """Exponential mean of a curve with a memory of 1/`points` of its length, bias-corrected."""
    decay = 1 - 1 / max(2.0, len(raw.values) / points)
    total = weight = 0.0
    values = []
    for value in raw.values:
        if value is not None:
            total = decay * total + (1 - decay) * value
            weight = decay * weight + (1 - decay)
        values.append(total / weight if value is not None else None)
    return raw._replace(name=name, values=values)


def _layout(title: str, height: int) -> dict:
    return dict(
        title={"text": _text(title), "font": {"size": 14}, "x": 0, "xref": "container", "y": 0.98},
        height=height,
        margin={"l": 56, "r": 12, "t": 32 if title else 10, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, 'Segoe UI', Roboto, Arial, sans-serif", "size": 12, "color": "#5d6877"},
        hovermode="x unified",
        showlegend=False,  # neighbouring figures share one: see legend()
    )


def _trace(curve: Curve) -> dict:
    steps, values = _thin(list(curve.steps), list(curve.values))
    line = {"width": 1 if curve.faint else 2, "dash": "dash" if curve.dashed else "solid"}
    line["color"] = _colour(curve)
    few = len(steps) <= 30 and not curve.dashed and not curve.faint
    return dict(
        type="scatter",
        x=steps,
        y=values,
        name=_text(curve.name),
        mode="lines+markers" if few else "lines",  # a single point draws no line
        line=line,
        marker={"size": 6},
        opacity=FAINT if curve.faint else 1,
        hovertemplate="%{y:.4~g}",
    )


def _thin(steps: list, values: list) -> tuple[list, list]:
    """At most MAX_POINTS points: the lowest and highest of each stretch, which keeps spikes visible."""
    if len(steps) <= MAX_POINTS:
        return steps, values
    stretch = -(-2 * len(steps) // MAX_POINTS)
    kept = {0, len(steps) - 1}
    for start in range(0, len(steps), stretch):
        places = range(start, min(start + stretch, len(steps)))
        finite = [p for p in places if values[p] is not None]
        kept |= (
            {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)} if finite else {start}
        )
    order = sorted(kept)
    return [steps[p] for p in order], [values[p] for p in order]


def _colour(curve: Curve) -> str:
    return COLOURS[curve.colour % len(COLOURS)]


def _text(text: str) -> str:
    """Escapes plain text: plotly interprets some HTML in its labels."""
    return html.escape(text, quote=False)

"""Rendering of the report: numbers as text, HTML tables and cards, and the surrounding page.

Functions take plain data, escape it, and return HTML unless they say otherwise.
"""

import html
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

CSS = """
:root { color-scheme: light dark; --text: #1c2430; --dim: #5d6877; --page: #f4f6f8; --card: #ffffff;
  --line: #dfe4ea; --accent: #2f6fde; --warn: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ee; --dim: #9aa6b5; --page: #12161c;
  --card: #1b2129; --line: #303945; --accent: #7aa7ff; --warn: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 27px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 10px; }
h3 { font-size: 14px; margin: 16px 0 4px; overflow-wrap: anywhere; }
table + .scroll, .scroll + .scroll { margin-top: 16px; }
p { margin: 2px 0 8px; }
.dim { color: var(--dim); font-size: 13px; overflow-wrap: anywhere; }
.warn { border: 1px solid var(--warn); color: var(--warn); border-radius: 10px; padding: 10px 14px;
  margin-top: 16px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 18px 20px; margin-top: 18px; }
.cards { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 18px; }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 10px 12px; flex: 1 1 auto; max-width: 260px; }
.cards b { display: block; font-size: 19px; font-weight: 650; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.cards span { color: var(--dim); font-size: 13px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr));
  gap: 8px 20px; }
.grid > *, .figure { min-width: 0; overflow: hidden; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 4px 0 8px; font-size: 13px; }
.legend i { display: inline-block; width: 26px; margin-right: 7px; vertical-align: middle; }
.bar { display: flex; justify-content: space-between; align-items: baseline; gap: 4px 16px; flex-wrap: wrap; }
button { font: inherit; font-size: 13px; color: var(--text); background: transparent; cursor: pointer;
  border: 1px solid var(--line); border-radius: 7px; padding: 2px 10px; }
button[aria-pressed=true] { border-color: var(--accent); color: var(--accent); }
.scroll { overflow-x: auto; margin-bottom: 6px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 16px 5px 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; vertical-align: bottom; }
.text { text-align: left; }
td.long { min-width: 260px; white-space: normal; overflow-wrap: anywhere; }
th { min-width: 58px; white-space: normal; }
summary { cursor: pointer; color: var(--accent); font-size: 13px; margin-top: 8px; }
.pairs td { text-align: left; }
.pairs td:first-child { color: var(--dim); }
.pairs td:last-child { white-space: normal; overflow-wrap: anywhere; padding-right: 0; }
tbody tr:last-child td { border-bottom: 0; }
pre { margin: 0; overflow-x: auto; font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
"""

# Unpacks plotly.js and draws all figures in the page's colours; buttons with data-figure toggle a logarithmic
# axis.
SCRIPT = """
const figures = () => document.querySelectorAll('.js-plotly-plot');
async function draw() {
  const packed = Uint8Array.from(atob(document.getElementById('plotly').textContent), c => c.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  const library = document.createElement('script');
  library.textContent = await new Response(unpacked).text();
  document.head.append(library);
  for (const data of document.querySelectorAll('script[data-plot]'))
    await Plotly.newPlot(data.dataset.plot, JSON.parse(data.textContent));
  paint();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paint);
}
function paint() {
  const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  figures().forEach(f => Plotly.relayout(f, {'font.color': color('--text'),
    'hoverlabel.bgcolor': color('--card'), 'hoverlabel.font.color': color('--text'),
    'xaxis.gridcolor': color('--line'), 'yaxis.gridcolor': color('--line')})
    .then(() => Plotly.Plots.resize(f)));  // it was drawn before the page had its final layout
}
draw().catch(error => document.querySelectorAll('.figure > div').forEach(f => {
  f.textContent = `This figure needs a browser that can unpack gzip, of 2023 or later (${error}).`; }));
document.querySelectorAll('button[data-figure]').forEach(b => b.addEventListener('click', () => {
  const on = b.getAttribute('aria-pressed') !== 'true';
  b.setAttribute('aria-pressed', on);
  Plotly.relayout(b.dataset.figure, {[b.dataset.axis + '.type']: on ? 'log' : 'linear',
    [b.dataset.axis + '.autorange']: true});
}));
"""

_WORDS = {name: name.upper() for name in ("hr", "ndcg", "mrr", "pr", "auc", "rmse", "mae", "rss", "oov")} | {
    "bytes": "size"
}


def escape(value: Any) -> str:
    """`value` as text that is safe in HTML, including attributes."""
    return html.escape(str(value), quote=True)


def label(key: str) -> str:
    """A key as a heading: ndcg@10 becomes NDCG@10, weight_norm_p99 becomes Weight norm p99."""
    words = key.removesuffix("_share").replace("_", " ").split()
    named = []
    for word in words:
        name, at, cut = word.partition("@")
        named.append(_WORDS.get(name, name) + at + cut)
    text = " ".join(named) or key
    return text[:1].upper() + text[1:]


def number(value: Any, key: str = "") -> str:
    """A value as plain text, not escaped: 4 significant digits, thousands separators.

    The unit follows from the key's last word: bytes in B to TiB, share and fraction in %, seconds as
    durations, time and timestamp (unix seconds) as dates.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {number(inner, name)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(number(inner, key) for inner in value)
    if value is None:
        return "–"
    if not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return "not finite"
    return _FORMS.get(key.rpartition("_")[2], _digits)(value)


def _digits(value: float) -> str:
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    if 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:#.4g}" if abs(value) >= 0.01 else f"{value:.4g}"


def _size(value: float) -> str:
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(value) >= 1024 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{_digits(value)} {units[0]}"


def _span(value: float) -> str:
    if value < 60:
        return f"{_digits(value)} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _date(value: float) -> str:
    try:
        return datetime.fromtimestamp(value, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return _digits(value)


def _percent(value: float) -> str:
    return f"{_digits(100 * value)} %"


_FORMS = {
    "bytes": _size,
    "share": _percent,
    "fraction": _percent,
    "seconds": _span,
    "timestamp": _date,
    "time": _date,
}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """An HTML table whose columns are the rows' keys in order of appearance; numbers are right-aligned."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    kinds = {c: _kind([row.get(c) for row in rows]) for c in columns}
    head = "".join(f'<th class="{kinds[c]}">{escape(label(c))}</th>' for c in columns)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kinds[c]}">{escape(number(row.get(c), c))}</td>' for c in columns)
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def pairs(facts: Mapping[str, Any]) -> str:
    """A two-column table of names and values; "" when there are no facts."""
    rows = "".join(
        f"<tr><td>{escape(label(k))}</td><td>{escape(number(v, k))}</td></tr>" for k, v in facts.items()
    )
    return f'<table class="pairs"><tbody>{rows}</tbody></table>' if rows else ""


def _kind(values: Sequence[Any]) -> str:
    """The CSS classes of a column."""
    texts = [str(v) for v in values if v is not None and not isinstance(v, (int, float))]
    return "number" if not texts else "text long" if max(map(len, texts)) > 60 else "text"


def cards(figures: Sequence[tuple[str, str]]) -> str:
    """The cards at the top of the page, from (caption, value) pairs of plain text."""
    return (
        '<div class="cards">'
        + "".join(f"<div><b>{escape(v)}</b><span>{escape(c)}</span></div>" for c, v in figures)
        + "</div>"
    )


def note(text: str) -> str:
    """A paragraph of plain text in a muted colour."""
    return f'<p class="dim">{escape(text)}</p>'


def section(title: str, *parts: str) -> str:
    """A titled card; parts are HTML."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def folded(title: str, *parts: str) -> str:
    """Parts, HTML, that are shown when the reader opens them by their title."""
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def page(title: str, head: str, sections: Sequence[str], plotly: str) -> str:
    """The whole document.

    Args:
      title: plain text.
      head: HTML under the title.
      sections: HTML, one element per section.
      plotly: plotly.js as trainer.report.figures.plotly_source gives it, "" when there are no figures.
    """
    # At the end, so that a browser shows the text first.
    scripts = plotly and (
        f'<script type="text/plain" id="plotly">{plotly}</script>\n<script type="module">{SCRIPT}</script>'
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>{head}\n"
        + "\n".join(sections)
        + f"\n</main>{scripts}</body></html>\n"
    )

"""Writes <run_dir>/report.html: the whole run on one self-contained page that opens offline."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from configs.dataset_parts import DriftInfo
from configs.sections.sources import places_of
from configs.system.storage import write_bytes
from trainer.report.drift import HELP, drift_rows
from trainer.report.facts import (
    BEST,
    best_step,
    checkpoint_facts,
    comparable,
    grouped,
    metric_names,
    peak_memory,
    subject,
    train_names,
    training_seconds,
    without_repeats,
)
from trainer.report.figures import Curve, curve, figure, legend, plotly_source, smoothed
from trainer.report.findings import evaluation_findings, loss_findings
from trainer.report.left_out import COUNTS, reasons
from trainer.report.metrics_file import read_metrics
from trainer.report.page import cards, escape, label, note, number, page, pairs, section, table
from trainer.report.predictions import prediction_sections
from trainer.report.segments import retrieval_sections
from trainer.report.warm_start import EVENTS_OF_START, start_sections

REPORT_FILE = "report.html"
_DATASET_FACTS = (
    "source_rows",
    "filtered",
    "duplicates",
    "history_length",
    "history_of",
    "fingerprint",
    "source_fingerprint",
    "path",
)
_IN_TITLE = {"time", "kind", "split", "protocol", "scorer", "weights", "task"}
_IN_SECTIONS = {"intervals", "undefined", "deciles", "roc", "by", "worst", "lists", "resampling"}
"""Shown by trainer/report/predictions.py and segments.py."""
_KNOWN_TRAIN = {"loss", "examples_per_second", "input_wait_share", "peak_rss_bytes"}


def write_report(
    run_dir: str, dataset_summary: Mapping | None, table_stats: Sequence[Mapping], config_yaml: str
) -> str:
    """Writes <run_dir>/report.html atomically from the run's metrics and the given facts.

    Args:
      run_dir: run directory, local or gs://; its metrics.jsonl may be missing.
      dataset_summary: content of dataset.json (configs.manifest.Dataset.model_dump()), or None.
      table_stats: one mapping per embedding table; every key becomes a column whose unit follows from the
        key's suffix (_bytes, _share, _seconds).
      config_yaml: the resolved configuration.

    Returns:
      Path of the report.

    Raises:
      DataError: metrics.jsonl is damaged.
    """
    lines = read_metrics(run_dir)
    train = [line for line in lines if line.get("kind") == "train"]
    evaluations = without_repeats([line for line in lines if line.get("kind") == "evaluate"])
    sections = [
        _loss(train),
        _metric_curves(evaluations),
        section("Final evaluation", *_final_table(evaluations), *_best(lines)),
        *prediction_sections(evaluations),
        *retrieval_sections(evaluations),
        _speed(train),
        section(
            "Embedding tables", table(table_stats) if table_stats else note("No statistics of the tables.")
        ),
        *start_sections(lines),
        _dataset(dataset_summary),
        _resources(lines),
        section("Configuration", f"<pre>{escape(config_yaml)}</pre>"),
    ]
    has_figures = any('class="figure"' in part for part in sections)
    head = (
        note(_subtitle(lines))
        + cards(_headline(lines, train, evaluations))
        + _warnings(lines, train, evaluations)
    )
    name = _run_name(config_yaml, run_dir)
    content = page(name, head, sections, plotly_source() if has_figures else "")
    path = f"{run_dir.rstrip('/')}/{REPORT_FILE}"
    write_bytes(path, content.encode())
    return path


def _run_name(config_yaml: str, run_dir: str) -> str:
    """The configuration's `name`, or else the name of the run directory."""
    try:
        config = yaml.load(config_yaml, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # many times faster
    except yaml.YAMLError:
        config = None
    name = config.get("name") if isinstance(config, dict) else None
    return str(name or run_dir.rstrip("/").rpartition("/")[2] or "run")


def _loss(train: list[dict]) -> str:
    raw = curve(train, "loss", "as recorded")
    if not raw.steps:
        return section("Loss", note("No training steps recorded yet."))
    if len(raw.steps) < 20:  # too few to smooth
        curves = [raw]
    else:
        curves = [raw._replace(faint=True), smoothed(raw, "smoothed")]
    buttons = "".join(
        f'<button type="button" data-figure="loss" data-axis="{axis}" aria-pressed="false">{text}</button> '
        for axis, text in (("xaxis", "log step"), ("yaxis", "log loss"))
    )
    help_line = note("Drag in any figure to zoom in; double-click to reset.")
    return section(
        "Loss",
        f'<div class="bar">{help_line}<div>{buttons}</div></div>',
        legend(curves),
        figure("loss", "", curves, height=360, from_zero=False),
    )


def _metric_curves(evaluations: list[dict]) -> str:
    groups = grouped(evaluations, comparable)
    steps = {
        pair: {line["step"] for line in lines if subject(line)[0] == "model"}
        for pair, lines in groups.items()
    }
    several = any(len(s) > 1 for s in steps.values())
    parts = []
    for place, (pair, lines) in enumerate(groups.items()):
        parts.append(_group_title(pair))
        if several and len(steps[pair]) < 2:
            parts.append(note("Evaluated only once: see Final evaluation."))
            continue
        curves = {metric: _metric(lines, metric) for metric in metric_names(lines)}
        figures = [figure(f"metric-{place}-{n}", label(m), c) for n, (m, c) in enumerate(curves.items()) if c]
        drawn = {c.name: c for several_curves in curves.values() for c in several_curves}
        parts.append(legend(list(drawn.values())) + f'<div class="grid">{"".join(figures)}</div>')
    return section("Ranking metrics", *(parts or [note("No evaluations recorded yet.")]))


def _group_title(pair: tuple[str, str]) -> str:
    return f"<h3>{escape(': '.join(part for part in pair if part))}</h3>"


def _metric(lines: list[dict], metric: str) -> list[Curve]:
    """The model's curves of one metric, and each baseline's latest value as a dashed horizontal line."""
    start, end = min(line["step"] for line in lines), max(line["step"] for line in lines)
    subjects = grouped(lines, subject)
    curves = []
    for colour, ((scorer, weights), own) in enumerate(subjects.items()):
        name = f"{scorer} {weights}".replace("_", " ").strip()
        if scorer == "model":
            curves.append(curve(own, metric, name, colour=colour))
        elif own[-1].get(metric) is not None:
            ends = [start if start < end else 0, end]  # a single evaluation still needs a line
            curves.append(Curve(name, ends, [own[-1][metric]] * 2, dashed=True, colour=colour))
    return [c for c in curves if c.steps]


def _final_table(evaluations: list[dict]) -> list[str]:
    parts, hidden = [], _IN_TITLE | _IN_SECTIONS | set(COUNTS)
    for pair, lines in grouped(evaluations, comparable).items():
        latest = [own[-1] for own in grouped(lines, subject).values()]
        metrics = metric_names(latest)
        rows = []
        for line in sorted(latest, key=lambda line: subject(line)[0] != "model"):
            scorer, weights = subject(line)
            row = {"scorer": scorer.replace("_", " "), "weights": weights or "–", "step": line.get("step")}
            row |= {name: line.get(name) for name in metrics}
            rows.append(row | {name: value for name, value in line.items() if name not in hidden})
        parts += [_group_title(pair), table(rows)]
        if left_out := reasons(latest[0]):
            parts.append(note(f"Not evaluated: {'; '.join(left_out)}."))
    return parts or [note("No evaluations recorded yet.")]


def _best(lines: list[dict]) -> list[str]:
    """Which checkpoint is the best, marked as in the table of evaluations."""
    if (best := best_step(lines)) is None:
        return []
    figure_text = f"{best['metric']} {number(best['value'])} on valid"
    return [note(f"Best checkpoint: step {best['step']:,}, {figure_text}; it is the one that is exported.")]


def _speed(train: list[dict]) -> str:
    rates = [key for key in train_names(train) if key.startswith("learning_rate")]
    others = [key for key in train_names(train) if key not in rates and key not in _KNOWN_TRAIN]
    wanted = [("examples_per_second", "Examples per second", "~s")]
    wanted += [(key, label(key), "") for key in rates]
    wanted += [("input_wait_share", "Share of time spent waiting for input", ".0%")]
    wanted += [(key, label(key), ".0%" if key.endswith("_share") else "") for key in others]
    figures = [
        figure(f"train-{place}", title, [drawn], unit=unit, height=260)
        for place, (key, title, unit) in enumerate(wanted)
        if (drawn := curve(train, key, title)).steps
    ]
    grid = f'<div class="grid">{"".join(figures)}</div>'
    return section(
        "Throughput and learning rate", grid if figures else note("No training steps recorded yet.")
    )


def _dataset(summary: Mapping | None) -> str:
    if not summary:
        return section("Dataset", note("No summary of the dataset."))
    facts = {key: summary[key] for key in _DATASET_FACTS if key in summary}
    for catalog in ("users", "items"):
        if isinstance(summary.get(catalog), Mapping):
            facts[catalog] = summary[catalog].get("rows")
    splits = [{"split": name} | _split(info) for name, info in summary.get("splits", {}).items()]
    tables = [{"table": name} | _entry(info) for name, info in summary.get("tables", {}).items()]
    rejected = summary.get("rejected", {}).items()
    parts = [table(rows) for rows in (splits, tables, _sides(summary)) if rows]
    parts.append(
        table([{"rejection reason": reason, "rows": rows} for reason, rows in rejected])
        if rejected
        else note("No rows were rejected.")
    )
    return section("Dataset", pairs(facts), *parts, *_drift(summary))


def _drift(summary: Mapping) -> list[str]:
    """What has changed since the dataset on which this one stands; nothing if there is none."""
    found = {name: DriftInfo.model_validate(info) for name, info in (summary.get("drift") or {}).items()}
    if not found:
        return []
    path = (summary.get("base") or {}).get("path")
    title = f"Drift from {path}" if path else "Drift from the base"
    return [f"<h3>{escape(title)}</h3>", table(drift_rows(found)), note(HELP)]


def _sides(summary: Mapping) -> list[dict]:
    """What became of each side table's rows."""
    sections = summary.get("source", {}).get("sides", [])
    return [
        {"side table": ", ".join(places_of(section)), **info, "rejected": sum(info["rejected"].values())}
        for section, info in zip(sections, summary.get("sides", []), strict=True)
    ]


def _split(info: Any) -> dict:
    entry = _entry(info)
    if isinstance(entry.get("files"), (list, tuple)):
        entry["files"] = len(entry["files"])
    for name in ("min_timestamp", "max_timestamp"):  # manifest: nanoseconds; page: seconds
        if isinstance(entry.get(name), int):
            entry[name] //= 10**9
    return {k: v for k, v in entry.items() if k != "path"}


def _entry(info: Any) -> dict:
    """An entry of the summary as a mapping; a bare number counts rows."""
    return dict(info) if isinstance(info, Mapping) else {"rows": info}


def _resources(lines: list[dict]) -> str:
    if not lines:
        return section("Memory and time", note("Nothing recorded yet."))
    facts = {
        "peak memory": number(peak_memory(lines), "bytes"),
        "run time": number(training_seconds(lines), "seconds"),
    }
    hidden = ("checkpoint", "finding", BEST, *EVENTS_OF_START)
    events = [
        {k: v for k, v in line.items() if k not in ("kind", "restore_seconds", "bytes", "num_steps")}
        for line in lines
        if line.get("kind") == "run" and line.get("event") not in hidden
    ]
    saved = checkpoint_facts(lines)
    medians = note("Medians. Blocked: how long training waited; written: how long saving took.")
    return section(
        "Memory and time",
        pairs(facts),
        table(events) if events else "",
        f"<h3>Checkpoints</h3>{medians}{table(saved)}" if saved else "",
    )


def _headline(lines: list[dict], train: list[dict], evaluations: list[dict]) -> list[tuple[str, str]]:
    """(caption, value) of the cards at the top of the page."""
    figures = _best_metrics(evaluations)
    if losses := [line["loss"] for line in train if "loss" in line]:
        figures.append(("final loss", "not finite" if losses[-1] is None else number(losses[-1])))
    if best := best_step(lines):
        figures.append((f"best step, by {best['metric']}", number(best["step"])))
    if lines:
        figures.append(("steps", number(max(line.get("step", 0) for line in lines))))
    if rates := sorted(v for line in train if (v := line.get("examples_per_second")) is not None):
        figures.append(("examples/s, median", number(round(rates[len(rates) // 2]))))
    if peak_memory(lines) is not None:
        figures.append(("peak memory", number(peak_memory(lines), "bytes")))
    if lines:
        figures.append(("run time", number(training_seconds(lines), "seconds")))
    return figures


def _best_metrics(evaluations: list[dict]) -> list[tuple[str, str]]:
    """The model's latest metrics at the first cut-off: test before valid, averaged before raw weights."""
    order = {"test": 0, "valid": 1}
    models = [line for line in reversed(evaluations) if subject(line)[0] == "model"]
    if not models:
        return []
    best = min(models, key=lambda line: (order.get(line.get("split"), 2), line.get("weights") != "average"))
    names = metric_names([best])
    chosen = [name for name in names if name.partition("@")[2] == names[0].partition("@")[2]]
    of = ", ".join(best[key] for key in ("task", "split") if key in best)
    return [(f"{label(name)}, {of}", number(best[name])) for name in chosen[:4]]


def _subtitle(lines: list[dict]) -> str:
    times = [number(line["time"], "time") for line in lines if "time" in line]
    return f"{times[0]} to {times[-1]}" if times else "Nothing recorded yet."


def _warnings(lines: list[dict], train: list[dict], evaluations: list[dict]) -> str:
    bad = [line["step"] for line in lines if line.get("kind") == "train" and line.get("loss", 0) is None]
    skips = [line for line in lines if line.get("event") == "skip"]
    texts = []
    if bad:
        steps = "1 recorded step" if len(bad) == 1 else f"{len(bad):,} recorded steps"
        texts.append(f"The loss was not finite at {steps}, first at step {bad[0]:,}.")
    if skips:
        skipped, first = skips[-1]["skipped_batches"], skips[0]["step"]
        batches = "1 batch was" if skipped == 1 else f"{skipped:,} batches were"
        texts.append(
            f"{batches} skipped because the loss or a gradient was not finite, first at step {first:,}."
        )
    texts += dict.fromkeys(line["finding"] for line in lines if "finding" in line)
    if any(line.get("event") == "end" for line in lines):
        texts += loss_findings(train)
        texts += _of_last_evaluations(evaluations)
    return "".join(f'<div class="warn">{escape(text)}</div>' for text in texts)


def _of_last_evaluations(evaluations: list[dict]) -> list[str]:
    texts = []
    for (split, _), lines in grouped(evaluations, comparable).items():
        step = max(line.get("step", 0) for line in lines)
        latest = [line for line in lines if line.get("step", 0) == step]
        texts += [f"{split}: {text}" if split else text for text in evaluation_findings(latest)]
    return texts

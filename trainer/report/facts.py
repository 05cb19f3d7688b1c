"""Facts from the lines of metrics.jsonl for the report: selections and sums, plain data in and out."""

import collections
import statistics
from collections.abc import Callable, Sequence
from typing import Any

BEST = "best"
"""Event of a checkpoint that is better than those before it (evaluate.best)."""
_NO_METRIC = set("step time kind split weights scorer protocol users seconds base_rate".split())


def without_repeats(evaluations: list[dict]) -> list[dict]:
    """The evaluations without those repeated by a resumed run: per step and subject, only the last."""
    latest = {}
    for line in evaluations:
        key = (line.get("step"), *subject(line), *comparable(line))
        latest[key] = line
    return sorted(latest.values(), key=lambda line: line.get("step", 0))


def comparable(line: dict) -> tuple[str, str]:
    """(split, protocol): metrics are comparable only within one such pair."""
    return str(line.get("split", "")), str(line.get("protocol", ""))


def subject(line: dict) -> tuple[str, str]:
    """What was scored: (scorer, weights); baselines have no weights."""
    scorer = str(line.get("scorer", "model"))
    return scorer, str(line.get("weights") or "") if scorer == "model" else ""


def grouped(lines: Sequence[dict], key: Callable[[dict], Any]) -> dict[Any, list[dict]]:
    """The lines by key(line), both in order of appearance."""
    groups = collections.defaultdict(list)
    for line in lines:
        groups[key(line)].append(line)
    return groups


def metric_names(lines: Sequence[dict]) -> list[str]:
    """Names of the metrics, in order of appearance: keys with "@" and floats, apart from known other keys."""
    names = dict.fromkeys(key for line in lines for key in line if key not in _NO_METRIC)
    return [n for n in names if "@" in n or any(isinstance(line.get(n), float) for line in lines)]


def train_names(train: list[dict]) -> list[str]:
    """Names of the numeric values in train lines, in order of appearance."""
    numbers = {k: None for line in train for k, v in line.items() if type(v) in (int, float)}
    return [key for key in numbers if key not in ("step", "time")]


def best_step(lines: Sequence[dict]) -> dict | None:
    """The line of the best checkpoint so far, with step, metric and value; None: none was chosen."""
    return next((line for line in reversed(lines) if line.get("event") == BEST), None)


def peak_memory(lines: list[dict]) -> float | None:
    """Highest resident memory in bytes; None when it was not recorded."""
    return max((v for line in lines if (v := line.get("peak_rss_bytes")) is not None), default=None)


def checkpoint_facts(lines: list[dict]) -> list[dict]:
    """One row each for full checkpoints, increments and restores: their count, median seconds and bytes."""
    groups = grouped(
        [line for line in lines if line.get("event") == "checkpoint"],
        lambda line: str(line.get("checkpoint")),
    )
    rows = [
        {
            "checkpoints": kind,
            "count": len(saved),
            "rows": _median(saved, "rows"),
            "bytes": _median(saved, "bytes"),
            "blocked_seconds": _median(saved, "blocked_seconds"),
            "written_seconds": _median(saved, "written_seconds"),
        }
        for kind, saved in sorted(groups.items())
    ]
    if restores := [line for line in lines if "restore_seconds" in line]:
        row = {"checkpoints": "restored", "count": len(restores), "bytes": _median(restores, "bytes")}
        rows.append(row | {"restore_seconds": _median(restores, "restore_seconds")})
    return rows


def _median(lines: list[dict], name: str) -> float | None:
    values = [line[name] for line in lines if line.get(name) is not None]
    return statistics.median(values) if values else None


def training_seconds(lines: list[dict]) -> float:
    """Seconds from each start or resume to its end, or to the last line before it was killed.

    Evaluations during training count; evaluations by a separate command do not.
    """
    total = 0.0
    begin = end = None
    for line in lines:
        if "time" not in line or line.get("kind") == "evaluate":
            continue
        event = line.get("event")
        if begin is None or event in ("start", "resume"):
            total += end - begin if begin is not None else 0.0
            begin = line["time"]
        end = line["time"]
        if event == "end":
            total += end - begin
            begin = None
    return total + (end - begin if begin is not None else 0.0)

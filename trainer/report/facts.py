"""What the lines of metrics.jsonl say: selections and sums for the report, plain data in and out."""

import collections
import statistics
from collections.abc import Callable, Sequence
from typing import Any

_NO_METRIC = {"step", "time", "kind", "split", "weights", "scorer", "protocol", "users", "seconds"}


def without_repeats(evaluations: list[dict]) -> list[dict]:
    """Of evaluations of the same thing at the same step (a resumed run repeats some) only the last."""
    latest = {}
    for line in evaluations:
        latest[(line.get("step"), *subject(line), *comparable(line))] = line
    return sorted(latest.values(), key=lambda line: line.get("step", 0))


def comparable(line: dict) -> tuple[str, str]:
    """(split, protocol): figures may be compared inside one such pair only."""
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
    """Names of the metrics in the lines, in order of appearance; other numbers are whole or known by name."""
    names = dict.fromkeys(key for line in lines for key in line if key not in _NO_METRIC)
    return [n for n in names if "@" in n or any(isinstance(line.get(n), float) for line in lines)]


def train_names(train: list[dict]) -> list[str]:
    """Names of the numbers in train lines, in order of appearance."""
    numbers = {k: None for line in train for k, v in line.items() if type(v) in (int, float)}
    return [key for key in numbers if key not in ("step", "time")]


def peak_memory(lines: list[dict]) -> float | None:
    """Highest resident memory in bytes; None when it was not recorded."""
    return max((v for line in lines if (v := line.get("peak_rss_bytes")) is not None), default=None)


def checkpoint_facts(lines: list[dict]) -> list[dict]:
    """Of full checkpoints, of increments and of restores: number, median seconds and bytes, one row each."""
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
    """Seconds from each start or resume to its end, or to the last train line when it was killed.

    Evaluations count while the run goes on, not those that someone asked for after it.
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

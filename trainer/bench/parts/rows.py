"""Part `rows` of `bench peers`: the embedding step of every peer, compared with the memory floor.

Tables of one size run in as few processes as the free memory allows, each process with a floor of its own.
What fits together takes turns, step by step. Where two tables do not fit, lazytower's floor works on
lazytower's own records, in turns with it; of other peers the floor is measured first, its memory given back,
and the peer measured then in the same process, in memory that may be faster or slower. Ratios to the floor
are those within a process, the median over `--turns` processes; ratios of one peer to another are ratios of
these. Every step has new ids. A figure is that of a step among several that run without a pause, as
steps of training do: TensorFlow's in one graph, others in a loop.
"""

import argparse
import gc
import itertools
import statistics
import time
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from absl import logging

from trainer.bench.cases.floor import Floor
from trainer.bench.cases.rows import FLOOR, OUR_ROWS, ROW_CASES, memory
from trainer.bench.timing import (
    GIB,
    WARMUP_STEPS,
    NotMeasured,
    first_line,
    in_fresh_process,
    positive,
    start_bench,
)

_ROWS = (1_000_000, 5_000_000, 25_000_000)
_BATCHES = (1_024, 8_192, 32_768, 131_072)
IDS = ("uniform", "zipf")
COLUMNS = (
    "rows",
    "ids",
    "batch",
    "distinct",
    "by",
    "ms",
    "iqr",
    "x_floor",
    "x_lazytower",
    "x_rows",
    "reason",
)
KILLED = "its process was killed, probably for lack of memory"
_TOGETHER = 20  # steps in one call, as in training (train.steps_per_loop is 100); one figure is their mean
_DENSE_STEPS = 3  # limit of figures for dense optimizers
_PAUSE = 0.01  # seconds; threads of the previous library keep spinning for a moment
_RESERVE = 1.5  # GiB that processes leave free


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the part."""
    parser.add_argument("--rows", nargs="+", type=positive, default=_ROWS, help="rows of the tables")
    parser.add_argument("--dim", type=positive, default=32, help="width of a row")
    parser.add_argument("--batches", nargs="+", type=positive, default=_BATCHES, help="ids per step")
    parser.add_argument("--ids", nargs="+", choices=IDS, default=IDS, help="how ids are drawn")
    parser.add_argument(
        "--zipf", type=float, default=1.05, help="exponent of the Zipf ids, greater than 0 and not 1"
    )
    parser.add_argument("--peers", nargs="+", choices=list(ROW_CASES), default=list(ROW_CASES))


def measure(args: argparse.Namespace) -> list[dict]:
    """Rows of COLUMNS; those without figures have a reason."""
    found: list[dict] = []
    for rows in args.rows:
        pools: dict[tuple, list[dict]] = {}
        for turn, names in itertools.product(range(args.turns), _groups(rows, args)):
            logging.info("turn %d of %d, %s rows: %s", turn + 1, args.turns, f"{rows:,}", ", ".join(names))
            try:
                results = in_fresh_process(_measure, names, rows, args, turn)
            except BrokenProcessPool:
                results = {key: {"reason": KILLED} for key in _keys(names, args)}
            for key, result in results.items():
                pools.setdefault(key, []).append(result)
        found += [
            _row(rows, key, pools[key]) for key in sorted(pools, key=_keys((FLOOR, *args.peers), args).index)
        ]
    _add_ratios(found)
    return found


def draw(kind: str, rows: int, number: int, exponent: float, generator) -> np.ndarray:
    """Ids int64 [number] below rows: uniform, or Zipf by inverse of the continuous distribution function.

    The k-th most frequent id comes up in proportion to k^-exponent; ids of neighbouring ranks lie far apart.
    """
    if kind == "uniform":
        return generator.integers(0, rows, number, dtype=np.int64)
    power = 1.0 - exponent
    last = (rows + 1.0) ** power
    rank = (1.0 + generator.random(number) * (last - 1.0)) ** (1.0 / power)
    rank = np.minimum(rank.astype(np.int64) - 1, rows - 1)
    return rank * _stride(rows) % rows


def _stride(rows: int) -> int:
    """A number without common divisor with rows, near the golden section of it."""
    return next(n for n in itertools.count(int(rows * 0.618) or 1) if np.gcd(n, rows) == 1)


def _groups(rows: int, args: argparse.Namespace) -> list[tuple[str, ...]]:
    """Peers that are measured in one process, each beside a floor."""
    import psutil

    free = psutil.virtual_memory().available / GIB - _RESERVE
    groups: list[list[str]] = []
    room = 0.0
    for name in (name for name in args.peers if name != FLOOR):
        need = memory(name, rows, args.dim)
        if not groups or need > room:
            groups.append([])
            room = free - memory(FLOOR, rows, args.dim)
        groups[-1].append(name)
        room -= need
    return [tuple(group) for group in groups] or [()]


def _keys(names, args) -> list[tuple[str, int, str]]:
    """(ids, batch, name) of every measurement."""
    return list(itertools.product(args.ids, args.batches, names))


def _measure(names: tuple[str, ...], rows: int, args: argparse.Namespace, turn: int) -> dict[tuple, dict]:
    """Times of steps in this process: by (ids, batch, name), ms and distinct, or a reason.

    The floor of the process is in each peer's result, too, as `floor`.
    """
    import psutil

    start_bench(args.threads)
    need = memory(FLOOR, rows, args.dim) + sum(memory(name, rows, args.dim) for name in names)
    together = need < psutil.virtual_memory().available / GIB
    results: dict[tuple, dict] = {}
    apart = [(OUR_ROWS, FLOOR)] if names == (OUR_ROWS,) else [(FLOOR,), *((name,) for name in names)]
    for group in [(FLOOR, *names)] if together else apart:
        cases, reasons = _make(group, rows, args, shared=not together)
        for ids, batch in itertools.product(args.ids, args.batches):
            times = _rounds(cases, ids, batch, rows, args, turn)
            results |= {(ids, batch, name): values for name, values in times.items()}
            results |= {(ids, batch, name): {"reason": reason} for name, reason in reasons.items()}
        for case in cases.values():
            case.close()
        del cases
        gc.collect()
    for (ids, batch, _), result in results.items():
        result["floor"] = results[ids, batch, FLOOR].get("ms")
    return results


def _make(names, rows: int, args: argparse.Namespace, shared: bool) -> tuple[dict, dict[str, str]]:
    """(cases, reasons of those that cannot be had), by name; `shared`: a floor after OURS has its records."""
    cases: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name in names:
        try:
            if name == FLOOR and shared and OUR_ROWS in cases:
                cases[name] = Floor(rows, args.dim, args.threads, cases[OUR_ROWS].address)
            else:
                cases[name] = ROW_CASES[name].make(rows, args.dim, args.threads)
        except NotMeasured as reason:
            reasons[name] = str(reason)
        except Exception as error:  # a broken peer must not stop the others
            reasons[name] = first_line(error)
    return cases, reasons


def _rounds(
    cases: dict, ids: str, batch: int, rows: int, args: argparse.Namespace, turn: int
) -> dict[str, dict]:
    """Steps of all cases in turn, with new ids."""
    generator = np.random.default_rng([turn, batch])
    gradient = np.float32(0.01) * generator.standard_normal([batch, args.dim], dtype=np.float32)
    times: dict[str, dict] = {name: {"ms": [], "distinct": []} for name in cases}
    for number in range(WARMUP_STEPS + args.steps):
        for name, case in cases.items():
            drawn = draw(ids, rows, _TOGETHER * batch, args.zipf, generator).reshape(_TOGETHER, batch)
            mine = times[name]
            if "reason" in mine or (ROW_CASES[name].dense and number >= WARMUP_STEPS + _DENSE_STEPS):
                continue
            try:
                milliseconds = _timed(case, drawn, gradient)
            except Exception as error:  # as in _make
                mine["reason"] = first_line(error)
                continue
            if number >= WARMUP_STEPS:
                mine["ms"].append(milliseconds)
                mine["distinct"] += [len(np.unique(row)) for row in drawn]
    return times


def _timed(case, ids: np.ndarray, gradient: np.ndarray) -> float:
    inputs = case.inputs(ids, gradient)
    time.sleep(_PAUSE)
    started = time.perf_counter()
    case.steps(inputs)
    return 1000 * (time.perf_counter() - started) / len(ids)


def _row(rows: int, key: tuple, results: list[dict]) -> dict:
    """A row of COLUMNS without the last ratios, from the results of all processes."""
    ids, batch, name = key
    row = {"rows": rows, "ids": ids, "batch": batch, "by": name}
    measured = [result for result in results if "reason" not in result]
    if not measured:
        return row | {"reason": results[0]["reason"]}
    milliseconds = [value for result in measured for value in result["ms"]]
    ratios = [statistics.median(r["ms"]) / statistics.median(r["floor"]) for r in measured if r["floor"]]
    row |= {
        "distinct": round(statistics.mean(value for result in measured for value in result["distinct"])),
        "ms": round(statistics.median(milliseconds), 3),
        "iqr": round(float(np.subtract(*np.percentile(milliseconds, [75, 25]))), 3),
        "reason": "",
    }
    return row | ({"x_floor": round(statistics.median(ratios), 3)} if ratios else {})


def _add_ratios(found: list[dict]) -> None:
    """x_lazytower: time over that of OURS; x_rows: time over that at the smallest table."""
    for row in found:
        same = [other for other in found if (other["ids"], other["batch"]) == (row["ids"], row["batch"])]
        ours = [other for other in same if other["by"] == OUR_ROWS and other["rows"] == row["rows"]]
        if ours and "x_floor" in row and "x_floor" in ours[0]:
            row["x_lazytower"] = round(row["x_floor"] / ours[0]["x_floor"], 2)
        smallest = min((other for other in same if other["by"] == row["by"]), key=lambda other: other["rows"])
        if "ms" in row and "ms" in smallest:
            row["x_rows"] = round(row["ms"] / smallest["ms"], 2)

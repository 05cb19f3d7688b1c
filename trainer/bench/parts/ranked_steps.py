"""Steps of `bench ranking` on random batches: each library alone, then all in turns."""

import argparse
import itertools
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from absl import logging

from trainer.bench.cases.ranked_model import (
    RankedModel,
    criteo_rows,
    ranked_batches,
    ranked_gigabytes,
    ranked_weights,
)
from trainer.bench.parts.rows import KILLED
from trainer.bench.parts.turns import COMPARED_STEPS, OURS, compared, load_libraries
from trainer.bench.timing import (
    GIB,
    WARMUP_STEPS,
    NotMeasured,
    first_line,
    in_fresh_process,
    need_memory,
)
from trainer.resources.machine import peak_resident

_TOLERANCE = 1e-4  # of losses; the optimizers differ in where they add epsilon
_PAUSE = 0.01  # seconds; threads of the previous library keep spinning for a moment


def measure_steps(args: argparse.Namespace) -> list[dict]:
    """Rows of STEP_COLUMNS, for each optimizer, batch and library; those without figures have a reason."""
    rows = []
    for optimizer, batch in itertools.product(args.optimizers, args.batch):
        model = ranked_model(args, criteo_rows(args.rows), optimizer)
        alone = {name: _in_process([name], model, batch, args)[name] for name in args.peers}
        able = [name for name in alone if "reason" not in alone[name]]
        turns = [
            _in_process(group, model, batch, args)
            for group in _groups(able, model, batch)
            for _ in range(args.turns)
        ]
        known = {"interaction": args.interaction, "optimizer": optimizer, "batch": batch}
        for name in alone:
            mine = [turn for turn in turns if name in turn]
            rows.append(known | {"by": name} | compared(name, alone, mine, _TOLERANCE))
        logging.info("%s, batch %s: measured", optimizer, f"{batch:,}")
    return rows


def ranked_model(
    args: argparse.Namespace, rows: dict[str, int], optimizer: str, numbers: list[str] | None = None
) -> RankedModel:
    """The model of the flags over these tables, and numbers other than the flag's if given."""
    return RankedModel(
        rows,
        numbers or [f"n{i:02}" for i in range(1, args.numbers + 1)],
        args.dim,
        args.bottom,
        args.top,
        args.crosses if args.interaction == "cross" else 0,
        optimizer,
    )


def make_ranking(name: str, model: RankedModel, weights, threads: int):
    """A case of trainer/bench/cases/ranking.py by the library's name; NotMeasured as the case raises it."""
    from trainer.bench.cases.ranking import OurRanking, TfrsRanking
    from trainer.bench.cases.ranking_torch import TorchRanking, TorchRecRanking

    cases: dict[str, Any] = {
        OURS: OurRanking,
        "tfrs": TfrsRanking,
        "torch": TorchRanking,
        "torchrec": TorchRecRanking,
    }
    return cases[name](model, weights, threads)


def _groups(names: list[str], model: RankedModel, batch: int) -> list[list[str]]:
    """Libraries that take turns in a process: all, or each with lazytower if they do not fit together."""
    if len(names) < 2:
        return []
    try:
        need_memory(_gigabytes(names, model, batch))
    except NotMeasured:
        return [[OURS, name] for name in names if name != OURS] if OURS in names else []
    return [names]


def _gigabytes(names: list[str], model: RankedModel, batch: int) -> float:
    """With the initial weights, and 1 GiB left free."""
    weights = 4 * sum(model.rows.values()) * model.dim / GIB
    return len(names) * ranked_gigabytes(model, batch) + weights + 1


def _in_process(names: list[str], model: RankedModel, batch: int, args) -> dict[str, dict]:
    try:
        return in_fresh_process(_measure, names, model, batch, args)
    except BrokenProcessPool:
        return dict.fromkeys(names, {"reason": KILLED})


def _measure(
    names: list[str], model: RankedModel, batch: int, args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Measurements as of trainer.bench.parts.turns, by name; reasons only if they do not fit into memory."""
    import psutil

    load_libraries(args.threads)
    try:
        need_memory(_gigabytes(names, model, batch))
    except NotMeasured as reason:
        return {name: {"reason": str(reason)} for name in names}
    weights = ranked_weights(model)
    number = WARMUP_STEPS + max(args.steps, COMPARED_STEPS - WARMUP_STEPS)
    before = psutil.Process().memory_info().rss
    found: dict[str, dict[str, Any]] = {name: {"ms": [], "losses": []} for name in names}
    cases: dict[str, Any] = {}
    for name in names:
        try:
            cases[name] = make_ranking(name, model, weights, args.threads)
        except Exception as error:  # a broken peer must not stop the others
            found[name] = {"reason": reason_of(error)}
    for name, milliseconds, loss in _turns(cases, ranked_batches(model, batch, number)):
        found[name]["ms"].append(milliseconds)
        found[name]["losses"].append(loss)
    for name in cases:
        found[name]["bytes"] = peak_resident() - before
    return found


def reason_of(error: Exception) -> str:
    """Why a case is missing, as text."""
    return str(error) if isinstance(error, NotMeasured) else first_line(error)


def _turns(cases: dict[str, Any], batches) -> Iterator[tuple[str, float, float]]:
    """(name, ms, loss) of each step of each case, which take turns."""
    for batch in batches:
        for name, case in cases.items():
            inputs = case.inputs(batch)
            time.sleep(_PAUSE)
            started = time.perf_counter()
            loss = case.step(inputs)
            yield name, 1000 * (time.perf_counter() - started), loss

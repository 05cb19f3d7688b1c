"""Part `towers` of `bench peers`: a step of one two-tower model (trainer/bench/cases/towers.py) by each peer.

For every batch size each peer first trains alone in a process of its own, from the same weights on the same
batches: the losses of its first steps, which must agree to TOLERANCE, and its memory, the process's peak less
what it was with the libraries loaded, so that tables, slots and averages count. Then all that fit into memory
together take turns, step by step, in one more process; `ms` is from there, `interleaved` says so. What does
not fit keeps the times of its own process. Ratios are to lazytower in float32; `lazytower_bfloat16` has
model.loss.precision: bfloat16, `torch_bfloat16` PyTorch's forward pass under autocast. lazytower's softmax
may have groups: its losses then differ.
"""

import argparse
import time
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from absl import logging

from trainer.bench.parts.rows import KILLED, draw
from trainer.bench.parts.turns import (
    COMPARED,
    COMPARED_STEPS,
    OURS,
    TOLERANCE,
    compared,
    load_libraries,
)
from trainer.bench.timing import (
    GIB,
    WARMUP_STEPS,
    NotMeasured,
    first_line,
    in_fresh_process,
    need_memory,
    positive,
)
from trainer.resources.machine import peak_resident

_BATCHES = (1_024, 4_096, 8_192, 16_384, 32_768)
_OURS_BFLOAT16 = f"{OURS}_bfloat16"
NAMES = (OURS, _OURS_BFLOAT16, "tfrs_tfa", "torch", "torch_bfloat16")
_DEFAULT_NAMES = (OURS, "tfrs_tfa", "torch")
COLUMNS = ("batch", "by", *COMPARED)
# Matrices of batch x batch float32 that are alive at a time, and more of them with --corrected; measured at
# 8,192, rounded up: a process that runs out of memory takes others with it.
_MATRICES = {OURS: 0.1, _OURS_BFLOAT16: 0.1, "tfrs_tfa": 10.5, "torch": 5.0, "torch_bfloat16": 5.0}
_CORRECTED = {OURS: 0.0, _OURS_BFLOAT16: 0.0, "tfrs_tfa": 6.5, "torch": 0.5, "torch_bfloat16": 0.5}
# Operands of 8 significant bits; losses are about 9.
_TOLERANCE_BFLOAT16 = 1e-2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the part."""
    parser.add_argument("--users", type=positive, default=1_000_000, help="rows of the user table")
    parser.add_argument("--items", type=positive, default=200_000, help="rows of the item table")
    parser.add_argument("--tower_dim", type=positive, default=32, help="width of both tables")
    parser.add_argument("--layers", nargs="*", type=positive, default=[64, 32], help="widths of dense layers")
    parser.add_argument("--tower_batches", nargs="+", type=positive, default=_BATCHES, help="rows per step")
    parser.add_argument(
        "--tower_peers", nargs="+", choices=NAMES, default=_DEFAULT_NAMES, help="libraries to measure"
    )
    parser.add_argument(
        "--corrected",
        action="store_true",
        help="use logQ correction and mask accidental hits, in all libraries",
    )
    parser.add_argument(
        "--group", type=positive, default=None, help="of lazytower's softmax, as model.loss.group"
    )


def measure(args: argparse.Namespace) -> list[dict]:
    """Rows of COLUMNS; those without figures have a reason."""
    rows = []
    for batch in args.tower_batches:
        alone = {name: _in_process([name], batch, args)[name] for name in args.tower_peers}
        able = [name for name in alone if "reason" not in alone[name]]
        turns = [_in_process(able, batch, args) for _ in range(args.turns)] if len(able) > 1 else []
        found = [
            {"batch": batch, "by": name} | compared(name, alone, turns, _tolerance(name)) for name in alone
        ]
        logging.info("towers, batch %s: %s", f"{batch:,}", {row["by"]: row.get("ms") for row in found})
        rows += found
    return rows


def _tolerance(name: str) -> float:
    return _TOLERANCE_BFLOAT16 if name.endswith("_bfloat16") else TOLERANCE


def tower_batches(args: argparse.Namespace, batch: int, number: int):
    """(users, items) of so many steps, int64 [batch]: Zipf users, each with an item of its own."""
    generator = np.random.default_rng(3)
    item_of_user = _item_of_user(args)
    for _ in range(number):
        users = draw("zipf", args.users, batch, 1.05, generator)
        yield users, item_of_user[users]


def _item_of_user(args) -> np.ndarray:
    return draw("zipf", args.items, args.users, 1.05, np.random.default_rng(4))


def _in_process(names: list[str], batch: int, args) -> dict[str, dict]:
    try:
        return in_fresh_process(_measure, names, batch, args)
    except BrokenProcessPool:
        return dict.fromkeys(names, {"reason": KILLED})


def _measure(names: list[str], batch: int, args: argparse.Namespace) -> dict[str, dict]:
    """By name: seconds and losses of all steps, bytes of memory (of all together), or the reason.

    With several names that do not fit into memory together: reasons only.
    """
    import psutil

    load_libraries(args.threads)
    from trainer.bench.cases.towers import TOWERS, initial_weights

    try:
        need_memory(sum(_gigabytes(name, batch, args) for name in names) + 1)
    except NotMeasured as reason:
        return {name: {"reason": str(reason)} for name in names}
    weights = initial_weights({"user": args.users, "item": args.items}, args.tower_dim, args.layers)
    # Above TFRS's floor of 1e-6 for the probability of an item.
    counts = np.bincount(_item_of_user(args), minlength=args.items) + -(-args.users // args.items)
    steps = list(tower_batches(args, batch, WARMUP_STEPS + max(args.steps, COMPARED_STEPS - WARMUP_STEPS)))
    before = psutil.Process().memory_info().rss
    found: dict[str, dict[str, Any]] = {name: {"ms": [], "losses": []} for name in names}
    cases: dict[str, Any] = {}
    for name in names:
        try:
            mine = {"group": args.group} if name.startswith(OURS) else {}
            cases[name] = TOWERS[name](weights, args.corrected, counts, args.threads, **mine)
        except Exception as error:  # a broken peer must not stop the others
            found[name] = {"reason": str(error) if isinstance(error, NotMeasured) else first_line(error)}
    for users, items in steps:
        for name, case in cases.items():
            time.sleep(0.01)  # threads of the previous library keep spinning for a moment
            started = time.perf_counter()
            loss = case.step(users, items)
            found[name]["ms"].append(1000 * (time.perf_counter() - started))
            found[name]["losses"].append(loss)
    for name in cases:
        found[name]["bytes"] = peak_resident() - before
    return found


def _gigabytes(name: str, batch: int, args: argparse.Namespace) -> float:
    """GiB that a peer needs: tables with slots and averages, and its matrices of scores."""
    tables = 4 * (args.users + args.items) * args.tower_dim * 5
    matrices = _MATRICES[name] + args.corrected * _CORRECTED[name]
    candidates = args.group if name.startswith(OURS) and args.group else batch
    return (tables + 4 * matrices * batch * candidates) / GIB

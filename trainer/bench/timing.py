"""Shared by the benchmarks of table updates: timing of the phases, medians, and reasons for missing figures.

A case is an object with

    forward(ids, labels) -> state       lookup and loss
    gradient(state) -> state            gradient of the looked-up rows
    update(state) -> None               the optimizer on the table
    model_bytes, state_bytes            weights; optimizer state and averages

Each phase is compiled and timed separately, one after the other in every step. (Timing nested functions and
taking differences would subtract two noisy numbers, and no phase gains from being compiled with the next,
since TensorFlow fuses nothing here.)
"""

import argparse
import concurrent.futures
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from configs.errors import UserError

PHASES = ("forward", "gradient", "update")
WARMUP_STEPS = 3  # the first traces, the second traces again for any number of distinct rows
GIB = 1 << 30
_rss_at_start = 0  # bytes, with TensorFlow loaded, before the first table


class NotMeasured(Exception):
    """A combination that cannot be measured here; the message gives the reason."""


def add_shared_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """Flags of every benchmark of table updates."""
    parser.add_argument("--steps", type=positive, default=10, help="timed steps, after 3 warm-up steps")
    parser.add_argument("--threads", type=int, default=0, help="threads of the kernels; 0: one per core")
    parser.add_argument(
        "--output", default=output, metavar="DIR", help="output directory of the CSV and HTML files"
    )


def positive(text: str) -> int:
    """Type of flags that take a positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
    return value


def start_bench(threads: int) -> None:
    """Starts TensorFlow with `threads` threads (0: its default), at most as many operations at a time."""
    import psutil

    from configs.sections.devices import CpuDeviceConfig
    from trainer.runtime import start_tensorflow

    global _rss_at_start
    tf = start_tensorflow(CpuDeviceConfig(threads=threads), deterministic=False)
    _rss_at_start = psutil.Process().memory_info().rss
    if threads and not tf.config.threading.get_inter_op_parallelism_threads():
        try:
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:
            raise UserError(
                "--threads: TensorFlow has already started in this process; use a new process"
            ) from None


def random_ids(rows: int, pairs: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless (ids int64 [pairs, 2], uniform and so partly repeated; labels float32 [pairs], 0 or 1)."""
    generator = np.random.default_rng(seed)
    while True:
        ids = generator.integers(0, rows, [pairs, 2], dtype=np.int64)
        yield ids, generator.integers(0, 2, pairs).astype(np.float32)


def measured(build: Callable, rows: int, pairs: int, steps: int) -> dict:
    """Times one case: {phase}_ms, {phase}_iqr, total_ms, total_iqr, model_bytes, state_bytes; or reason.

    Args:
      build: makes the case, or raises NotMeasured.
      rows: upper bound of the ids, exclusive.
      pairs: pairs of ids per step.
      steps: timed steps, after WARMUP_STEPS.
    """
    case, made = None, True
    try:
        case = build()
        figures = _summary(_times(case, rows, pairs, steps))
        return figures | {"model_bytes": case.model_bytes, "state_bytes": case.state_bytes, "reason": ""}
    except NotMeasured as reason:  # raised before a table is made
        made = False
        return {"reason": str(reason)}
    except Exception as error:  # a broken peer must not stop the others; its row gives the reason
        return {"reason": first_line(error)}
    finally:
        case = None
        if made:
            gc.collect()  # compiled functions hold tables of many GB in reference cycles


def first_line(error: Exception) -> str:
    """The type and first line of an error that stopped a measurement."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:160]}"


def _times(case, rows: int, pairs: int, steps: int) -> list[tuple[float, float, float]]:
    """Seconds of the phases of each step."""
    times = []
    source = random_ids(rows, pairs)
    for step in range(WARMUP_STEPS + steps):
        ids, labels = case.inputs(*next(source))
        marks = [time.perf_counter()]
        state = case.forward(ids, labels)
        marks.append(time.perf_counter())
        state = case.gradient(state)
        marks.append(time.perf_counter())
        case.update(state)
        marks.append(time.perf_counter())
        if step >= WARMUP_STEPS:
            times.append((marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]))
    return times


def _summary(times: list[tuple[float, float, float]]) -> dict[str, float]:
    columns: dict[str, Sequence[float]] = dict(zip(PHASES, zip(*times, strict=True), strict=True))
    columns["total"] = [sum(step) for step in times]
    found = {}
    for name, seconds in columns.items():
        milliseconds = [1000 * s for s in seconds]
        found[f"{name}_ms"] = statistics.median(milliseconds)
        found[f"{name}_iqr"] = float(np.subtract(*np.percentile(milliseconds, [75, 25])))
    return found


def in_fresh_process(function: Callable, *args):
    """Result of a module-level function, called in a new process whose memory is freed afterwards."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *args).result()


def need_memory(gigabytes: float) -> None:
    """Raises NotMeasured unless that much memory is free, or kept by TensorFlow for its next tables.

    Call it while no case is alive: TensorFlow reuses what earlier cases allocated.
    """
    import psutil

    held = psutil.Process().memory_info().rss - _rss_at_start
    free = (psutil.virtual_memory().available + max(held, 0)) / GIB
    if gigabytes > free:
        raise NotMeasured(f"needs {gigabytes:.1f} GiB of memory, {free:.1f} are free")

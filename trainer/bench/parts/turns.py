"""Shared by the benchmarks of training steps: what each library's steps took, needed and lost, compared.

A measurement of one library in one process is a dict: `ms` and `losses` of all steps, `bytes` of memory (of
all libraries of the process together); or `reason`, why it is missing.
"""

import contextlib
import statistics

import numpy as np

from configs.system.pythons import missing_addons
from trainer.bench.timing import WARMUP_STEPS, NotMeasured, start_bench

OURS = "lazytower"
COMPARED_STEPS = 5
TOLERANCE = 1e-3
COMPARED = (
    *("ms", "iqr", "x_lazytower", "interleaved", "memory_mb", "x_memory", "losses", "loss_gap", "equal"),
    "reason",
)
"""Columns of `compared`."""


def load_libraries(threads: int) -> None:
    """Loads what any library's step needs, before memory is measured, and starts TensorFlow."""
    start_bench(threads)
    import tensorflow_recommenders  # noqa: F401

    from trainer.addons import import_addons
    from trainer.bench.cases.torch import import_torch

    if not missing_addons():
        import_addons()
    with contextlib.suppress(NotMeasured):
        import_torch(threads)
        with contextlib.suppress(Exception):  # its case says why it cannot be imported
            import torchrec  # noqa: F401


def compared(
    name: str, alone: dict[str, dict], turns: list[dict[str, dict]], tolerance: float = TOLERANCE
) -> dict:
    """Figures of one library beside lazytower's, by COMPARED, or the reason.

    Args:
      name: of the library.
      alone: measurements in a process of its own, by library: losses and memory are from there.
      turns: measurements of several libraries that took turns, by library, one for each process: times are
        from there, if there are any without a reason.
      tolerance: largest difference of losses that are called equal.
    """
    mine, ours = alone[name], alone.get(OURS, {"reason": "left out"})
    if "reason" in mine:
        return {"reason": mine["reason"]}
    together = [turn for turn in turns if not any("reason" in result for result in turn.values())]
    times = [timed(turn[name]) for turn in together] or [timed(mine)]
    losses = mine["losses"][:COMPARED_STEPS]
    row = {
        "ms": round(statistics.median(ms for turn in times for ms in turn), 3),
        "iqr": round(float(np.subtract(*np.percentile(np.concatenate(times), [75, 25]))), 3),
        "interleaved": "yes" if together else "no",
        "memory_mb": round(mine["bytes"] / 1e6),
        "losses": " ".join(f"{loss:.6f}" for loss in losses),
        "reason": "",
    }
    if "reason" in ours:
        return row
    pairs = [(turn[name], turn[OURS]) for turn in together] or [(mine, ours)]
    ratios = [statistics.median(timed(peer)) / statistics.median(timed(us)) for peer, us in pairs]
    gap = max(abs(loss - own) for loss, own in zip(losses, ours["losses"], strict=False))
    return row | {
        "x_lazytower": round(statistics.median(ratios), 2),
        "x_memory": round(mine["bytes"] / ours["bytes"], 2),
        "loss_gap": f"{gap:.1e}",
        "equal": "yes" if gap <= tolerance else "NO",
    }


def timed(result: dict) -> list[float]:
    """Milliseconds of the steps after warm-up."""
    return result["ms"][WARMUP_STEPS:]

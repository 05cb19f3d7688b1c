"""Progress of a running job, taken from the names of spool files: <stage>-<rows>-<random>."""

import os
import sys
import threading
import time

import psutil
from absl import logging

from configs.system.terminal import unescaped

_STAGES = {
    "read": "read",
    "group": "grouped by user",
    "records": "with ids and histories",
    "fold": "folded",
}


class Progress:
    """Shows rows and rate of the current stage while a block runs, and records peak memory.

    In a terminal it updates one line; elsewhere it logs a line every `log_seconds`.
    """

    def __init__(self, spool: str, log_seconds: float = 10.0):
        self._spool = spool
        self._log_seconds = log_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._start = time.monotonic()
        self.peak_bytes = 0
        """Largest resident memory of this process and its children together."""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        bar = None
        if sys.stderr.isatty():
            import tqdm

            bar = tqdm.tqdm(
                unit=" rows", unit_scale=True, desc="read", dynamic_ncols=True, file=unescaped(sys.stderr)
            )
        next_log = self._log_seconds
        while not self._stop.wait(0.1):
            self.peak_bytes = max(self.peak_bytes, _resident())
            if bar is None and self.seconds < next_log:
                continue
            stage, rows = self._newest_stage()
            if bar is not None:
                if bar.desc != f"{stage}: ":
                    bar.reset()
                    bar.set_description(stage)
                bar.update(rows - bar.n)
            elif rows:
                next_log += self._log_seconds
                logging.info(
                    "%s: %s rows, %s rows/s since start", stage, f"{rows:,}", f"{rows / self.seconds:,.0f}"
                )
        if bar is not None:
            bar.close()

    def _newest_stage(self) -> tuple[str, int]:
        rows = dict.fromkeys(_STAGES, 0)
        if "://" not in self._spool and os.path.isdir(self._spool):
            for entry in os.scandir(self._spool):
                stage, _, rest = entry.name.partition("-")
                if stage in rows:
                    rows[stage] += int(rest.partition("-")[0])
        reached = [stage for stage in _STAGES if rows[stage]] or ["read"]
        return _STAGES[reached[-1]], rows[reached[-1]]


def _resident() -> int:
    """Resident bytes of this process and all its children."""
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total

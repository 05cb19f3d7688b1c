"""What a run writes down while it trains: lines of metrics.jsonl, and the log lines that go with them."""

import dataclasses
import resource
from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging

from configs.schema import RunConfig
from configs.text import size_text
from trainer.averages import horizon_finding
from trainer.checkpoints.manifest import StartedFrom
from trainer.checkpoints.store import Restored, Saved
from trainer.embeddings.base import Table
from trainer.models.recommender import Recommender
from trainer.report.facts import BEST
from trainer.report.findings import loss_findings
from trainer.report.metrics_file import MetricsWriter
from trainer.report.warm_start import MOVED, WARM_START
from trainer.warm_start.movement import moved, read_weights_of_start
from trainer.warm_start.start import Started


class Journal:
    """Writes metrics.jsonl of a run, cut back to the step that it starts from.

    Args:
      config: the run.
      start_step: steps done.
    """

    def __init__(self, config: RunConfig, start_step: int):
        self._config, self._start_step = config, start_step
        self._metrics = MetricsWriter(config.output.path, start_step)

    def start(
        self, recommender: Recommender, restored: Restored | None, num_steps: int, steps_per_epoch: int
    ) -> None:
        """What is about to be trained, from which checkpoint, and how far."""
        facts = {"event": "start", "table_bytes": sum(t.bytes for t in recommender.storages.values())}
        if restored:
            facts = {"event": "resume", "restore_seconds": restored.seconds, "bytes": restored.bytes}
        facts["num_steps"] = num_steps
        self._metrics.write("run", self._start_step, facts)
        if finding := horizon_finding(self._config.polyak, num_steps):
            logging.warning("%s", finding)
            self._metrics.write("run", self._start_step, {"event": "finding", "finding": finding})
        for table in recommender.tables.values():
            logging.info(
                "table %s: %s rows x %d, engine %s, %s with slots and average",
                *(table.label, f"{table.rows:,}", table.dim, table.engine, size_text(table.bytes)),
            )
        logging.info(
            "%s steps to go of %s, %s per epoch",
            *(f"{n:,}" for n in (num_steps - self._start_step, num_steps, steps_per_epoch)),
        )

    def began(self, origin: StartedFrom | None, started: Started | None) -> None:
        """Where the run began, if it was from another one; `started`: in this process."""
        if origin is None:
            return
        facts: dict[str, Any] = {"event": WARM_START, **origin.model_dump(exclude={"step"})}
        facts |= {"source_step": origin.step, "resumed": started is None}
        if started is not None:
            facts |= {"seconds": started.seconds, "bytes": started.bytes, "tables": started.tables}
        else:
            logging.info("this run began with step %s of %s", f"{origin.step:,}", origin.run)
        self._metrics.write("run", self._start_step, facts)

    def moved(self, step: int, storages: Mapping[str, Table]) -> None:
        """How far rows are from those of the run that this one started from."""
        try:
            start = read_weights_of_start(self._config.output.path)
        except (OSError, ValueError) as error:  # figures of a report are no reason to fail
            logging.warning("how far rows moved is not known: %s", error)
            return
        self._metrics.write("run", step, {"event": MOVED, "tables": moved(storages, start)})

    def trained(self, step: int, loss: float, learning_rates: dict, examples_per_second: float) -> None:
        """After an inner loop of steps."""
        values = {
            "loss": loss,
            **learning_rates,
            "examples_per_second": examples_per_second,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        self._metrics.write("train", step, values)

    def skipped(self, step: int, skipped_batches: int, reason: str) -> None:
        """After a batch that was not applied."""
        values = {"event": "skip", "skipped_batches": skipped_batches, "reason": reason}
        self._metrics.write("run", step, values)

    def saved(self, checkpoints: Iterable[Saved]) -> None:
        """After checkpoints have been written."""
        for saved in checkpoints:
            facts = dataclasses.asdict(saved)
            step, kind = facts.pop("step"), facts.pop("kind")
            self._metrics.write("run", step, {"event": "checkpoint", "checkpoint": kind, **facts})
            logging.info(
                "checkpoint of step %d: %s, %s, %s rows, %.1f MB, blocked %.2f s, written in %.2f s",
                *(step, kind, saved.mode, f"{saved.rows:,}", saved.bytes / 1e6),
                *(saved.blocked_seconds, saved.written_seconds),
            )

    def evaluated(self, step: int, lines: Iterable[dict]) -> None:
        """After an evaluation."""
        for line in lines:
            self._metrics.write("evaluate", step, line)

    def best(self, step: int, facts: Mapping[str, Any]) -> None:
        """After an evaluation that was the best so far, whose checkpoint is complete."""
        self._metrics.write("run", step, {"event": BEST, **facts})

    def stopped(self, step: int, reason: str | None) -> None:
        """After a run that was interrupted."""
        self._metrics.write("run", step, {"event": "stop", "reason": reason})

    def ended(self, step: int, best: str = "") -> None:
        """After a run that reached its end, or used up its patience, as `best` says, what it says of the best
        step; logs what the losses of the whole run, resumed or not, mean."""
        facts = {"event": "end", "peak_rss_bytes": peak_rss_bytes()}
        self._metrics.write("run", step, facts | ({"best": best} if best else {}))
        if best:
            logging.info("%s", best)
        for text in loss_findings([line for line in self._metrics.read() if line.get("kind") == "train"]):
            logging.warning("%s", text)

    def flush(self) -> None:
        """Makes all lines durable."""
        self._metrics.flush()

    def close(self, upload: bool) -> None:
        """Ends the file; `upload`: to an object store, if the run is in one."""
        self._metrics.close(upload=upload)


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

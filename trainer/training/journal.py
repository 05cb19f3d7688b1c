"""What a run writes down while it trains: lines of metrics.jsonl, and the log lines that go with them."""

import dataclasses
import resource
from collections.abc import Iterable

from absl import logging

from configs.schema import RunConfig
from configs.text import size_text
from trainer.averages import horizon_finding
from trainer.checkpoints.store import Restored, Saved
from trainer.models.recommender import Recommender
from trainer.report.findings import loss_findings
from trainer.report.metrics_file import MetricsWriter


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

    def stopped(self, step: int, reason: str | None) -> None:
        """After a run that was interrupted."""
        self._metrics.write("run", step, {"event": "stop", "reason": reason})

    def ended(self, step: int) -> None:
        """After a run that reached its end; logs what the losses of the whole run, resumed or not, mean."""
        self._metrics.write("run", step, {"event": "end", "peak_rss_bytes": peak_rss_bytes()})
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

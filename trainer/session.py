"""Everything one training run needs, opened in order and closed again."""

import dataclasses
import fcntl
import math
import os
import resource
import time

from absl import logging

from configs.dataset import load_dataset
from configs.errors import CheckpointError, DataError, UserError
from configs.load import dump_config
from configs.schema import RunConfig
from configs.storage import join, write_bytes
from trainer.catalog import Items, verify_file
from trainer.metrics import MetricsWriter, read_metrics
from trainer.progress import Progress
from trainer.runtime import start_tensorflow
from trainer.statistics import write_run_report


class TrainSession:
    """A run from its config: dataset, model, checkpoints, metrics.

    Resume order: (1) dataset and its checksums, (2) variables with their initial weights, or (3) the newest
    checkpoint that verifies, which overwrites all of them, (4) metrics cut back to the checkpoint's step,
    (5) the input placed at that step. Nothing else carries over, so a resumed run equals an undisturbed one.
    """

    def __init__(self, config: RunConfig):
        start_tensorflow(config.device)
        from trainer.checkpoint import CheckpointStore
        from trainer.checkpoint_identity import checkpoint_identity
        from trainer.data import TrainData
        from trainer.recommender import Recommender, check_dataset, run_steps
        from trainer.step import TrainStep

        self.config = config
        self.dataset = load_dataset(config.dataset.path)
        check_dataset(config, self.dataset)
        for info in self.dataset.splits["train"].files:
            verify_file(self.dataset, info)
        self.items = Items.load(self.dataset)
        self._data = TrainData(self.dataset, config.train.batch_size, config.train.seed)
        self.num_steps = run_steps(config, self._data.steps_per_epoch)
        self.recommender = Recommender(config, self.dataset, self.items.counts, self.num_steps)
        self.train_step = TrainStep(config, self.recommender, self.num_steps)
        self._store = CheckpointStore(
            join(config.output.path, "checkpoints"),
            config.checkpoint.keep,
            checkpoint_identity(config, self.dataset.fingerprint, self.num_steps),
            **config.checkpoint.model_dump(include={"incremental", "compact_at", "async_memory_mb"}),
        )
        self._lock = lock_run(config.output.path)
        try:
            self._restore()
            save_config(config)  # not before: a run that may not resume here leaves the config that can
            self._metrics = MetricsWriter(config.output.path, self.start_step)
        except BaseException:
            self._lock.close()
            raise
        self.report_path = os.path.join(config.output.path, "report.html")

    def _restore(self) -> None:
        step = self._store.restore_newest(self.recommender.storages, self.train_step.dense_state)
        if step is None:
            self.recommender.initialize()
        else:
            logging.info("resuming from step %d", step)
        self.start_step = step or 0

    def __enter__(self):
        return self

    def __exit__(self, error_type, *unused) -> None:
        try:
            self._wait_for_checkpoint(log_only=error_type is not None)
        finally:
            self._metrics.close()
            self._lock.close()

    def run(self) -> None:
        """Trains, checkpoints, evaluates, and writes the report."""
        from trainer.loop import Every, Loop

        config = self.config
        self._log_start()
        loop = Loop(
            self.train_step, self._data.batches(self.start_step), self.num_steps, config.train.steps_per_loop
        )
        if self._evaluation_was_lost():
            self._evaluate(self.start_step)
        with Progress(
            self.num_steps, self.start_step, examples_per_step=config.train.batch_size
        ) as self._progress:
            self._loop_ended = time.monotonic()
            # A checkpoint comes before the evaluation of the same step, which a resumed run makes up for.
            loop.run(
                self._on_loop,
                [
                    Every(config.checkpoint.every_steps, self._paused(self._save), at_end=True),
                    Every(config.evaluate.every_steps, self._paused(self._evaluate), at_end=True),
                ],
            )
        self._wait_for_checkpoint()
        self._metrics.write("run", self.num_steps, {"event": "end", "peak_rss_bytes": peak_rss_bytes()})
        self._write_report()

    def _paused(self, action):
        def act(step: int) -> None:
            with self._progress.paused():
                action(step)
            self._loop_ended = time.monotonic()

        return act

    def _on_loop(self, step: int, steps: int, loss: float) -> None:
        now = time.monotonic()
        rate = steps * self.config.train.batch_size / max(now - self._loop_ended, 1e-9)
        self._loop_ended = now
        values = {
            "loss": loss,
            "learning_rate": float(self.train_step.learning_rate(float(step))),
            "examples_per_second": rate,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        self._metrics.write("train", step, values)
        self._progress.update(step, loss=loss)
        if not math.isfinite(loss):
            # Going on would replace the last good checkpoints with NaN.
            raise UserError(
                f"the loss is {loss} between steps {step - steps} and {step}: the run diverged; lower the "
                "learning rates, or look for bad labels or weights, and use another output.path"
            )

    def _save(self, step: int) -> None:
        self._store.save(step, self.recommender.storages, self.train_step.dense_state)
        self._record_checkpoints()

    def _wait_for_checkpoint(self, log_only: bool = False) -> None:
        """Waits for the one being written; `log_only`: another error is on its way, which matters more."""
        try:
            self._store.wait()
        except CheckpointError as error:
            if not log_only:
                raise
            logging.error("%s", error)
        self._record_checkpoints()

    def _record_checkpoints(self) -> None:
        for saved in self._store.finished():
            facts = dataclasses.asdict(saved)
            step, kind = facts.pop("step"), facts.pop("kind")
            self._metrics.write("run", step, {"event": "checkpoint", "checkpoint": kind, **facts})
            logging.info(
                "checkpoint of step %d: %s, %s, %s rows, %.1f MB, blocked %.2f s, written in %.2f s",
                *(step, kind, saved.mode, f"{saved.rows:,}", saved.bytes / 1e6),
                *(saved.blocked_seconds, saved.written_seconds),
            )

    def _evaluate(self, step: int) -> None:
        from trainer.evaluate import evaluate_recommender

        if not self.dataset.splits["valid"].rows:
            return
        try:
            lines = evaluate_recommender(self.recommender, self.dataset, self.items, step, "valid")
        except DataError as error:  # nobody to evaluate, a torn catalog: no reason to lose the training
            logging.warning("step %d is not evaluated: %s", step, error)
            return
        for line in lines:
            self._metrics.write("evaluate", step, line)
        self._write_report()

    def _evaluation_was_lost(self) -> bool:
        """Whether the run was stopped after the checkpoint of an evaluation's step, before its figures."""
        from trainer.loop import Every

        every = Every(self.config.evaluate.every_steps, self._evaluate, at_end=True)
        if not self.start_step or not every.due(self.start_step, self.num_steps):
            return False
        lines = read_metrics(self.config.output.path)
        wanted = {"kind": "evaluate", "split": "valid", "step": self.start_step}
        return not any(wanted.items() <= line.items() for line in lines)

    def _log_start(self) -> None:
        facts = {"event": "start"}
        if restored := self._store.restored:
            facts = {"event": "resume", "restore_seconds": restored.seconds, "bytes": restored.bytes}
        self._metrics.write("run", self.start_step, facts)
        for table in self.recommender.tables.values():
            logging.info(
                "table %s: %s rows x %d, engine %s, %.2f GB with slots and average",
                *(table.label, f"{table.rows:,}", table.dim, table.engine, table.bytes / 1e9),
            )
        left = self.num_steps - self.start_step
        logging.info(
            "%s steps to go of %s, %s per epoch",
            *(f"{n:,}" for n in (left, self.num_steps, self._data.steps_per_epoch)),
        )

    def _write_report(self) -> None:
        write_run_report(self.config, self.dataset, self.recommender, int(self.train_step.step))


def lock_run(path: str):
    """Holds the run directory against other trainers until the returned file is closed, or the process ends.

    Raises:
      UserError: another trainer holds it, or the directory cannot be made.
    """
    try:
        os.makedirs(path, exist_ok=True)
        file = open(os.path.join(path, ".lock"), "w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"output.path: {path} cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"{path}: another trainer is at work here; wait for it, or use another output.path"
        ) from None
    return file


def save_config(config: RunConfig) -> None:
    """Writes the resolved config into the run directory; it reproduces the run.

    Raises:
      UserError: the directory cannot be made or written.
    """
    path = os.path.join(config.output.path, "config.yaml")
    try:
        os.makedirs(config.output.path, exist_ok=True)
        write_bytes(path, dump_config(config).encode())
    except OSError as error:
        raise UserError(f"output.path: {config.output.path} cannot be written ({error.strerror})") from None


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""Everything one training run needs, opened in order and closed again."""

import dataclasses
import resource
import time

from absl import logging

from configs.dataset_lock import DatasetLock
from configs.errors import DataError, Stopped, UserError
from configs.lease import LeaseHeld
from configs.load import dump_config
from configs.manifest import load_dataset
from configs.schema import RunConfig
from configs.storage import join, make_directory, write_bytes
from trainer.data.catalog import verify_dataset_file
from trainer.report.findings import loss_findings
from trainer.report.metrics_file import MetricsWriter, read_metrics
from trainer.report.statistics import write_run_report
from trainer.run_lock import Lock, lock_directory
from trainer.runtime import start_tensorflow
from trainer.text import size_text
from trainer.training.interrupt import Interrupt
from trainer.training.progress import Progress


class TrainSession:
    """A run from its config: dataset, model, checkpoints, metrics.

    Resume order: (1) dataset and its checksums, (2) variables with their initial weights, or (3) the newest
    checkpoint that verifies, which overwrites all of them, (4) metrics cut back to the checkpoint's step,
    (5) the input placed at that step. Nothing else carries over, so a resumed run equals an undisturbed one.

    Args:
      config: the run.
      interrupt: the wish to stop early; looked at from `run` on.
    """

    def __init__(self, config: RunConfig, interrupt: Interrupt):
        start_tensorflow(config.device)
        from trainer.checkpoints.identity import checkpoint_identity
        from trainer.checkpoints.store import CheckpointStore
        from trainer.data.checks import check_dataset
        from trainer.training.build import build_training

        self.config, self._interrupt = config, interrupt
        self._reading = DatasetLock(config.dataset.path)
        self.dataset = load_dataset(config.dataset.path)
        check_dataset(config, self.dataset)
        for info in self.dataset.training_split(config.model.trains_on_positives).files:
            verify_dataset_file(self.dataset, info)
        training = build_training(config, self.dataset)
        self.items, self._data, self.num_steps, self.recommender, self.train_step = training
        self._store = CheckpointStore(
            join(config.output.path, "checkpoints"),
            config.checkpoint.keep,
            checkpoint_identity(config, self.dataset.fingerprint, self.num_steps),
            **config.checkpoint.model_dump(include={"incremental", "compact_at", "async_memory_mb"}),
            check=lambda: self._lock.check(),
        )
        self._lock = lock_run(config.output.path)
        try:
            self._restore()
            save_config(config)  # not before: a run that may not resume here leaves the config that can
            self._metrics = MetricsWriter(config.output.path, self.start_step)
        except BaseException:
            self._lock.close()
            raise
        self.report_path = join(config.output.path, "report.html")

    def _restore(self) -> None:
        step = self._store.restore_newest(self.recommender.storages, self.train_step.dense_state)
        if step is None:
            self.recommender.initialize()
        else:
            logging.info("resuming from step %d", step)
        self.train_step.send_rows()
        self.start_step = step or 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *unused) -> None:
        try:
            self._wait_for_checkpoint(log_only=kind is not None)
        finally:
            self._close_metrics(log_only=kind is not None)
            self._reading.close()

    def _close_metrics(self, log_only: bool) -> None:
        try:
            self._metrics.close(upload=not self._lock.lost)
        except Exception as error:  # each file system has its own errors
            if not log_only:
                raise
            logging.warning("the last metrics are not kept: %s", error)
        finally:
            self._lock.close()

    def run(self) -> None:
        """Trains, checkpoints, evaluates, and writes the report.

        Raises:
          Stopped: the interrupt asked for it; what was trained is saved.
          UserError: more batches than allowed had a loss or gradient that was not finite.
        """
        from trainer.training.loop import Loop

        config = self.config
        self._log_start()
        loop = Loop(
            self.train_step,
            self.train_step.batches(self._data, self.start_step),
            self.num_steps,
            config.train.steps_per_loop,
        )
        self._saved_step = self.start_step
        self._interrupt.defer(loop.request_stop)
        try:
            finished = self._train(loop)
        except Stopped:  # an evaluation was given up
            finished = False
        if not finished:
            self._stop(int(self.train_step.step))
        self._wait_for_checkpoint()
        self._metrics.write("run", self.num_steps, {"event": "end", "peak_rss_bytes": peak_rss_bytes()})
        self._log_loss_findings()
        self._write_report()

    def _log_loss_findings(self) -> None:
        """Says of the whole run's losses, earlier processes' too, what a reader of their curve would."""
        for text in loss_findings([line for line in self._metrics.read() if line.get("kind") == "train"]):
            logging.warning("%s", text)

    def _train(self, loop) -> bool:
        """As Loop.run, with what an earlier run was stopped before."""
        from trainer.training.loop import Every

        if self._evaluation_was_lost():
            self._evaluate(self.start_step)
        with Progress(
            self.num_steps, self.start_step, examples_per_step=self.config.train.batch_size
        ) as self._progress:
            self._loop_ended = time.monotonic()
            # A checkpoint comes before the evaluation of the same step, which a resumed run makes up for.
            return loop.run(
                self._on_loop,
                [
                    Every(self.config.checkpoint.every_steps, self._paused(self._save), at_end=True),
                    Every(self.config.evaluate.every_steps, self._paused(self._evaluate), at_end=True),
                ],
                self._on_skip,
            )

    def _stop(self, step: int) -> None:
        """Saves what is not saved yet, and raises Stopped. The report waits: whoever stops us may not."""
        if step != self._saved_step:
            self._save(step)
        self._wait_for_checkpoint()
        reason = self._interrupt.reason
        self._metrics.write("run", step, {"event": "stop", "reason": reason})
        raise Stopped(f"stopped by {reason} at step {step:,}; run the same command to resume")

    def _paused(self, action):
        def act(step: int) -> None:
            with self._progress.paused():
                action(step)
            self._loop_ended = time.monotonic()

        return act

    def _on_loop(self, step: int, steps: int, loss: float) -> None:
        if self._lock.lost:  # a store that cannot be asked for a while is no reason to stop training
            self._lock.check()
        now = time.monotonic()
        rate = steps * self.config.train.batch_size / max(now - self._loop_ended, 1e-9)
        self._loop_ended = now
        values = {
            "loss": loss,
            **self.train_step.learning_rates(float(step)),
            "examples_per_second": rate,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        self._metrics.write("train", step, values)
        self._progress.update(step, loss=loss)

    def _on_skip(self, step: int) -> None:
        """After a batch with a loss or gradient that is not finite; on the CPU no weight has seen it."""
        from trainer.training.blame import blame

        guard, allowed = self.train_step.guard, self.config.train.skip_nonfinite
        skipped = int(guard.skipped)
        facts = f"step {step:,}: not finite: {guard.latest}; {blame(self._data, step)}"
        values = {"event": "skip", "skipped_batches": skipped, "reason": guard.latest}
        self._metrics.write("run", step, values)
        if skipped <= allowed:
            logging.warning("%s; the batch is left out, the %d. of %d allowed", facts, skipped, allowed)
            return
        self._wait_for_checkpoint()
        saved = self._saved_step
        intact = f"the checkpoint of step {saved:,} is intact" if saved else "no checkpoint was written yet"
        more = ", or raise it" if self.train_step.leaves_bad_batches_out else ""
        raise UserError(
            f"{facts}; {intact}. train.skip_nonfinite allows {allowed:,} such batches: look for bad "
            f"labels or weights in the data, lower the learning rates (in another output.path){more}"
        )

    def _save(self, step: int) -> None:
        self._lock.check()
        self._metrics.flush()
        with self.train_step.rows_at_hand():
            self._store.save(step, self.recommender.storages, self.train_step.dense_state)
        self._saved_step = step
        self._record_checkpoints()

    def _wait_for_checkpoint(self, log_only: bool = False) -> None:
        """Waits for the one being written; `log_only`: another error is on its way, which matters more."""
        try:
            self._store.wait()
        except UserError as error:
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
        from trainer.evaluation.scorer import evaluate_recommender, log_findings

        if not self.dataset.splits["valid"].rows:
            return
        try:
            with self.train_step.rows_at_hand():
                lines = evaluate_recommender(
                    self.recommender, self.dataset, self.items, step, "valid", self._interrupt.check
                )
        except DataError as error:  # nobody to evaluate, a torn catalog: no reason to lose the training
            logging.warning("step %d is not evaluated: %s", step, error)
            return
        for line in lines:
            self._metrics.write("evaluate", step, line)
        if step == self.num_steps:  # on the way a model may be bad
            log_findings(lines)
        self._write_report()

    def _evaluation_was_lost(self) -> bool:
        """Whether the run was stopped after the checkpoint of an evaluation's step, before its figures."""
        from trainer.training.loop import Every

        every = Every(self.config.evaluate.every_steps, self._evaluate, at_end=True)
        if not self.start_step or not every.due(self.start_step, self.num_steps):
            return False
        lines = read_metrics(self.config.output.path)
        wanted = {"kind": "evaluate", "split": "valid", "step": self.start_step}
        return not any(wanted.items() <= line.items() for line in lines)

    def _log_start(self) -> None:
        from trainer.averages import horizon_finding

        facts = {"event": "start", "table_bytes": sum(t.bytes for t in self.recommender.storages.values())}
        if restored := self._store.restored:
            facts = {"event": "resume", "restore_seconds": restored.seconds, "bytes": restored.bytes}
        self._metrics.write("run", self.start_step, facts)
        if finding := horizon_finding(self.config.polyak, self.num_steps):
            logging.warning("%s", finding)
            self._metrics.write("run", self.start_step, {"event": "finding", "finding": finding})
        for table in self.recommender.tables.values():
            logging.info(
                "table %s: %s rows x %d, engine %s, %s with slots and average",
                *(table.label, f"{table.rows:,}", table.dim, table.engine, size_text(table.bytes)),
            )
        left = self.num_steps - self.start_step
        logging.info(
            "%s steps to go of %s, %s per epoch",
            *(f"{n:,}" for n in (left, self.num_steps, self._data.steps_per_epoch)),
        )

    def _write_report(self) -> None:
        try:
            with self.train_step.rows_at_hand():
                write_run_report(self.config, self.dataset, self.recommender, int(self.train_step.step))
        except OSError as error:  # training is worth more than its report of this minute
            logging.warning("%s: cannot be written (%s)", self.report_path, error.strerror or error)


def lock_run(path: str) -> Lock:
    """Holds the run directory against other trainers until it is closed, or the process ends.

    Raises:
      UserError: another trainer holds it, or the directory cannot be made.
    """
    try:
        return lock_directory(path)
    except LeaseHeld as holder:
        raise UserError(
            f"{path}: another trainer is at work here ({holder}); wait for it, or use another output.path"
        ) from None
    except OSError as error:
        raise UserError(f"output.path: {path} cannot be written ({error.strerror or error})") from None


def save_config(config: RunConfig) -> None:
    """Writes the resolved config into the run directory; it reproduces the run.

    Raises:
      UserError: the directory cannot be made or written.
    """
    path = config.output.path
    try:
        make_directory(path)
        write_bytes(join(path, "config.yaml"), dump_config(config).encode())
    except OSError as error:
        raise UserError(f"output.path: {path} cannot be written ({error.strerror or error})") from None


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

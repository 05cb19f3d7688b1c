"""One training run: opens everything it needs in order, trains, saves, evaluates and closes."""

import time

from absl import logging

from configs.errors import DataError, Stopped, UserError
from configs.manifest import load_dataset
from configs.schema import RunConfig
from configs.sections.devices import ClusterDeviceConfig
from configs.system.storage import join
from trainer.data.chain.layers import ChainLock
from trainer.report.metrics_file import read_metrics
from trainer.report.statistics import write_run_report
from trainer.runtime import start_tensorflow
from trainer.training.interrupt import Interrupt
from trainer.training.progress import Progress
from trainer.training.run_directory import lock_run, save_config


class TrainSession:
    """A run from its config: dataset, model, checkpoints, metrics.

    Resume order: (1) dataset and its checksums, (2) variables with their initial weights, or those of another
    run (`init`), or (3) the newest checkpoint that verifies, which overwrites all of them, (4) metrics cut
    back to the checkpoint's step, (5) the input placed at that step. Nothing else carries over, so a resumed
    run equals an undisturbed one, and never reads `init` again.

    Args:
      config: the run.
      interrupt: may ask to stop early; `run` obeys it.
    """

    def __init__(self, config: RunConfig, interrupt: Interrupt):
        start_tensorflow(config.device)
        from trainer.checkpoints.identity import checkpoint_identity
        from trainer.checkpoints.store import CheckpointStore
        from trainer.cluster.connect import wait_for_hosts_of
        from trainer.data.checks import check_dataset
        from trainer.data.train_rows import TrainRows
        from trainer.training.best_step import BestStep, check_can_be_best
        from trainer.training.build import build_training
        from trainer.training.journal import Journal

        if isinstance(config.device, ClusterDeviceConfig):
            wait_for_hosts_of(config.device)
        self.config, self._interrupt = config, interrupt
        self._reading = ChainLock(config.dataset.path)
        self.dataset = load_dataset(config.dataset.path)
        check_dataset(config, self.dataset)
        check_can_be_best(config, self.dataset)
        self._warm = self._warm_start()
        rows = TrainRows.of(config, self.dataset)
        rows.verify()
        training = build_training(config, self.dataset, rows)
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
            save_config(config)  # not earlier: a refused run must not replace the config that can resume
            self._best = BestStep(config, self.start_step, self.num_steps)
            self._journal = Journal(config, self.start_step)
        except BaseException:
            self._lock.close()
            raise
        self.report_path = join(config.output.path, "report.html")

    def _warm_start(self):
        """The run to start from; None: there is none, or this one resumes."""
        from trainer.warm_start.source import starts_anew
        from trainer.warm_start.start import WarmStart

        if self.config.init is None:
            return None
        if not starts_anew(self.config):
            logging.info("init.from is not read: this run has checkpoints of its own")
            return None
        warm = WarmStart(self.config, self.dataset)
        # On a TPU later: before it is connected no TensorFlow operation may run, and tables are not here.
        if self.config.device.kind == "cpu":
            warm.match()
        return warm

    def _restore(self) -> None:
        from trainer.warm_start.movement import sampled, save_weights

        state = self.train_step.dense_state
        step = self._store.restore_newest(self.recommender.storages, state)
        self.started = None
        if step is not None:
            logging.info("resuming from step %d", step)
        elif self._warm is None:
            self.recommender.initialize()
        else:
            self.started = self._warm.load(self.recommender, state)
            self._store.started_from = self.started.origin
            start = sampled(self.recommender.storages, self._warm.sample)
            save_weights(self.config.output.path, start)
            self._warm = None  # frees the matches
        self.train_step.send_rows()
        self.start_step = step or 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *unused) -> None:
        try:
            self._wait_for_checkpoint(log_only=kind is not None)
        finally:
            self._close_journal(log_only=kind is not None)
            self._reading.close()

    def _close_journal(self, log_only: bool) -> None:
        try:
            self._journal.close(upload=not self._lock.lost)
        except Exception as error:  # each file system has its own errors
            if not log_only:
                raise
            logging.warning("the last metrics could not be saved: %s", error)
        finally:
            self._lock.close()

    def run(self) -> None:
        """Trains, checkpoints, evaluates, and writes the report.

        Raises:
          Stopped: the interrupt asked for it; all steps done are saved.
          UserError: more batches than train.skip_nonfinite had a loss or gradient that was not finite.
        """
        from trainer.training.loop import Loop

        self._journal.start(
            self.recommender, self._store.restored, self.num_steps, self._data.steps_per_epoch
        )
        self._journal.began(self._store.started_from, self.started)
        loop = Loop(
            self.train_step,
            self.train_step.batches(self._data, self.start_step),
            self.num_steps,
            self.config.train.steps_per_loop,
        )
        self._saved_step, self._loop = self.start_step, loop
        self._interrupt.defer(loop.request_stop)
        try:
            finished = self._train(loop)
        except Stopped:  # during an evaluation
            finished = False
        step = int(self.train_step.step)
        if not finished and (self._interrupt.reason or not self._best.used_up):
            self._stop(step)
        self._wait_for_checkpoint()
        if self._best.wanted:
            self._store.prune()
        if self._store.started_from is not None:
            with self.train_step.readable_rows():
                self._journal.moved(step, self.recommender.storages)
        self._journal.ended(step, self._best.summary(step))
        self._write_report()

    def _train(self, loop) -> bool:
        """As Loop.run, after the evaluation that an earlier process did not get to."""
        from trainer.training.loop import Every

        if self._evaluation_was_lost():
            self._evaluate(self.start_step)
        if self._best.used_up:
            return False
        with Progress(
            self.num_steps, self.start_step, examples_per_step=self.config.train.batch_size
        ) as self._progress:
            self._loop_ended = time.monotonic()
            # A checkpoint comes before the evaluation of the same step: a resumed run repeats a lost one.
            return loop.run(
                self._on_loop,
                [
                    Every(self.config.checkpoint.every_steps, self._paused(self._save), at_end=True),
                    Every(self.config.evaluate.every_steps, self._paused(self._evaluate), at_end=True),
                ],
                self._on_skip,
            )

    def _stop(self, step: int) -> None:
        """Saves what is not saved yet and raises Stopped; no report, the process may be killed any moment."""
        if step != self._saved_step:
            self._save(step)
        self._wait_for_checkpoint()
        reason = self._interrupt.reason
        self._journal.stopped(step, reason)
        raise Stopped(f"stopped by {reason} at step {step:,}; rerun the same command to resume")

    def _paused(self, action):
        def act(step: int) -> None:
            with self._progress.paused():
                action(step)
            self._loop_ended = time.monotonic()

        return act

    def _on_loop(self, step: int, steps: int, loss: float) -> None:
        if self._lock.lost:  # only then: a store that does not answer for a while must not stop training
            self._lock.check()
        now = time.monotonic()
        rate = steps * self.config.train.batch_size / max(now - self._loop_ended, 1e-9)
        self._loop_ended = now
        self._journal.trained(step, loss, self.train_step.learning_rates(float(step)), rate)
        self._progress.update(step, loss=loss)

    def _on_skip(self, step: int) -> None:
        """Handles a batch with a loss or gradient that is not finite; on the CPU it has changed no weight."""
        from trainer.training.blame import blame

        guard, allowed = self.train_step.guard, self.config.train.skip_nonfinite
        skipped = int(guard.skipped)
        facts = f"step {step:,}: not finite: {guard.latest}; {blame(self._data, step)}"
        self._journal.skipped(step, skipped, guard.latest)
        if skipped <= allowed:
            logging.warning("%s; the batch is skipped, number %d of %d allowed", facts, skipped, allowed)
            return
        self._wait_for_checkpoint()
        saved = self._saved_step
        intact = f"the checkpoint of step {saved:,} is intact" if saved else "no checkpoint was written yet"
        more = ", or raise it" if self.train_step.leaves_bad_batches_out else ""
        raise UserError(
            f"{facts}; {intact}. train.skip_nonfinite allows {allowed:,} such batches: check labels and "
            f"weights in the data, lower the learning rates (in another output.path){more}"
        )

    def _save(self, step: int) -> None:
        self._lock.check()
        self._journal.flush()
        with self.train_step.readable_rows():
            last = step == self.num_steps
            self._store.save(step, self.recommender.storages, self.train_step.dense_state, last=last)
        self._saved_step = step
        self._journal.saved(self._store.finished())

    def _wait_for_checkpoint(self, log_only: bool = False) -> None:
        """Waits for the checkpoint being written; `log_only`: an earlier error is being raised already."""
        try:
            self._store.wait()
        except UserError as error:
            if not log_only:
                raise
            logging.error("%s", error)
        self._journal.saved(self._store.finished())

    def _evaluate(self, step: int) -> None:
        from trainer.evaluation.scorer import evaluate_recommender, log_findings

        if not self.dataset.splits["valid"].rows:
            return
        is_last = step == self.num_steps
        try:
            with self.train_step.readable_rows():
                lines = evaluate_recommender(
                    *(self.recommender, self.dataset, self.items, step, "valid"),
                    check=self._interrupt.check,
                    detail=is_last,
                )
        except DataError as error:  # no users, a damaged catalog: no reason to lose the training
            logging.warning("step %d is not evaluated: %s", step, error)
            return
        self._journal.evaluated(step, lines)
        if is_last:  # before that a model may be bad
            log_findings(lines)
        best = self._best.enter(step, lines, lambda: self._saved_for_best(step))
        if best is not None:
            self._journal.best(step, best)
        if self._best.used_up:
            self._loop.request_stop()
        self._write_report()

    def _saved_for_best(self, step: int) -> list[int]:
        """Completes the checkpoint of `step`; the steps that polyak.kind tail_average averages with it."""
        self._wait_for_checkpoint(log_only=True)
        self._save(step)  # does nothing if that has succeeded
        self._wait_for_checkpoint()
        late = [s for s in self._store.steps() if step / 2 <= s <= step]
        return late[::-1][: self.config.polyak.tail][::-1]

    def _evaluation_was_lost(self) -> bool:
        """Whether an earlier process saved a step due for evaluation and ended before evaluating it."""
        from trainer.training.loop import Every

        every = Every(self.config.evaluate.every_steps, self._evaluate, at_end=True)
        if not self.start_step or not every.due(self.start_step, self.num_steps):
            return False
        if self._best.lacks(self.start_step):
            return True
        lines = read_metrics(self.config.output.path)
        wanted = {"kind": "evaluate", "split": "valid", "step": self.start_step}
        return not any(wanted.items() <= line.items() for line in lines)

    def _write_report(self) -> None:
        try:
            with self.train_step.readable_rows():
                write_run_report(self.config, self.dataset, self.recommender, int(self.train_step.step))
        except OSError as error:  # a missing report must not end the training
            logging.warning("%s: cannot be written (%s)", self.report_path, error.strerror or error)

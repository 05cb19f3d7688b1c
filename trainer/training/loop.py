"""The training loop: an outer loop in Python, an inner one of many steps in one tf.function."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import tensorflow as tf

from configs.errors import DataError
from trainer.training.step import Step


@dataclass(frozen=True)
class Every:
    """An action that is due every `steps` steps, and at the end of the run if `at_end`."""

    steps: int
    action: Callable[[int], None]
    at_end: bool = False

    def due(self, step: int, num_steps: int) -> bool:
        """Whether the action is due after `step` steps."""
        return (self.steps > 0 and step % self.steps == 0) or (self.at_end and step == num_steps)

    def next_step(self, step: int) -> float:
        """The first step after `step` at which it is due; infinity if it never is."""
        return (step // self.steps + 1) * self.steps if self.steps > 0 else float("inf")


class Loop:
    """Runs a Step over batches.

    Args:
      train_step: the step.
      batches: result of the step's `batches`, from the step at which the run starts.
      num_steps: step at which the run ends.
      steps_per_loop: most steps between two returns to Python.
    """

    def __init__(self, train_step: Step, batches: tf.data.Dataset, num_steps: int, steps_per_loop: int):
        self._train_step, self._num_steps, self._steps_per_loop = train_step, num_steps, steps_per_loop
        self._iterator = iter(batches)
        self._stop = tf.Variable(False, trainable=False, name="stop")

    def request_stop(self) -> None:
        """Makes `run` return after the step in progress; thread-safe."""
        self._stop.assign(True)

    def run(
        self,
        on_loop: Callable[[int, int, float], None],
        actions: Iterable[Every],
        on_skip: Callable[[int], None],
    ) -> bool:
        """Trains to the end, or until `request_stop`.

        Args:
          on_loop: called after each inner loop in which a batch was applied, with (steps done, steps of the
            loop, mean loss of the batches applied).
          actions: called when due; no inner loop runs past a step at which one is due.
          on_skip: called with the step of a batch that was not applied: right after that step, or after the
            inner loop if the step does not look at each batch.

        Returns:
          Whether the end was reached, including the actions due there.

        Raises:
          DataError: the input cannot be read.
        """
        actions = list(actions)
        step = int(self._train_step.step)
        while step < self._num_steps:
            end = min([self._loop_end(step), self._num_steps, *(a.next_step(step) for a in actions)])
            done, applied, loss = (value.numpy() for value in self._inner(tf.constant(end - step)))
            first_bad = step + int(applied) + 1
            step += int(done)
            if applied:
                on_loop(step, int(done), float(loss))
            if applied < done:
                on_skip(first_bad)
            for every in actions:
                if self._stop:
                    return False
                if done and every.due(step, self._num_steps):
                    every.action(step)
            if self._stop:
                return step == self._num_steps
        return True

    def _loop_end(self, step: int) -> int:
        """Last step of the inner loop that begins after `step`.

        The first loop is at most a hundredth of the run: the first loss in the metrics would otherwise be a
        mean over steps that have already learned.
        """
        first = self._num_steps // 100
        if step == 0 and 0 < first < self._steps_per_loop:
            return first
        return (
            self._steps_per_loop if 0 < step == first < self._steps_per_loop else step + self._steps_per_loop
        )

    def _inner(self, steps):
        try:
            return self._compiled(self._iterator, steps)
        except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
            # The message begins with traces; the cause is its last line that is not indented.
            reason = [line for line in error.message.splitlines() if line and not line[0].isspace()][-1]
            raise DataError(
                f"train split: cannot be read any more ({reason}); rerun the same command, which verifies "
                "the checksum of every file first and names the damaged one"
            ) from None
        except tf.errors.InvalidArgumentError as error:
            # Assertions of a model about its data are meant for the user; any other such error is a bug.
            asserted = re.search(r"assertion failed: \[(.*?)\]", error.message)
            if asserted is None:
                raise
            raise DataError(f"train split: {asserted.group(1)}") from None

    @tf.function(reduce_retracing=True)
    def _compiled(self, iterator, steps):
        """At most `steps` steps; fewer when a stop was requested or, if the step looks at each batch, when a
        batch was not applied.

        Returns:
          (steps done, batches applied before the first that was not, their mean loss): int32, int32 and
          float32 scalars.
        """
        done, applied, total, fine = tf.constant(0), tf.constant(0), tf.constant(0.0), tf.constant(True)
        blind = not self._train_step.looks_each_step
        while (done < steps) & (fine | blind) & ~self._stop.read_value():
            # One iteration at a time: the stop variable must not be read ahead of the steps.
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            loss, good = self._train_step(next(iterator))
            fine &= good
            total += tf.where(fine, loss, 0.0)
            applied += tf.cast(fine, tf.int32)
            done += 1
        return done, applied, tf.math.divide_no_nan(total, tf.cast(applied, tf.float32))

"""The training loop: an outer loop in Python, an inner one of many steps in one tf.function."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import tensorflow as tf

from configs.errors import DataError
from trainer.step import TrainStep


@dataclass(frozen=True)
class Every:
    """Something to do every `steps` steps, and at the end of the run if `at_end`."""

    steps: int
    action: Callable[[int], None]
    at_end: bool = False

    def due(self, step: int, num_steps: int) -> bool:
        """Whether to act after `step` steps."""
        return (self.steps > 0 and step % self.steps == 0) or (self.at_end and step == num_steps)

    def next_step(self, step: int) -> float:
        """The first step after `step` at which it is due; infinity when never."""
        return (step // self.steps + 1) * self.steps if self.steps > 0 else float("inf")


class Loop:
    """Runs a TrainStep over batches.

    Args:
      train_step: the step.
      batches: endless dataset that begins at the step the run begins at.
      num_steps: step at which the run ends.
      steps_per_loop: most steps between two returns to Python.
    """

    def __init__(self, train_step: TrainStep, batches: tf.data.Dataset, num_steps: int, steps_per_loop: int):
        self._train_step, self._num_steps, self._steps_per_loop = train_step, num_steps, steps_per_loop
        self._iterator = iter(batches)

    def run(self, on_loop: Callable[[int, int, float], None], actions: Iterable[Every]) -> None:
        """Trains to the end.

        Args:
          on_loop: called after each inner loop with (steps done, steps of the loop, their mean loss).
          actions: called when due; an inner loop never runs past a step at which one is due.

        Raises:
          DataError: the input cannot be read.
        """
        actions = list(actions)
        step = int(self._train_step.step)
        while step < self._num_steps:
            stop = min([step + self._steps_per_loop, self._num_steps, *(a.next_step(step) for a in actions)])
            loss = float(self._inner(tf.constant(stop - step)))
            steps, step = stop - step, stop
            on_loop(step, steps, loss)
            for every in actions:
                if every.due(step, self._num_steps):
                    every.action(step)

    def _inner(self, steps):
        try:
            return self._compiled(self._iterator, steps)
        except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
            # Traces come first in the message; the cause is its last line that is not indented.
            reason = [line for line in error.message.splitlines() if line and not line[0].isspace()][-1]
            raise DataError(
                f"train split: cannot be read any more ({reason}); run the same command again: it compares "
                "every file with its checksum first, and names the torn one"
            ) from None
        except tf.errors.InvalidArgumentError as error:
            # What a model asserts of its data is for the user; any other such error is a bug.
            asserted = re.search(r"assertion failed: \[(.*?)\]", error.message)
            if asserted is None:
                raise
            raise DataError(f"train split: {asserted.group(1)}") from None

    @tf.function(reduce_retracing=True)
    def _compiled(self, iterator, steps):
        """Mean loss of `steps` steps, float32 scalar."""
        total = tf.constant(0.0)
        for _ in tf.range(steps):
            total += self._train_step(next(iterator))
        return total / tf.cast(steps, tf.float32)

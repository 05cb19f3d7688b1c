"""What every optimizer of table rows offers; `trainer.optimizers.ROW_OPTIMIZERS` lists them by kind."""

import abc
from collections.abc import Sequence

import tensorflow as tf


class RowOptimizer(abc.ABC):
    """Pure mathematics on rows: no variables, no state but the slots and the shared state passed in.

    Attributes:
      slot_names: names of the slots, in the order in which `row_update` takes and returns them.
      shared_names: names of the state that all rows of a table share, in the order of `initial_shared`.
      learning_rate: peak rate; schedules multiply it.
    """

    slot_names: Sequence[str] = ()
    shared_names: Sequence[str] = ()

    def __init__(self, config):
        self.config = config
        self.learning_rate = config.learning_rate

    def slot_widths(self, dim: int) -> list[int]:
        """Width of each slot of a row of `dim` values; as wide as the row unless overridden."""
        return [dim] * len(self.slot_names)

    def initial_slots(self, weight: tf.Tensor) -> list[tf.Tensor]:
        """Slots of untouched rows, float32 [n, width] each, for weights [n, dim]; zero unless overridden."""
        rows = tf.shape(weight)[0]
        return [tf.zeros([rows, width]) for width in self.slot_widths(weight.shape[-1])]

    def initial_shared(self, dim: int) -> list[tf.Tensor]:
        """State shared by all rows of `dim` values before the first step, float32, as `shared_names`."""
        return []

    @abc.abstractmethod
    def row_update(self, weight, slots, gradient, step, learning_rate):
        """One step on the touched rows.

        Args:
          weight: float32 [n, dim].
          slots: list of float32 [n, width], as `slot_names`.
          gradient: float32 [n, dim], summed over the row's occurrences in the batch.
          step: float32 scalar, counted from 1 over the run (not the row).
          learning_rate: float32 scalar of this step.

        Returns:
          (weight, slots) after the step, shapes as given.
        """

    def row_update_shared(self, weight, slots, shared, gradient, step, learning_rate):
        """What tables call: `row_update`, with the shared state taken and returned.

        Args:
          weight, slots, gradient, step, learning_rate: as `row_update`.
          shared: list of float32 tensors, as `initial_shared`.

        Returns:
          (weight, slots, shared) after the step, shapes as given.
        """
        return *self.row_update(weight, slots, gradient, step, learning_rate), shared

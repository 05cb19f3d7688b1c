"""Row optimizers as tf_keras optimizers, for `model.compile` and everything else Keras does with one."""

import tensorflow as tf
import tf_keras

from configs.errors import ConfigError
from trainer.optimizers.variables import initial_slots, update_variable


@tf_keras.utils.register_keras_serializable("lazytower")
class KerasShell(tf_keras.optimizers.Optimizer):
    """Keras keeps step, learning rate and slots; the row optimizer has the mathematics.

    Keras sums repeated indices, sets the rate (schedules, callbacks) and saves the slots with the model.

    Args:
      optimizer: RowOptimizer, or the dict that `get_config` makes of one.
      learning_rate: number or tf_keras LearningRateSchedule; the optimizer's own when not given.
      name: of the Keras optimizer.
    """

    def __init__(self, optimizer, learning_rate=None, name="lazytower"):
        super().__init__(name=name)
        if isinstance(optimizer, dict):
            from trainer.optimizers import ROW_OPTIMIZERS

            optimizer = ROW_OPTIMIZERS[optimizer["kind"]](**optimizer)
        rate = optimizer.learning_rate if learning_rate is None else learning_rate
        schedule = isinstance(rate, tf_keras.optimizers.schedules.LearningRateSchedule)
        if callable(rate) and not schedule and not isinstance(rate, tf.Variable):
            raise ConfigError("Keras takes a number or a LearningRateSchedule as learning_rate")
        self._rows = optimizer
        self._learning_rate = self._build_learning_rate(rate)

    def build(self, var_list):
        """Makes the slots, float32 [rows, width] each."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._built = True
        self._slots = [
            [
                self.add_variable_from_reference(variable, name, initial_value=value)
                for name, value in zip(
                    self._rows.slot_names, initial_slots(self._rows, variable), strict=True
                )
            ]
            for variable in var_list
        ]

    def update_step(self, gradient, variable):
        """One step on one variable."""
        slots = self._slots[self._index_dict[self._var_key(variable)]]
        step, rate = (tf.cast(x, tf.float32) for x in (self.iterations + 1, self.learning_rate))
        update_variable(self._rows, gradient, variable, slots, step, rate)

    def get_config(self):
        """What `from_config` takes; the row optimizer as its section's keys."""
        return {
            "name": self.name,
            "optimizer": self._rows.config.model_dump(mode="json"),
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
        }

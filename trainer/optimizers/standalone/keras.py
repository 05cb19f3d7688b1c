"""Row optimizers as tf_keras optimizers, for `model.compile` and everything else Keras does with one."""

import tensorflow as tf
import tf_keras

from configs.errors import ConfigError
from trainer.optimizers.checks import check_variable, checked_gradient, range_checked
from trainer.optimizers.clipping import clip_by_global_norm
from trainer.optimizers.standalone.variables import distinct, update_variable


@tf_keras.utils.register_keras_serializable("lazytower")
class KerasShell(tf_keras.optimizers.Optimizer):
    """Keras keeps step, learning rate and slots; the row optimizer has the mathematics.

    A step reads and writes the rows that have a gradient, and no others. Keras sums gradients over replicas,
    sets the rate (schedules, callbacks) and saves the slots with the model.

    Args:
      optimizer: RowOptimizer, or the dict that `get_config` makes of one.
      learning_rate: number, tf.Variable (its value at each step counts; Keras assigns to it) or tf_keras
        LearningRateSchedule; the optimizer's own when not given.
      name: of the Keras optimizer.
      clipnorm, global_clipnorm, clipvalue: as in tf_keras, of distinct rows with their summed gradients.
      use_ema, ema_momentum, ema_overwrite_frequency: as in tf_keras: with use_ema each step passes over all
        weights.
      jit_compile: as in tf_keras, where it counts on GPUs only.

    Raises:
      ConfigError: an option that Keras does not know, or a function as learning rate.
    """

    def __init__(
        self,
        optimizer,
        learning_rate=None,
        name="lazytower",
        *,
        clipnorm=None,
        global_clipnorm=None,
        clipvalue=None,
        use_ema=False,
        ema_momentum=0.99,
        ema_overwrite_frequency=None,
        jit_compile=False,
        **unknown,
    ):
        _refuse(unknown, clipnorm=clipnorm, global_clipnorm=global_clipnorm, clipvalue=clipvalue)
        # Keras' own weight decay passes over all weights, even at 0; the row optimizer has a lazy one.
        super().__init__(
            name=name,
            weight_decay=None,
            clipnorm=clipnorm,
            global_clipnorm=global_clipnorm,
            clipvalue=clipvalue,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            jit_compile=jit_compile,
        )
        if isinstance(optimizer, dict):
            from trainer.optimizers import ROW_OPTIMIZERS

            optimizer = ROW_OPTIMIZERS[optimizer["kind"]](**optimizer)
        self._rows = optimizer
        self._learning_rate = self._build_learning_rate(
            optimizer.learning_rate if learning_rate is None else learning_rate
        )

    def _build_learning_rate(self, learning_rate):
        if isinstance(learning_rate, tf.Variable):
            return learning_rate
        schedule = isinstance(learning_rate, tf_keras.optimizers.schedules.LearningRateSchedule)
        if callable(learning_rate) and not schedule:
            raise ConfigError(
                "Keras takes a number, a tf.Variable or a LearningRateSchedule as learning_rate, no function"
            )
        return super()._build_learning_rate(learning_rate)

    def build(self, var_list):
        """Makes the slots, float32 [rows, width] each, whatever the type of the variable."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._built = True
        initial = self._rows.variable_slots().initial
        self._slots = [
            [self._add_slot(variable, name, value) for name, value in initial(variable).items()]
            for variable in var_list
        ]

    def _add_slot(self, variable, name, value):
        if variable.dtype == tf.float32:
            return self.add_variable_from_reference(variable, name, initial_value=value)
        # Keras would make it of the variable's type.
        with tf.distribute.get_strategy().extended.colocate_vars_with(variable):
            slot = tf.Variable(value, trainable=False, name=f"{name}/{variable._shared_name}")
        self._variables.append(slot)
        return slot

    def apply_gradients(self, grads_and_vars, *args, **kwargs):
        """As in Keras; variables, gradients and indices are checked as RowOptimizer.apply_gradients does."""
        given = list(grads_and_vars)
        # While a model is saved, Keras traces a step on what are no variables yet.
        if all(isinstance(variable, tf.Variable) for _, variable in given):
            for _, variable in given:
                check_variable(variable)
            given = range_checked([(None if g is None else checked_gradient(g, v), v) for g, v in given])
        return super().apply_gradients(given, *args, **kwargs)

    def _clip_gradients(self, grads):
        if self.global_clipnorm:
            return clip_by_global_norm(grads, self.global_clipnorm)
        if self.clipnorm:
            return [clip_by_global_norm([gradient], self.clipnorm)[0] for gradient in grads]
        return super()._clip_gradients(self._deduplicate_sparse_grad(grads) if self.clipvalue else grads)

    def _deduplicate_sparse_grad(self, grads):
        return [distinct(g) if isinstance(g, tf.IndexedSlices) else g for g in grads]

    def update_step(self, gradient, variable):
        """One step on one variable; slices have distinct indices."""
        slots = self._slots[self._index_dict[self._var_key(variable)]]
        step, rate = (tf.cast(x, tf.float32) for x in (self.iterations + 1, self.learning_rate))
        decay = self._use_weight_decay(variable)
        update_variable(self._rows, gradient, variable, slots, step, rate, decay, is_distinct=True)

    def get_config(self):
        """What `from_config` takes; the row optimizer as its section's keys."""
        config = super().get_config()
        for name in ("weight_decay", "is_legacy_optimizer"):  # the first is the row optimizer's
            config.pop(name)
        return config | {
            "optimizer": self._rows.config.model_dump(mode="json"),
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
        }


def _refuse(unknown: dict, **clips) -> None:
    """Raises ConfigError for options that mean nothing here, and for clips that are not above 0."""
    unknown.pop("is_legacy_optimizer", None)  # Keras' own mark in a saved configuration
    if "weight_decay" in unknown:
        raise ConfigError("keras() has no weight_decay: give it to the optimizer, LazyAdam(weight_decay=...)")
    if unknown:
        raise ConfigError(f"keras() has no option {', '.join(sorted(unknown))}")
    for name, value in clips.items():
        if value is not None and not value > 0:
            raise ConfigError(f"keras(): {name} must be greater than 0, found {value}")

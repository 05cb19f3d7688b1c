"""Row optimizers as tf_keras optimizers, for `model.compile` and other Keras APIs."""

import tensorflow as tf
import tf_keras

from configs.errors import ConfigError
from trainer.optimizers.checks import check_variable, checked_gradient, range_checked
from trainer.optimizers.clipping import clip_by_global_norm
from trainer.optimizers.standalone.variables import distinct, update_variable


@tf_keras.utils.register_keras_serializable("lazytower")
class KerasShell(tf_keras.optimizers.Optimizer):
    """A Keras optimizer with the update rule of a row optimizer.

    A step reads and writes only the rows that have a gradient. Keras sums gradients over replicas, sets the
    learning rate (schedules, callbacks), counts the steps and saves the slots with the model.

    Args:
      optimizer: RowOptimizer, or its dict from `get_config`.
      learning_rate: number, tf.Variable (read at each step; Keras assigns to it) or tf_keras
        LearningRateSchedule; None for the optimizer's own.
      name: of the Keras optimizer.
      clipnorm, global_clipnorm, clipvalue: as in tf_keras, after gradients of the same row are summed.
      use_ema, ema_momentum, ema_overwrite_frequency: as in tf_keras; use_ema reads and writes all weights
        each step.
      jit_compile: as in tf_keras, where it has an effect on GPUs only.

    Raises:
      ConfigError: an option is unknown, or the learning rate is a function.
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
        # Keras' weight decay updates all weights, even at 0; the row optimizer's is lazy.
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
                "keras(): learning_rate is a function; use a number, a tf.Variable or a LearningRateSchedule"
            )
        return super()._build_learning_rate(learning_rate)

    def build(self, var_list):
        """Creates the slots, float32 [rows, width] each, whatever the dtype of the variable."""
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
        # Keras would give the slot the variable's dtype.
        with tf.distribute.get_strategy().extended.colocate_vars_with(variable):
            slot = tf.Variable(value, trainable=False, name=f"{name}/{variable._shared_name}")
        self._variables.append(slot)
        return slot

    def apply_gradients(self, grads_and_vars, *args, **kwargs):
        """As in Keras, with the checks of RowOptimizer.apply_gradients."""
        given = list(grads_and_vars)
        # When saving a model, Keras traces a step on placeholders instead of variables.
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
        """Arguments for `from_config`; `optimizer` has the keys of its section."""
        config = super().get_config()
        for name in ("weight_decay", "is_legacy_optimizer"):  # the row optimizer has its own weight_decay
            config.pop(name)
        return config | {
            "optimizer": self._rows.config.model_dump(mode="json"),
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
        }


def _refuse(unknown: dict, **clips) -> None:
    """Raises ConfigError for unknown options and for clip values that are not greater than 0."""
    unknown.pop("is_legacy_optimizer", None)  # Keras adds it to saved configurations
    if "weight_decay" in unknown:
        raise ConfigError("keras() has no weight_decay: pass it to the optimizer, LazyAdam(weight_decay=...)")
    if unknown:
        raise ConfigError(f"keras() has no option {', '.join(sorted(unknown))}")
    for name, value in clips.items():
        if value is not None and not value > 0:
            raise ConfigError(f"keras(): {name} must be greater than 0, found {value}")

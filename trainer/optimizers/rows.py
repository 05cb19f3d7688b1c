"""What every optimizer of table rows offers; `trainer.optimizers.ROW_OPTIMIZERS` lists them by kind."""

import abc
from collections.abc import Sequence

import tensorflow as tf
from pydantic import ValidationError

from configs.errors import ConfigError
from configs.section import Section
from trainer.optimizers.variables import VariableUpdates


class RowOptimizer(tf.Module, abc.ABC):
    """Pure mathematics on rows, with three faces and a public one.

    `row_update` is the formula, for embedding tables; `tpu` and `dense` are the same formula in TensorFlow's
    TPU embedding engine and in Keras. `apply_gradients` and `keras` use the formula on plain variables, in
    code that knows nothing of lazytower:

        optimizer = LazyAdam(learning_rate=1e-3)
        optimizer.apply_gradients([(gradient, variable)])     # dense gradients or tf.IndexedSlices
        model.compile(optimizer=LazyAdam(1e-3).keras(), ...)  # a tf_keras model

    Args:
      config: the optimizer's section of a run's config; or, for public use, the learning rate alone.
      **hyper: the section's keys instead of `config`. learning_rate may also be a tf.Variable or a function
        of the step (float32 scalar, counted from 1).

    Attributes:
      section: the class of `config`.
      slot_names: names of the slots, in the order in which `row_update` takes and returns them.
      shared_names: names of the state that all rows of a table share, in the order of `initial_shared`.
      native: hyperparameters in the order of this kind's rule in trainer/kernels/update.cc; None: there is
        no kernel.
      lazy: rows without a gradient do not move; else every row is updated at every step, with gradient 0.
      learning_rate: peak rate; schedules multiply it.

    Raises:
      ConfigError: a hyperparameter is unknown or out of its bounds.
    """

    section: type[Section]
    slot_names: Sequence[str] = ()
    native: list[float] | None = None
    shared_names: Sequence[str] = ()
    lazy = True

    def __init__(self, config=None, **hyper):
        super().__init__(name=type(self).__name__)
        rate = None
        if config is not None and not isinstance(config, Section):
            config, hyper = None, {"learning_rate": config, **hyper}
        if config is None:
            if isinstance(hyper.get("learning_rate"), tf.Variable) or callable(hyper.get("learning_rate")):
                rate = hyper.pop("learning_rate")
            config = self._validated(hyper)
        self.config = config
        self.learning_rate = config.learning_rate if rate is None else rate

    @classmethod
    def _validated(cls, hyper: dict) -> Section:
        kind = cls.section.model_fields["kind"].annotation.__args__[0]
        try:
            return cls.section(**{"kind": kind, **hyper})
        except ValidationError as error:
            reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"{cls.__name__}: {reasons}") from None

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
        """One step on the touched rows, without clipping and weight decay.

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
        """`row_update` for optimizers with state that rows share: takes and returns it too.

        Args:
          weight, slots, gradient, step, learning_rate: as `row_update`.
          shared: list of float32 tensors, as `initial_shared`.

        Returns:
          (weight, slots, shared) after the step, shapes as given.
        """
        return *self.row_update(weight, slots, gradient, step, learning_rate), shared

    def step_rows(self, weight, slots, gradient, step, learning_rate, shared=()):
        """`row_update_shared` with the config's clip_value before it and weight_decay beside it.

        Decay is decoupled (Loshchilov & Hutter 2019, algorithm 2) and lazy: only these rows lose
        learning_rate * weight_decay * weight.
        """
        clip, decay = (getattr(self.config, name, None) for name in ("clip_value", "weight_decay"))
        if clip:
            gradient = tf.clip_by_value(gradient, -clip, clip)
        after, slots, shared = self.row_update_shared(weight, slots, shared, gradient, step, learning_rate)
        if decay:
            after -= learning_rate * decay * weight
        return after, slots, shared

    def tpu(self, step=None, multiplier=None):
        """The same optimizer for tf.tpu.experimental.embedding tables; needs no TPU to be built.

        Tables that are given the same object share one learning-rate tag of the engine.

        Args:
          step: function without arguments -> step, float32 scalar counted from 1; for rates that change.
          multiplier: schedule (function of the step) of the rate; None: constant.

        Raises:
          ConfigError: the engine has none with these semantics; says why.
        """
        if self.config.tpu_lacks:
            raise ConfigError(f"optimizer {self.config.kind} has no TPU form: {self.config.tpu_lacks}")
        return self._tpu(step, multiplier)

    def _tpu(self, step, multiplier):
        """`tpu`, for optimizers whose config lacks nothing there."""
        raise NotImplementedError(f"{type(self).__name__} has no TPU form, and its config must say so")

    def dense(self):
        """The same optimizer for towers, from tf_keras, at the peak rate. Raises ConfigError if none."""
        raise ConfigError(f"optimizer {self.config.kind} is for the rows of tables, not for dense weights")

    def apply_gradients(self, grads_and_vars) -> None:
        """One step on plain variables; slots are made when a variable is first seen.

        Works eagerly and inside tf.function. tf.train.Checkpoint(optimizer=...) saves step and slots, under
        the order in which variables were first seen.

        Args:
          grads_and_vars: pairs (gradient, tf.Variable). Rows are the first axis; variables of rank 1 have
            rows of one value. Gradients: dense (touches all rows), tf.IndexedSlices (repeated indices are
            summed), or None (skipped).

        Raises:
          ValueError: there is no gradient at all.
        """
        if not hasattr(self, "updates"):
            with tf.init_scope():
                self.updates = VariableUpdates()
        self.updates.apply(self, grads_and_vars)

    def keras(self, name: str | None = None):
        """This optimizer as a tf_keras optimizer, for `model.compile`."""
        from trainer.optimizers.keras_shell import KerasShell

        return KerasShell(self, name=name or type(self).__name__)

    def _tpu_rate(self, step, *multipliers):
        """Rate for the TPU engine: a number, or a function without arguments when anything multiplies it.

        Raises:
          ConfigError: there is no step to schedule by.
        """
        peak, multipliers = self.learning_rate, [m for m in multipliers if m is not None]
        if callable(peak) and not isinstance(peak, tf.Variable):
            peak, multipliers = 1.0, [peak, *multipliers]
        if not multipliers:
            return peak.read_value if isinstance(peak, tf.Variable) else peak
        if step is None:
            raise ConfigError(f"optimizer {self.config.kind} on a TPU needs the step for its learning rate")

        def rate():
            value = tf.convert_to_tensor(peak, tf.float32)
            for multiplier in multipliers:
                value *= multiplier(step())
            return value

        return rate

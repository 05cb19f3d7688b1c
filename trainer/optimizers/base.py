"""What every optimizer of table rows offers; `trainer.optimizers.ROW_OPTIMIZERS` lists them by kind."""

import abc
import functools
import types
from collections.abc import Sequence

import tensorflow as tf

from configs.errors import ConfigError
from configs.sections.base import Section
from trainer.optimizers.arguments import check_rate, is_rate_object, rate_of, validated
from trainer.optimizers.standalone.slots import Slots
from trainer.optimizers.standalone.variables import VariableUpdates, apply_to_variables


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
      **hyper: the section's keys instead of `config`. learning_rate may also be a tf.Variable, a function
        of the step (float32 scalar, counted from 1) or of nothing, or a LearningRateSchedule of Keras, which
        counts from 0.

    Attributes:
      section: the class of `config`.
      slot_names: names of the slots, in the order in which `row_update` takes and returns them.
      shared_names: names of the state that all rows of a table share, in the order of `initial_shared`.
      native: hyperparameters in the order of this kind's rule in trainer/kernels/update.cc; None: there is
        no kernel.
      lazy: rows without a gradient do not move; else every row is updated at every step, with gradient 0.
      learning_rate: peak rate; schedules multiply it. May be set, unless a tf.function was compiled with it.

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
            check_rate(type(self).__name__, hyper.get("learning_rate"))
            if is_rate_object(hyper.get("learning_rate")):
                rate = hyper.pop("learning_rate")
            config = validated(type(self).__name__, self.section, hyper)
        self.config = config
        self._learning_rate = config.learning_rate if rate is None else rate
        self._compiled = types.SimpleNamespace(rate=False)

    @property
    def learning_rate(self):
        """As set: a number, a tf.Variable, a function of the step, or a LearningRateSchedule."""
        if not tf.executing_eagerly():
            self._compiled.rate = True
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        owner = type(self).__name__
        check_rate(owner, value)
        if isinstance(self._learning_rate, tf.Variable) and not is_rate_object(value):
            self._learning_rate.assign(value)
            return
        if self._compiled.rate:
            raise ConfigError(
                f"{owner}: learning_rate is compiled into a tf.function and cannot be changed; "
                "make the optimizer with a tf.Variable as learning_rate and call its assign()"
            )
        if not is_rate_object(value):
            self.config = validated(owner, self.section, {**self.config.model_dump(), "learning_rate": value})
            value = self.config.learning_rate
        self._learning_rate = value

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

    def step_rows(self, weight, slots, gradient, step, learning_rate, shared=(), decay=True):
        """`row_update_shared` with the config's clip_value before it and weight_decay beside it.

        Decay is decoupled (Loshchilov & Hutter 2019, algorithm 2) and lazy: only these rows lose
        learning_rate * weight_decay * weight. Not if `decay` is false.
        """
        clip = getattr(self.config, "clip_value", None)
        decay = decay and getattr(self.config, "weight_decay", None)
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

    def variable_slots(self) -> Slots:
        """New state of plain variables, for `apply_gradients`."""
        return VariableUpdates(self.initial_slots, self.slot_names)

    def build(self, variables) -> None:
        """Makes the slots of variables before their first step; the first step does it too."""
        if not hasattr(self, "updates"):
            with tf.init_scope():
                self.updates = self.variable_slots()
        self.updates.build(variables)

    @property
    def iterations(self) -> tf.Variable:
        """Steps done on plain variables, int64."""
        self.build([])
        return self.updates.iterations

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """All state: the steps done first, as in Keras, then the slots of each variable."""
        step = self.updates.iterations if hasattr(self, "updates") else None
        return tuple(sorted(super().variables, key=lambda variable: variable is not step))

    def get_slot(self, variable, name: str) -> tf.Variable | None:
        """A slot of a plain variable, float32 [rows, width]; None before its first step."""
        self.build([])
        return self.updates.get_slot(variable, name)

    def apply_gradients(self, grads_and_vars) -> None:
        """One step on plain variables; slots are made when a variable is first seen.

        Works eagerly and inside tf.function. tf.train.Checkpoint(optimizer=..., model=...) saves step and
        slots; a variable finds its slots again in whatever order variables are trained.

        Args:
          grads_and_vars: pairs (gradient, tf.Variable). Rows are the first axis; variables of rank 1 have
            rows of one value. Gradients: dense (touches all rows), tf.IndexedSlices (repeated indices are
            summed, in float32), or None (skipped). A variable's constraint is applied to all of it.

        Raises:
          TypeError: a variable is not floating, or a gradient is neither dense nor slices.
          ValueError: shapes do not fit, a variable occurs twice, there is no gradient at all, or there are
            several replicas, which only `keras` knows.
          tf.errors.InvalidArgumentError: an index is not a row of its variable.
        """
        self.build([])
        apply_to_variables(self, self.updates, grads_and_vars)

    def minimize(self, loss, var_list, tape: tf.GradientTape | None = None) -> None:
        """Differentiates a loss and applies the gradients, as tf_keras.optimizers.Optimizer.minimize.

        Args:
          loss: a function without arguments that returns the loss, or the loss itself, with `tape`.
          var_list: tf.Variables, or a function that returns them once `loss` has run.
          tape: what recorded `loss`.

        Raises:
          ValueError: the loss is a tensor and there is no tape; else as `apply_gradients`.
        """
        if not callable(loss) and tape is None:
            raise ValueError(
                "`tape` is required when the loss is a tensor; give minimize the tape that recorded it, "
                "or the loss as a function"
            )
        tape = tape or tf.GradientTape()
        if callable(loss):
            with tape:
                if not callable(var_list):
                    tape.watch(var_list)
                loss = loss()
        variables = list(var_list() if callable(var_list) else var_list)
        self.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    def keras(self, name: str | None = None, **options):
        """This optimizer as a tf_keras optimizer, for `model.compile`.

        Args:
          name: of the Keras optimizer.
          **options: clipnorm, global_clipnorm, clipvalue, use_ema, ema_momentum, ema_overwrite_frequency and
            jit_compile, as tf_keras.optimizers.Optimizer takes them.
        """
        from trainer.optimizers.standalone.keras import KerasShell

        return KerasShell(self, name=name or type(self).__name__, **options)

    def _tpu_rate(self, step, *multipliers):
        """Rate for the TPU engine: a number, or a function without arguments when anything multiplies it.

        Raises:
          ConfigError: there is no step to schedule by.
        """
        peak, multipliers = self.learning_rate, [m for m in multipliers if m is not None]
        if callable(peak) and not isinstance(peak, tf.Variable):
            peak, multipliers = 1.0, [functools.partial(rate_of, peak), *multipliers]
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

"""Base class of the optimizers of table rows; `trainer.optimizers.ROW_OPTIMIZERS` lists them by kind."""

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
    """An update rule for rows of weights, and its other forms.

    `row_update` is the formula for embedding tables; `tpu` and `dense` return the same optimizer for
    TensorFlow's TPU embedding engine and for Keras layers. `apply_gradients` and `keras` apply the formula to
    plain variables and do not need the rest of lazytower:

        optimizer = LazyAdam(learning_rate=1e-3)
        optimizer.apply_gradients([(gradient, variable)])     # dense gradients or tf.IndexedSlices
        model.compile(optimizer=LazyAdam(1e-3).keras(), ...)  # a tf_keras model

    Args:
      config: the optimizer's section of a run's config, or the learning rate.
      **hyper: keys of that section, instead of `config`. learning_rate may also be a tf.Variable, a function
        of the step (float32 scalar, counted from 1) or without arguments, or a LearningRateSchedule of Keras,
        which counts from 0.

    Attributes:
      section: the class of `config`.
      slot_names: names of the slots, in the order in which `row_update` takes and returns them.
      step_slots: those of them that hold a step of the run.
      computes_weights: whether weights follow from the slots alone.
      shared_names: names of the state that all rows of a table share, in the order of `initial_shared`.
      native: hyperparameters in the order in which this kind's kernel in trainer/kernels/update.cc reads
        them; None if it has no kernel.
      lazy: whether only rows with a gradient are updated; otherwise every step updates all rows, with
        gradient 0 where there is none.
      learning_rate: peak rate; schedules multiply it. It can be set until a tf.function is traced with it.

    Raises:
      ConfigError: a hyperparameter is unknown or out of bounds.
    """

    section: type[Section]
    slot_names: Sequence[str] = ()
    step_slots: Sequence[str] = ()
    computes_weights = False
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
        """The number, tf.Variable, function of the step or LearningRateSchedule that was set."""
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
                "create the optimizer with a tf.Variable as learning_rate and call its assign()"
            )
        if not is_rate_object(value):
            self.config = validated(owner, self.section, {**self.config.model_dump(), "learning_rate": value})
            value = self.config.learning_rate
        self._learning_rate = value

    def slot_widths(self, dim: int) -> list[int]:
        """Width of each slot of a row of `dim` values; `dim` unless overridden."""
        return [dim] * len(self.slot_names)

    def initial_slots(self, weight: tf.Tensor) -> list[tf.Tensor]:
        """Initial slots, float32 [n, width] each, of rows with weights [n, dim]; zeros unless overridden."""
        rows = tf.shape(weight)[0]
        return [tf.zeros([rows, width]) for width in self.slot_widths(weight.shape[-1])]

    def initial_shared(self, dim: int) -> list[tf.Tensor]:
        """Initial state that all rows of a table share, float32, in the order of `shared_names`."""
        return []

    @abc.abstractmethod
    def row_update(self, weight, slots, gradient, step, learning_rate):
        """One step on the rows of a batch, without clipping and weight decay.

        Args:
          weight: float32 [n, dim].
          slots: list of float32 [n, width], in the order of `slot_names`.
          gradient: float32 [n, dim], summed over the row's occurrences in the batch.
          step: float32 scalar, the step of the run (not of the row), counted from 1.
          learning_rate: float32 scalar, the rate at this step.

        Returns:
          (weight, slots) after the step, shapes as given.
        """

    def row_update_shared(self, weight, slots, shared, gradient, step, learning_rate):
        """As `row_update`, for optimizers that also keep state shared by all rows.

        Args:
          weight, slots, gradient, step, learning_rate: as `row_update`.
          shared: list of float32 tensors, in the order of `shared_names`.

        Returns:
          (weight, slots, shared) after the step, shapes as given.
        """
        return *self.row_update(weight, slots, gradient, step, learning_rate), shared

    def step_rows(self, weight, slots, gradient, step, learning_rate, shared=(), decay=True):
        """`row_update_shared` with the config's clip_value and weight_decay.

        Decay is decoupled (Loshchilov & Hutter 2019, algorithm 2) and lazy: learning_rate * weight_decay *
        weight is subtracted from these rows only. `decay=False` turns it off.
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
        """The same optimizer for tf.tpu.experimental.embedding tables; can be created without a TPU.

        Tables that use the same object share one learning-rate tag of the engine.

        Args:
          step: function without arguments that returns the step, float32 scalar counted from 1; required if
            the rate changes.
          multiplier: schedule of the rate, a function of the step; None for a constant rate.

        Raises:
          ConfigError: the engine has no equivalent, or `step` is missing.
        """
        if self.config.tpu_lacks:
            raise ConfigError(
                f"optimizer {self.config.kind} is not available on TPUs: {self.config.tpu_lacks}"
            )
        return self._tpu(step, multiplier)

    def _tpu(self, step, multiplier):
        """`tpu`, called only if the config's tpu_lacks is empty."""
        raise NotImplementedError(
            f"{type(self).__name__} does not implement _tpu; set tpu_lacks in its config"
        )

    def dense(self):
        """The tf_keras equivalent for dense layers, at the peak rate. Raises ConfigError if there is none."""
        raise ConfigError(
            f"optimizer {self.config.kind} is for rows of tables; choose another for dense weights"
        )

    def variable_slots(self) -> Slots:
        """New step counter and slots for `apply_gradients`."""
        return VariableUpdates(self.initial_slots, self.slot_names)

    def build(self, variables) -> None:
        """Creates the slots of variables; otherwise their first step does."""
        if not hasattr(self, "updates"):
            with tf.init_scope():
                self.updates = self.variable_slots()
        self.updates.build(variables)

    @property
    def iterations(self) -> tf.Variable:
        """Number of `apply_gradients` steps, int64."""
        self.build([])
        return self.updates.iterations

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """All state: `iterations` first, as in Keras, then the slots of each variable."""
        step = self.updates.iterations if hasattr(self, "updates") else None
        return tuple(sorted(super().variables, key=lambda variable: variable is not step))

    def get_slot(self, variable, name: str) -> tf.Variable | None:
        """A slot of a plain variable, float32 [rows, width]; None before its first step."""
        self.build([])
        return self.updates.get_slot(variable, name)

    def apply_gradients(self, grads_and_vars) -> None:
        """One step on plain variables; the first step of a variable creates its slots.

        Works eagerly and inside tf.function. tf.train.Checkpoint(optimizer=..., model=...) saves the step and
        the slots, and restores them by variable, in whatever order variables are trained.

        Args:
          grads_and_vars: pairs (gradient, tf.Variable). Rows are the first axis; the rows of a variable of
            rank 1 have one value. A gradient is dense (updates all rows), tf.IndexedSlices (values with the
            same index are summed in float32) or None (skipped). A constraint is applied to the whole
            variable.

        Raises:
          TypeError: a variable is not floating, or a gradient is neither dense nor slices.
          ValueError: shapes differ, a variable occurs twice, all gradients are None, or there are several
            replicas, which only `keras` supports.
          tf.errors.InvalidArgumentError: an index is out of range.
        """
        self.build([])
        apply_to_variables(self, self.updates, grads_and_vars)

    def minimize(self, loss, var_list, tape: tf.GradientTape | None = None) -> None:
        """Computes gradients of a loss and applies them, as tf_keras.optimizers.Optimizer.minimize.

        Args:
          loss: a function without arguments that returns the loss; or the loss, with `tape`.
          var_list: tf.Variables, or a function that returns them; it is called after `loss`.
          tape: the tape that recorded `loss`.

        Raises:
          ValueError: the loss is a tensor and there is no tape; further as `apply_gradients`.
        """
        if not callable(loss) and tape is None:
            raise ValueError(
                "`tape` is required if the loss is a tensor; pass the tape that recorded it, or the loss as "
                "a function"
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
        """Rate for the TPU engine: a number, or a function without arguments if the rate changes.

        Raises:
          ConfigError: the rate changes and there is no step.
        """
        peak, multipliers = self.learning_rate, [m for m in multipliers if m is not None]
        if callable(peak) and not isinstance(peak, tf.Variable):
            peak, multipliers = 1.0, [functools.partial(rate_of, peak), *multipliers]
        if not multipliers:
            return peak.read_value if isinstance(peak, tf.Variable) else peak
        if step is None:
            raise ConfigError(
                f"optimizer {self.config.kind}: its learning rate changes with the step; pass step to tpu()"
            )

        def rate():
            value = tf.convert_to_tensor(peak, tf.float32)
            for multiplier in multipliers:
                value *= multiplier(step())
            return value

        return rate

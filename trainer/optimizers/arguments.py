"""Arguments of the public optimizers: hyperparameters, and what a learning rate may be beside a number."""

import difflib
import inspect
from typing import get_args

import tensorflow as tf
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from configs.errors import ConfigError
from configs.sections.base import Section

# What Keras and TF-Addons call it, and what it is called here.
_RENAMED = {
    "lr": "learning_rate",
    "clipvalue": "clip_value",
    "l1_regularization_strength": "l1",
    "l2_regularization_strength": "l2",
    "l2_shrinkage_regularization_strength": "l2_shrinkage",
}
_OF_KERAS = (
    "clipnorm",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "jit_compile",
)


def validated(owner: str, section: type[Section], hyper: dict) -> Section:
    """The section that hyperparameters make.

    Args:
      owner: name of the optimizer, for errors.
      section: class of its config.
      hyper: values by key; `kind` may be left out.

    Raises:
      ConfigError: a key is unknown or a value is out of its bounds.
    """
    kind = get_args(section.model_fields["kind"].annotation)[0]
    try:
        return section(**{"kind": kind, **hyper})
    except ValidationError as error:
        reasons = "; ".join(_reason(e, section) for e in error.errors())
        raise ConfigError(f"{owner}: {reasons}") from None


def _reason(error: ErrorDetails, section: type[Section]) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        return f"{name}: {error['msg']}"
    known = [key for key in section.model_fields if key != "kind"]
    if _RENAMED.get(name) in known:
        return f"{name}: unknown; use {_RENAMED[name]}"
    if name in _OF_KERAS:
        return f"{name}: unknown; give it to the Keras form, as keras({name}=...)"
    if name == "decay":
        return "decay: unknown; use a LearningRateSchedule or a function of the step as learning_rate"
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name}: unknown; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")


def is_rate_object(value) -> bool:
    """Whether a learning rate is more than a number: a variable, a function of the step or a schedule."""
    return isinstance(value, tf.Variable) or callable(value)


def check_rate(owner: str, rate) -> None:
    """Raises ConfigError for a function that can be called neither with the step nor with nothing."""
    if not is_rate_object(rate) or isinstance(rate, tf.Variable):
        return
    if not _takes(rate, 1) and not _takes(rate, 0):
        raise ConfigError(
            f"{owner}: learning_rate is a function of more than the step; write lambda step: ..., or use a "
            "tf.Variable"
        )


def rate_of(rate, step) -> tf.Tensor:
    """The rate of a step, float32 scalar.

    Args:
      rate: a number, a tf.Variable, a LearningRateSchedule of Keras, or a function of the step or of nothing.
        A schedule is given the number of steps done before this one, as int64, which is what Keras gives it.
      step: float32 scalar, counted from 1.
    """
    if isinstance(rate, tf.Variable) or not callable(rate):
        return tf.cast(rate, tf.float32)
    if _is_schedule(rate):
        return tf.cast(rate(tf.cast(step, tf.int64) - 1), tf.float32)
    return tf.cast(rate(step) if _takes(rate, 1) else rate(), tf.float32)


def _takes(function, number: int) -> bool:
    """Whether a function can be called with so many arguments; built-in ones without a signature: True."""
    try:
        inspect.signature(function).bind(*[1.0] * number)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _is_schedule(rate) -> bool:
    # By name: tf_keras and Keras 3 each have a class of their own, and Keras 3 need not be imported.
    return any(base.__name__ == "LearningRateSchedule" for base in type(rate).__mro__)

"""Polyak averages of weights: dense, and lazy but exact for rows of embedding tables.

Exponential: avg_t = d avg_{t-1} + (1 - d) w_t (Polyak & Juditsky 1992 with a forgetting factor). Uniform:
the mean of w_{s+1} .. w_t. Until the start step s the average is the weight itself.

A lazy optimizer does not change untouched rows, and over k steps of constant w both averages have a closed
form: w + d^k (avg - w), and (n avg + k w) / (n + k). So a row stores its average as of the last step that
touched it, and `catch_up` computes that of any later step. The result equals averaging the whole table at
every step, but only touched rows are read and written.

All functions are elementwise, on float32 tensors; steps are float32 scalars or [n, 1], counted from 1, exact
up to 2^24.
"""

import math
from dataclasses import dataclass

import tensorflow as tf

from configs.sections.training import PolyakConfig


@dataclass(frozen=True)
class Exponential:
    """avg_t = decay avg_{t-1} + (1 - decay) w_t for t > start_step; avg_t = w_t before."""

    decay: float
    start_step: int = 0

    def catch_up(self, average, weight, last, step):
        """The average as of `step`, from that as of `last` <= step; `weight` is constant in between.

        Args:
          average, weight: float32 [n, d].
          last: float32 [n, 1], last step that touched the row; 0 if none did.
          step: float32 scalar.

        Returns:
          float32 [n, d].
        """
        return weight + self.factor(last, step) * (average - weight)

    def factor(self, last, step):
        """That of the difference in `catch_up`, float32 [n, 1]."""
        since = _steps_since(last, step, self.start_step)
        # In float64, because in float32 the logarithm of 0.9999 is 0.02 % off.
        log_decay = math.log(max(self.decay, 1e-30))
        return tf.exp(since * log_decay)

    def share(self, last, step):
        """The factor of `weight - average` that brings the average from `last` <= `step` to `step`.

        For averages that are updated elsewhere (trainer/tpu/ledger.py). Unlike in `catch_up`, before
        start_step the average may be an older weight.

        Args:
          last: float32 [n], last step that the average includes.
          step: float32 scalar.

        Returns:
          float32 [n], 0 to 1.
        """
        log_decay = math.log(max(self.decay, 1e-30))
        return _from_start(last, self.start_step, -tf.math.expm1((step - last) * log_decay))

    def include(self, average, weight, step):
        """The average as of `step`, from that of `step - 1` and the weight after `step`; float32 [n, d]."""
        share = tf.where(step > self.start_step, 1.0 - self.decay, 1.0)
        return average + share * (weight - average)


@dataclass(frozen=True)
class Uniform:
    """avg_t = mean of w_{start_step + 1} .. w_t (Polyak-Ruppert, tail average); avg_t = w_t before."""

    start_step: int = 0

    def catch_up(self, average, weight, last, step):
        """As Exponential.catch_up."""
        return average + (weight - average) * self.factor(last, step)

    def factor(self, last, step):
        """As Exponential.factor."""
        since = _steps_since(last, step, self.start_step)
        seen = tf.maximum(last - self.start_step, 0.0)
        return tf.math.divide_no_nan(since, seen + since)

    def share(self, last, step):
        """As Exponential.share."""
        averaged = tf.math.divide_no_nan(step - last, step - self.start_step)
        return _from_start(last, self.start_step, averaged)

    def include(self, average, weight, step):
        """As Exponential.include."""
        return average + (weight - average) / tf.maximum(step - self.start_step, 1.0)


def _steps_since(last, step, start_step):
    """Number of averaged steps in (last, step]."""
    return tf.maximum(step - tf.maximum(last, float(start_step)), 0.0)


def _from_start(last, start_step, share):
    """`share` if `last` is at least start_step; otherwise 1, which sets the average to the weight."""
    return tf.where(last < start_step, 1.0, share)


def make_average(config: PolyakConfig, num_steps: int) -> Exponential | Uniform | None:
    """The averaging rule of a run of `num_steps` steps; None if it does not average at each step.

    Until its start step the average equals the weight, so the initial weights are not averaged unless
    `start_fraction` is 0.
    """
    if not config.at_each_step:
        return None
    start = None if config.start_fraction is None else int(config.start_fraction * num_steps)
    if config.kind == "uniform":
        return Uniform(num_steps - _horizon_steps(config, num_steps) if start is None else start)
    decay = config.decay
    if decay is None:
        decay = 1.0 - 1.0 / _horizon_steps(config, num_steps)
    if start is None:
        start = min(round(1.0 / (1.0 - decay)), num_steps // 2)
    return Exponential(decay, start)


def _horizon_steps(config: PolyakConfig, num_steps: int) -> int:
    assert config.horizon_fraction is not None, "complete_polyak fills it in"
    return max(1, round(config.horizon_fraction * num_steps))


LONG_HORIZON = 0.25
"""Fraction of a run's steps above which the horizon of an average makes it lag behind the weights."""


def horizon_finding(config: PolyakConfig, num_steps: int) -> str | None:
    """A warning for the log and the report if the horizon of the configured average is too long for the run.

    A horizon given as a fraction of the steps, the default, never is.
    """
    rule = make_average(config, num_steps)
    if isinstance(rule, Uniform) and config.start_fraction is not None and config.start_fraction < 0.5:
        return (
            f"polyak.start_fraction {config.start_fraction:g} averages all weights since step "
            f"{rule.start_step:,} of {num_steps:,}, including early ones; remove the key, or raise it to 0.8"
        )
    if not isinstance(rule, Exponential) or config.decay is None:
        return None
    steps = 1.0 / (1.0 - rule.decay)
    if steps <= LONG_HORIZON * num_steps:
        return None
    return (
        f"polyak.decay {rule.decay:g} averages over about {steps:,.0f} steps, but the run has {num_steps:,}: "
        "the average lags behind the weights; remove polyak.decay to average over a fraction of the run"
    )


class DenseAverages(tf.Module):
    """Averages of dense variables, updated at every step."""

    def __init__(self, average, variables):
        super().__init__(name="dense_averages")
        self._rule = average
        self._variables = list(variables)
        self.shadows = [tf.Variable(v, trainable=False, name=f"average_{i}") for i, v in enumerate(variables)]

    def update(self, step):
        """Adds the weights after `step`, a float32 scalar, to the averages."""
        for shadow, variable in zip(self.shadows, self._variables, strict=True):
            shadow.assign(self._rule.include(shadow, variable, step))

    def update_all(self, strategy, step):
        """As `update`, for mirrored variables; an argument of merge_call."""

        def move(shadow, variable, step):
            return shadow.assign(self._rule.include(shadow, variable, step))

        for shadow, variable in zip(self.shadows, self._variables, strict=True):
            strategy.extended.update(shadow, move, args=(variable, step))

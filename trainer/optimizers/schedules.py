"""Learning-rate schedules: functions of the step that multiply every optimizer's peak rate.

Each schedule maps the step (float32 scalar, counted from 1) to a float32 scalar; `product` combines them.
"""

import math

import tensorflow as tf

from configs.sections.training import ScheduleConfig


def product(*parts):
    """The product of schedules; 1 if there are none."""

    def schedule(step):
        rate = tf.constant(1.0)
        for part in parts:
            rate *= part(step)
        return rate

    return schedule


def warm_up(steps: int, power: float):
    """min(1, (step / steps) ^ power), from the SM3 authors' note on learning rates."""
    return lambda step: tf.pow(tf.minimum(step / steps, 1.0), power)


def cool_down(steps: int, num_steps: int):
    """1, then linear over the last `steps` of `num_steps` to 0, which it reaches one step after the end."""
    return lambda step: tf.clip_by_value((num_steps + 1 - step) / steps, 0.0, 1.0)


def cosine(start: int, stop: int, to: float):
    """1 until step `start`, `to` from step `stop`, half a cosine wave between.

    Loshchilov & Hutter 2017, equation 5, without restarts.
    """
    return lambda step: to + (1.0 - to) * 0.5 * (1.0 + tf.cos(math.pi * _progress(step, start, stop)))


def exponential(start: int, stop: int, to: float):
    """1 until step `start`, `to` from step `stop`, falling by a constant factor per step between."""
    return lambda step: tf.exp(math.log(to) * _progress(step, start, stop))


def bias_correction_factor(beta_1: float, beta_2: float):
    """Adam's bias correction, sqrt(1 - beta_2^step) / (1 - beta_1^step).

    Kingma & Ba 2015, section 2, last paragraph. The Adam of the TPU embedding engine has no correction, so
    its learning rate is multiplied by this factor.
    """
    return lambda step: tf.sqrt(one_minus_power(beta_2, step)) / one_minus_power(beta_1, step)


def one_minus_power(beta: float, step):
    """1 - beta^step, float32 in the shape of `step`; computed directly from float32 0.999 it is 5e-5 off."""
    return -tf.math.expm1(step * math.log(max(beta, 1e-30)))


def rate_multiplier(config: ScheduleConfig, num_steps: int):
    """The multiplier of the run's schedule: warm-up, middle part, cool-down.

    Args:
      config: the schedule section.
      num_steps: steps of the run.

    Returns:
      A function from step (float32 scalar, counted from 1) to float32 scalar in [0, 1].
    """
    assert config.cooldown_fraction is not None, "reading the section fills in its default"
    warmup = max(int(config.warmup_fraction * num_steps), 1 if config.warmup_fraction > 0 else 0)
    cooldown = int(config.cooldown_fraction * num_steps)
    parts = []
    if warmup:
        parts.append(warm_up(warmup, config.warmup_power))
    if config.decay != "constant":
        middle = {"cosine": cosine, "exponential": exponential}[config.decay]
        to = 0.01 if config.decay_to is None else config.decay_to
        parts.append(middle(warmup, num_steps - cooldown, to))
    if cooldown:
        parts.append(cool_down(cooldown, num_steps))
    return product(*parts)


def _progress(step, start: int, stop: int):
    """Completed fraction of the steps from `start` to `stop`, 0 to 1."""
    return tf.clip_by_value((step - start) / max(stop - start, 1), 0.0, 1.0)

"""Learning-rate schedules: functions of the step that multiply every optimizer's peak rate."""

import tensorflow as tf

from configs.training import ScheduleConfig


def rate_multiplier(config: ScheduleConfig, num_steps: int):
    """The multiplier of the run's schedule.

    Warm-up: min(1, (step / warm-up steps) ^ power), from the SM3 authors' note on learning rates. Cool-down:
    linear to 0 over the last steps, reaching it one step after the last.

    Args:
      config: the schedule section.
      num_steps: steps of the run.

    Returns:
      A function from step (float32 scalar, counted from 1) to float32 scalar in [0, 1].
    """
    warmup = max(int(config.warmup_fraction * num_steps), 1 if config.warmup_fraction > 0 else 0)
    cooldown = int(config.cooldown_fraction * num_steps)

    def multiplier(step):
        rate = tf.constant(1.0)
        if warmup:
            rate *= tf.pow(tf.minimum(step / warmup, 1.0), config.warmup_power)
        if cooldown:
            rate *= tf.clip_by_value((num_steps + 1 - step) / cooldown, 0.0, 1.0)
        return rate

    return multiplier

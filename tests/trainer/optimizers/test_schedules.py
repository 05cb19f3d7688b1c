"""Schedules against their formulas at every step."""

import numpy as np

from configs.training import ScheduleConfig
from trainer.optimizers.schedules import rate_multiplier


def test_warm_up_constant_cool_down():
    multiplier = rate_multiplier(
        ScheduleConfig(warmup_fraction=0.1, warmup_power=2, cooldown_fraction=0.2), 100
    )
    values = [float(multiplier(np.float32(step))) for step in range(1, 101)]
    np.testing.assert_allclose(values[:10], [(s / 10) ** 2 for s in range(1, 11)], rtol=1e-6)
    np.testing.assert_allclose(values[10:80], 1.0)
    np.testing.assert_allclose(values[80:], [(101 - s) / 20 for s in range(81, 101)], rtol=1e-6)


def test_constant():
    multiplier = rate_multiplier(ScheduleConfig(warmup_fraction=0, cooldown_fraction=0), 7)
    assert [float(multiplier(np.float32(s))) for s in (1, 4, 7)] == [1.0] * 3

"""What a sweep finds for how much compute, on a planted response whose best value is known."""

import csv
import itertools
import math
import random

import numpy as np
import pytest

from configs.schema import RunConfig
from configs.splitmix import hash_ids
from tests.support.fake_day import Killed
from tests.support.fake_trials import EVERY, STEPS, FakeTrials, base_document, sweep_of, swept
from trainer.sweep.space import Space

pytestmark = pytest.mark.any_python

SPACE = {
    "tables.*.dim": [4, 8, 16, 32, 64],
    "tables.*.optimizer.learning_rate": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
    "schedule.warmup_fraction": [0.0, 0.1],
}


class Planted(FakeTrials):
    """Wider rows are a little better, rates have an optimum; evaluations rise to the value, with noise."""

    def value(self, config: RunConfig, part: float) -> float:
        table = config.table("item")
        width, rate = math.log2(table.dim), math.log10(table.optimizer.learning_rate)
        reached = 0.2 * math.exp(-0.3 * (rate + 1.6) ** 2) * (1 - 0.04 * (6 - width) ** 1.5)
        reached *= 1 + 0.01 * config.schedule.warmup_fraction
        place = int(1e6 * abs(rate)) + 7 * table.dim + round(100 * part)
        noise = (hash_ids(1, np.array([place]))[0] / 2**64 - 0.5) * 0.004
        return float(reached * (1 - math.exp(-4 * part)) + noise)


def rows(root) -> list[dict]:
    return list(csv.DictReader((root / "out" / "trials.csv").open()))


def best_of_the_grid(root) -> float:
    """Of 60 whole runs."""
    space = Space(base_document(root), "base.yaml", sweep_of(root, space=SPACE))
    together = [dict(zip(SPACE, values, strict=True)) for values in itertools.product(*SPACE.values())]
    assert len(together) == 60
    configs = [space.trial_config(0, values) for values in together]
    parts = [step / STEPS for step in range(EVERY, STEPS + 1, EVERY)]
    return max(Planted().value(config, part) for config in configs for part in parts)


@pytest.mark.slow
def test_thirty_trials_find_what_a_grid_of_sixty_finds_for_a_third(tmp_path):
    """Killed ten times on the way."""
    trials, draw, kills = Planted(), random.Random(0), 0
    while True:
        trials.kill_at = draw.randint(10, 30) if kills < 10 else None
        try:
            swept(tmp_path, trials, sweep={"space": SPACE, "trials": 30})
            break
        except Killed:
            kills += 1
    found = rows(tmp_path)
    assert kills == 10 and [row["trial"] for row in found] == [str(number) for number in range(30)]
    best = max(float(row["ndcg@10"]) for row in found if row["state"] == "complete")
    assert best >= 0.99 * best_of_the_grid(tmp_path)
    assert sum(int(row["steps"]) for row in found) <= 60 * STEPS / 3

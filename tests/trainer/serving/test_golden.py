"""Golden examples of an export; that a SavedModel answers as they say: test_export.py."""

import numpy as np

from trainer.serving.golden import _best


def test_the_best_items_are_those_of_a_stable_sort():
    generator = np.random.default_rng(0)
    for _ in range(50):
        scores = generator.integers(0, 6, 40).astype(np.float32)  # many are equal
        allowed = generator.random(40) < 0.7
        order = np.argsort(-np.where(allowed, scores, -np.inf), kind="stable")[: allowed.sum()]
        for number in (1, 2, 13, 39, 60):
            assert _best(scores, allowed, number).tolist() == order[:number].tolist()
    assert _best(scores, np.zeros(40, bool), 3).tolist() == []

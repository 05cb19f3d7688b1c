"""Sums by key, with and without files."""

import os

import numpy as np
import pytest

from configs.errors import UserError
from trainer.evaluation.pointwise import sorted_sums
from trainer.evaluation.pointwise.sorted_sums import SortedSums, Spill, falling, prediction_of


def read(keys, pos, neg, budget: int, size: int) -> tuple[np.ndarray, int, int]:
    """(all entries, number of chunks, number of files) of rows that come `size` at a time."""
    with Spill(budget, 1) as spill:
        sums = SortedSums(spill)
        for start in range(0, len(keys), size):
            part = slice(start, start + size)
            sums.add(keys[part], pos[part], neg[part])
        chunks = list(sums.chunks())
        files = len(os.listdir(spill._directory.name))
    assert not os.path.exists(spill._directory.name)
    return np.concatenate(chunks) if chunks else np.zeros(0, sorted_sums.ENTRY), len(chunks), files


@pytest.mark.parametrize("budget", [1, 3000, 1 << 20])
@pytest.mark.parametrize("distinct", [5, 100_000])
def test_sums_are_those_of_all_rows_whatever_fits_into_memory(budget, distinct):
    draw = np.random.default_rng(0)
    keys = draw.integers(distinct, size=2000).astype(np.uint64) << np.uint64(20)
    pos, neg = (draw.integers(10, size=2000).astype(float) for _ in range(2))
    found, chunks, files = read(keys, pos, neg, budget, 300)
    values, place = np.unique(keys, return_inverse=True)
    np.testing.assert_array_equal(found["key"], values)
    np.testing.assert_array_equal(found["pos"], np.bincount(place, pos))
    np.testing.assert_array_equal(found["neg"], np.bincount(place, neg))
    spilled = budget < 1 << 20 and not (distinct == 5 and budget > 1)
    assert (files == 1) == spilled
    if budget > 1:  # otherwise a run is no longer than the shortest stretch
        assert (chunks > 1) == spilled


def test_no_rows():
    nothing = np.zeros(0)
    assert len(read(nothing.astype(np.uint64), nothing, nothing, 100, 10)[0]) == 0


def test_codes_fall_with_predictions_and_give_them_back():
    predictions = np.array([-np.inf, -3e38, -1.5, -1e-45, -0.0, 0.0, 1e-45, 0.25, 1, 3e38], np.float32)
    codes = falling(predictions)
    assert codes.max() < 2**32 and codes[4] == codes[5]
    assert (np.diff(np.delete(codes, 4).astype(np.int64)) < 0).all()
    np.testing.assert_array_equal(prediction_of(codes), predictions)


def test_a_full_disk_is_one_clear_error(monkeypatch):
    def full(path, mode):
        raise OSError(28, "No space left on device")

    with Spill(1, 1) as spill:
        sums = SortedSums(spill)
        monkeypatch.setattr("builtins.open", full)
        with pytest.raises(UserError, match="No space left on device.*TMPDIR"):
            sums.add(np.arange(100, dtype=np.uint64), np.ones(100), np.ones(100))

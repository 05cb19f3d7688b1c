"""Slices by the values of features, and the worst calibrated of them."""

import numpy as np
import pytest

from configs.dataset_parts import FeatureInfo, TableInfo
from trainer.evaluation.pointwise.figures import TaskRows
from trainer.evaluation.pointwise.slices import (
    REST,
    UNKNOWN_KEYS,
    SliceCalibration,
    ValueSlots,
    count_values,
    rows_in_slots,
    value_texts,
    values_of,
    worst_slices,
)


class Facts:
    """As much of a dataset as slices read."""

    def __init__(self, rows: int, boundaries=None, ids="buckets"):
        self.features = {"site": FeatureInfo(of="context", kind="numeric", table="t", boundaries=boundaries)}
        self.tables = {"t": TableInfo(ids=ids, rows=rows, oov=None, keys=rows)}


def test_lists_count_each_of_their_values_once():
    batch = {"tags": np.array([[3, 1, 3], [-1, -1, -1], [2, -1, -1]]), "site": np.array([4, 4, 5])}
    rows, ids = values_of(batch, "tags")
    assert list(zip(rows, ids, strict=True)) == [(0, 1), (0, 3), (2, 2)]
    assert [part.tolist() for part in values_of(batch, "site")] == [[0, 1, 2], [4, 4, 5]]


def test_the_most_frequent_values_come_first_and_others_share_a_slot():
    batches = [{"site": np.array([5, 5, 2, 0])}, {"site": np.array([2, 5, 1, 0])}]
    counts = count_values(batches, Facts(7), ["site"])["site"]
    assert counts.tolist() == [2, 1, 2, 0, 0, 3, 0]
    slots = ValueSlots("site", counts, 2)
    assert slots.values.tolist() == [5, 0] and len(slots) == 3
    rows, found = slots.of({"site": np.array([1, 5, 0, 6])})
    assert rows.tolist() == [0, 1, 2, 3] and found.tolist() == [2, 1 - 1, 1, 2]
    assert ValueSlots("site", counts, 10, fewest=3).values.tolist() == [5]
    listed = ValueSlots("tags", counts, 2).of({"tags": np.array([[1, 2, 5], [-1, -1, -1]])})
    assert [part.tolist() for part in listed] == [[0, 0], [0, 2]], "the shared slot has a row once"


def test_rows_that_do_not_count_are_in_no_slot():
    kept, numbers = np.array([True, False, True, True]), np.array([0, 0, 1, 2, 3])
    places, slots = rows_in_slots(kept, numbers, np.array([5, 6, 7, 8, 9]))
    assert places.tolist() == [0, 0, 1, 2] and slots.tolist() == [5, 6, 8, 9]


def test_values_as_text(monkeypatch):
    boundaries = Facts(5, [1.0, 2.5, 7.0])
    texts = value_texts(boundaries, "site", np.arange(5))
    assert texts == ["below 1", "1 to 2.5", "2.5 to 7", "7 or more", "empty"]
    hashed = Facts(5)
    hashed.tables = {"t": TableInfo(ids="hash", rows=5, oov=None, keys=5)}
    assert value_texts(hashed, "site", np.array([3])) == ["hash 3"]
    vocab = Facts(3)
    vocab.tables = {"t": TableInfo(ids="vocab", rows=3, oov=2, keys=2)}
    keys = np.array([b"a", "é".encode(), b""], object)
    monkeypatch.setattr("trainer.evaluation.pointwise.slices.load_vocabulary", lambda *unused: keys)
    assert ValueSlots("site", np.array([1, 2, 3]), 9).texts(vocab) == [UNKNOWN_KEYS, "é", "a", REST]


def calibration(sites, labels, predictions, kept=None) -> SliceCalibration:
    """The sums of all rows of one batch."""
    kept = np.ones(len(sites), bool) if kept is None else kept
    found = SliceCalibration(ValueSlots("site", np.bincount(sites), 100))
    rows = TaskRows(labels[kept], np.ones(int(kept.sum())), np.zeros(int(kept.sum()), np.int64), None)
    found.add({"site": sites}, kept, rows, predictions[kept].astype(np.float32))
    return found


def click_sites(number: int, wrong: dict[int, float], seed: int = 0) -> tuple[np.ndarray, ...]:
    """Rows of ten sites with rate 0.2, predicted `wrong[site]` times too high."""
    draw = np.random.default_rng(seed)
    sites = draw.integers(10, size=number)
    labels = (draw.random(number) < 0.2).astype(float)
    return sites, labels, 0.2 * np.array([wrong.get(site, 1.0) for site in sites])


def test_the_worst_slices_are_found_whichever_side_they_are_wrong_on():
    sites, labels, predictions = click_sites(50_000, {3: 2.0, 7: 0.4, 8: 1.3})
    found = worst_slices([calibration(sites, labels, predictions)], Facts(10, [1.0] * 9), 100, 0.95)
    assert found["examined"] == 10 and len(found["slices"]) == 2
    first, second = found["slices"]
    assert first["calibration"] == pytest.approx(0.4, abs=0.06) and first["interval"][1] < 1
    assert second["calibration"] == pytest.approx(2, abs=0.25) and second["interval"][0] > 1
    mine = sites == 7
    assert first["rows"] == mine.sum() and first["mean_label"] == pytest.approx(labels[mine].mean())


def test_chance_is_not_reported():
    alarms = 0
    for seed in range(100):
        sites, labels, predictions = click_sites(5000, {}, seed)
        found = worst_slices([calibration(sites, labels, predictions)], Facts(10, [1.0] * 9), 100, 0.95)
        alarms += bool(found["slices"])
    assert alarms <= 12


def test_small_slices_are_not_looked_at():
    sites, labels, predictions = click_sites(2000, {3: 5.0})
    facts = Facts(10, [1.0] * 9)
    assert worst_slices([calibration(sites, labels, predictions)], facts, 1000, 0.95) == {
        "examined": 0,
        "slices": [],
    }


def test_rows_that_do_not_count_are_left_out():
    sites, labels, predictions = click_sites(5000, {})
    kept = np.random.default_rng(0).random(5000) < 0.5
    found = {one["slot"]: one for one in calibration(sites, labels, predictions, kept).slices(1)}
    order = np.argsort(-np.bincount(sites), kind="stable")
    for slot, site in enumerate(order):
        mine = kept & (sites == site)
        assert found[slot]["rows"] == mine.sum()
        assert found[slot]["mean_label"] == pytest.approx(labels[mine].mean())

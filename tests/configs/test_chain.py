"""Chains of datasets: ids of a base as ids of the dataset on it."""

import numpy as np

from configs.chain import LEFT, Moved, translated, untranslated
from configs.dataset_parts import TableInfo

NONE = Moved(np.zeros(0, np.int64), np.zeros(0, np.int64))


def table(ids: str = "vocab", **sizes) -> TableInfo:
    return TableInfo(ids=ids, keys=0, **sizes)


def test_keys_stay_and_everything_behind_them_shifts():
    grown = table(rows=9, oov=8, base_rows=6, base_oov=5)
    found = translated(np.array([0, 4, 5, 6, 7, LEFT]), grown, NONE)
    assert found.tolist() == [0, 4, 8, 9, 10, LEFT]


def test_moved_ids_follow_no_rule():
    grown = table(rows=9, oov=8, base_rows=6, base_oov=5)
    moved = Moved(np.array([2, 7]), np.array([LEFT, 5]))
    assert translated(np.array([7, 2, 1, 6, 8]), grown, moved).tolist() == [5, LEFT, 1, 9, 11]


def test_hashed_ids_stay():
    found = translated(np.array([0, 7, LEFT]), table("hash", rows=8, oov=None, base_rows=8), NONE)
    assert found.tolist() == [0, 7, LEFT]


def test_ids_go_back_to_those_of_the_base():
    before = table(rows=6, oov=5, catalog_rows=9)
    grown = table(rows=9, oov=8, base_rows=6, base_oov=5, catalog_rows=14)
    moved = Moved(np.array([2, 7]), np.array([LEFT, 5]))
    old = np.array([0, 1, 3, 4, 6, 7, 8])
    assert untranslated(translated(old, grown, moved), grown, moved, before).tolist() == old.tolist()
    # A new key in the row of another, new keys with rows, the out-of-vocabulary row, new further keys.
    assert (untranslated(np.array([2, 6, 7, 8, 12, 13, LEFT]), grown, moved, before) == LEFT).all()


def test_hashed_ids_go_back_to_themselves():
    before = table("hash", rows=8, oov=None, catalog_rows=8)
    grown = table("hash", rows=8, oov=None, base_rows=8)
    assert untranslated(np.array([0, 7, LEFT]), grown, NONE, before).tolist() == [0, 7, LEFT]

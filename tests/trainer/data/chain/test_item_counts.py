"""How often items occur in the rows that train: from catalogs, and by counting what a window leaves."""

import collections

import numpy as np
import pytest

from configs.dataset_parts import TableInfo
from tests.support.tiny_dataset import Row, write_dataset
from trainer.data.catalog import Items
from trainer.data.chain.item_counts import item_counts, with_unknown
from trainer.data.train_rows import DAY, TrainRows

pytestmark = pytest.mark.any_python


def test_unknown_items_count_as_candidates():
    """All unknown items share a row: its probability is that of all of them, not that of a rare item."""
    table = TableInfo(ids="vocab", rows=4, oov=3, keys=3)
    counts = np.array([5, 3, 2, 0])
    np.testing.assert_array_equal(with_unknown(counts, table, 20), [5, 3, 2, 10])
    hashed = TableInfo(ids="hash", rows=4, oov=None, keys=3)
    np.testing.assert_array_equal(with_unknown(counts, hashed, 20), [5, 3, 2, 0])


def test_a_window_counts_its_own_rows(tmp_path):
    """Items outside it count once, so that they are sampled; negative rows do not count."""
    rows = [Row(b"u%d" % (i % 7), b"i%d" % (i % 5 if i < 40 else i % 3), "train", i % 4) for i in range(60)]
    rows += [Row(b"u1", b"once", "train"), Row(b"u1", b"i0", "test")]
    dataset = write_dataset(str(tmp_path), rows, min_count=2)
    items, train = Items.load(dataset), [row for row in rows if row.split == "train"]
    whole = TrainRows(dataset, positives_only=True)
    assert dict(zip(items.keys, item_counts(whole, items, exact=True), strict=False)) == (
        collections.Counter(row.item for row in train if row.label > 0 and row.item != b"once") | {b"": 1}
    )
    window = TrainRows(dataset, positives_only=True, window_days=21 / DAY)
    expected = collections.Counter(row.item for row in train[-21:] if row.label > 0)
    expected = {b"i%d" % i: max(expected[b"i%d" % i], 1) for i in range(5)} | {b"": expected[b"once"]}
    assert dict(zip(items.keys, item_counts(window, items, exact=True), strict=False)) == expected

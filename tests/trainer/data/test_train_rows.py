"""Which rows train: all of train, those of a window, the positive ones among them."""

import numpy as np
import pytest

from configs.errors import DataError
from tests.support.tiny_dataset import Row, write_dataset
from trainer.data.train_rows import DAY, TrainRows

pytestmark = pytest.mark.any_python
ROWS = 100


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """100 train rows, one a nanosecond, every third of them negative, then rows of held-out splits."""
    rows = [Row(b"u%d" % (i % 9), b"i%d" % (i % 8), "train", float(i % 3 > 0)) for i in range(ROWS)]
    rows += [Row(b"u1", b"i1", split) for split in ("valid", "test") for _ in range(4)]
    return write_dataset(str(tmp_path_factory.mktemp("rows")), rows, block_rows=7, num_files=3)


@pytest.mark.parametrize(("nanoseconds", "kept"), [(1, 1), (30, 30), (99, 99), (100, 100), (10**9, 100)])
def test_a_window_is_exact_to_the_row(dataset, nanoseconds, kept):
    rows = TrainRows(dataset, window_days=nanoseconds / DAY)
    assert rows.rows == sum(sizes.sum() for sizes in rows.kept) == kept
    assert rows.is_whole == (kept == ROWS)
    assert [len(sizes) for sizes in rows.kept] == [-(-file.rows // 7) for _, file in rows.files]
    found = [len(places) for file in range(len(rows.files)) for places in rows.places(file)]
    np.testing.assert_array_equal(found, np.concatenate(rows.kept))


def test_a_window_over_everything_reads_nothing(dataset, monkeypatch):
    monkeypatch.setattr("trainer.data.train_rows.read_blocks", None)
    assert TrainRows(dataset, window_days=1.0).rows == ROWS
    assert TrainRows(dataset).steps_per_epoch(30) == 3


def test_positive_rows_of_a_window(dataset):
    rows = TrainRows(dataset, positives_only=True, window_days=31 / DAY)
    assert rows.rows == sum(i % 3 > 0 for i in range(69, 100))
    assert not any(part.positive for part in rows.parts)  # their copies are read


def test_too_few_rows_are_refused(dataset):
    with pytest.raises(DataError, match="20 positive train rows of the last .* lower it, or raise"):
        TrainRows(dataset, positives_only=True, window_days=31 / DAY).steps_per_epoch(22)
    with pytest.raises(DataError, match="100 train rows are fewer than train.batch_size 101; lower it$"):
        TrainRows(dataset).steps_per_epoch(101)

"""Which rows count."""

import numpy as np
import pytest

from configs.errors import DataError
from configs.sections.ranking import TaskConfig
from trainer.evaluation.pointwise.rows import TaskReader

NAN = np.nan
BATCH = {
    "label": np.float32([0, 1, 1, 0, 1]),
    "label/buy": np.float32([0, 1, NAN, 1, 0]),
    "timestamp": np.arange(5),
}


def test_rows_without_a_label_or_outside_where_do_not_count():
    kept, labels = TaskReader(TaskConfig(name="buy", label="buy"), "d").labels(BATCH)
    assert kept.tolist() == [True, True, False, True, True] and labels.tolist() == [0, 1, 1, 0]
    kept, labels = TaskReader(TaskConfig(name="buy", label="buy", where="label"), "d").labels(BATCH)
    assert kept.tolist() == [False, True, False, False, True] and labels.tolist() == [1, 0]
    kept, labels = TaskReader(TaskConfig(name="click", where="buy"), "d").labels(BATCH)
    assert kept.tolist() == [False, True, False, True, False] and labels.tolist() == [1, 0]


def test_labels_outside_0_to_1_need_another_loss():
    batch = BATCH | {"label": np.float32([0, 1, 4, 0, -1])}
    with pytest.raises(DataError, match=r"d: test: the label label of task click is 4 .*use loss: mse"):
        TaskReader(TaskConfig(name="click"), "d: test").labels(batch)
    assert TaskReader(TaskConfig(name="click", loss="mse"), "d").labels(batch)[1].tolist() == [0, 1, 4, 0, -1]

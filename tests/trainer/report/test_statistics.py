"""Statistics of tables in a run's report."""

import numpy as np
import pytest

from configs.sections.optimizers import LazyAdamConfig
from trainer.averages import Exponential
from trainer.embeddings import base
from trainer.embeddings.engines.rows import RecordTable
from trainer.optimizers import LazyAdam
from trainer.report.statistics import table_statistics


@pytest.mark.parametrize(("rows", "sampled"), [(30, 30), (64, 64), (97, 61)])
def test_they_are_those_of_all_rows_or_of_chunks_at_equal_distances(rows, sampled, monkeypatch):
    monkeypatch.setattr(base, "CHUNK_ROWS", 4)
    table = RecordTable("user", rows, 3, LazyAdam(LazyAdamConfig()), Exponential(0.9))
    records = np.random.default_rng(0).normal(size=[rows, table.width]).astype(np.float32)
    records[:, -1] = np.arange(rows) % 3  # the last step: two thirds of the rows were updated
    table.records.assign(records)
    chunks = np.split(np.arange(rows), np.arange(4, rows, 4))
    if rows == 97:  # 25 chunks, the last of one row
        chunks = [chunks[round(i * 24 / 15)] for i in range(16)]
    read = records[np.concatenate(chunks)]
    norms = np.linalg.norm(read[:, :3], axis=1)
    found = table_statistics(table, 2)
    assert found["rows"] == rows and found["sampled_rows"] == len(read) == sampled
    assert found["weight_norm_mean"] == pytest.approx(norms.mean(), rel=1e-6)
    assert found["weight_norm_p99"] == pytest.approx(np.quantile(norms, 0.99), rel=1e-6)
    assert found["touched_rows_share"] == np.mean(read[:, -1] > 0)
    assert found["average_to_weight_distance_mean"] > 0

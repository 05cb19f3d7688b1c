"""A file of a batch output."""

import gc
import sys

import pyarrow as pa
import pytest

from trainer.batch.shard import write_shard
from trainer.batch.target import STATE

pytestmark = pytest.mark.any_python


@pytest.mark.parametrize("format_name", ["parquet", "jsonl", "csv"])
def test_a_failed_file_says_nothing_more(tmp_path, monkeypatch, format_name):
    schema, said = pa.schema([("row", pa.int64())]), []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    (tmp_path / STATE).mkdir()

    def batches():
        yield pa.record_batch({"row": [1, 2]}, schema)
        raise ValueError("a row")

    with pytest.raises(ValueError, match="a row"):
        write_shard(str(tmp_path), "rows-0", format_name, schema, batches(), dict)
    gc.collect()
    assert said == []
    assert not (tmp_path / "rows-0").exists()

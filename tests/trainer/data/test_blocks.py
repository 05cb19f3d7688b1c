"""Small record files that change between their verification and their reading."""

import gzip

import pytest

from configs.errors import DataError
from trainer.data.blocks import small_file_records


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(None, id="removed"),
        pytest.param(b"no gzip", id="other content"),
        pytest.param(gzip.compress(b"0123456789" * 9)[:-12], id="cut"),
        pytest.param(gzip.compress(b"0123456789" * 9)[:12] + b"\xff" * 9, id="damaged"),
    ],
)
def test_a_file_that_changed_since_is_one_line(tmp_path, damaged):
    path = tmp_path / "block.tfrecord.gz"
    if damaged is not None:
        path.write_bytes(damaged)
    with pytest.raises(DataError, match="block.tfrecord.gz: cannot be read .*lazytower prepare"):
        list(small_file_records(str(path)))

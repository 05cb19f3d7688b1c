"""Blocks come back as they were written, and files that differ from dataset.json are refused."""

import numpy as np
import pytest

from configs.dataset_parts import FileInfo
from configs.errors import DataError
from pipelines.rows.blocks import BlockWriter
from pipelines.rows.decode import decode, read_blocks
from pipelines.rows.encode import example

pytestmark = pytest.mark.any_python


@pytest.mark.parametrize("largest", [1, 127, 128, 2**14, 2**35, 2**62])
def test_integers_of_any_width_come_back(largest):
    rng = np.random.default_rng(0)
    values = np.r_[0, rng.integers(0, largest, 1000, endpoint=True), largest]
    np.testing.assert_array_equal(decode(example({"id": values}))["id"], values)


def test_all_kinds_of_columns_come_back():
    columns = {
        "id": np.arange(3),
        "key": [b"", b"a" * 200, "ä".encode()],
        "price": np.float32([1.5, np.nan, -2]),
        "none": np.zeros(0, np.int64),
    }
    found = decode(example(columns))
    assert found["key"] == columns["key"] and found.keys() == columns.keys()
    for name in ("id", "price", "none"):
        np.testing.assert_array_equal(found[name], columns[name])
    assert list(decode(example(columns), ["price"])) == ["price"]


def written(path) -> FileInfo:
    with open(path, "wb") as file:
        writer = BlockWriter(file, 4)
        writer.add({"id": np.arange(10), "key": [b"%d" % i for i in range(10)]})
        return FileInfo(path="f", **writer.close())


def test_files_are_read_block_by_block(tmp_path):
    info = written(tmp_path / "f")
    blocks = list(read_blocks(str(tmp_path / "f"), info))
    assert [len(block["key"]) for block in blocks] == [4, 4, 2]
    assert np.concatenate([block["id"] for block in blocks]).tolist() == list(range(10))


@pytest.mark.parametrize("what", ["missing", "rows", "crc32c", "bytes", "cut", "noise"])
def test_a_file_that_differs_is_refused_by_name(tmp_path, what):
    path = tmp_path / "f"
    info = written(path)
    if what == "missing":
        path.unlink()
    elif what in ("cut", "noise"):
        content = path.read_bytes()
        path.write_bytes(content[:-9] if what == "cut" else b"noise" + content)
    else:
        other = {"rows": 11, "crc32c": "00000000", "bytes": 1}[what]
        info = info.model_copy(update={what: other})
    with pytest.raises(DataError, match=r"/f: .*restore the file"):
        list(read_blocks(str(path), info))

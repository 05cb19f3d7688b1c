"""Maps of files: their bytes, no descriptors, no memory once they are gone; few open files are enough."""

import errno
import gc
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from configs.errors import CheckpointError
from trainer.checkpoints import reader
from trainer.checkpoints.file_map import forget, map_file
from trainer.checkpoints.files import DamagedCheckpoint, RecordPiece, write_checkpoint
from trainer.checkpoints.manifest import CheckpointHead
from trainer.checkpoints.reader import map_array, open_checkpoint, read_checkpoint_file

PIECES, ROWS = 100, 5

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
import numpy as np
from trainer.checkpoints.reader import open_checkpoint
from trainer.checkpoints.rows import StoredRows
rows = StoredRows([open_checkpoint(sys.argv[1])], "user")
found = rows.read(np.arange(int(sys.argv[2])))
assert (found[:, 0] == np.arange(len(found))).all()
print("read")
"""


def maps(path) -> int:
    with open("/proc/self/maps", encoding="utf-8") as file:
        return sum(str(path) in line for line in file)


def test_a_map_outlives_its_descriptor_and_its_name_and_ends_with_its_arrays(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(np.arange(10_000).tobytes())
    before = len(os.listdir("/proc/self/fd"))
    with path.open("rb") as file:
        buffer = map_file(file)
    assert len(os.listdir("/proc/self/fd")) == before and maps(path) == 1
    array = np.frombuffer(buffer, np.int64)
    del buffer
    path.unlink()
    gc.collect()
    forget_of = array.base.obj if isinstance(array.base, memoryview) else array.base
    forget(forget_of)
    assert array.sum() == 49_995_000 and maps(path) == 1
    del array, forget_of
    gc.collect()
    assert maps(path) == 0


def test_nothing_cannot_be_mapped(tmp_path):
    (tmp_path / "file").touch()
    with (tmp_path / "file").open("rb") as file, pytest.raises(OSError) as caught:
        map_file(file)
    assert caught.value.errno == errno.EINVAL


@pytest.fixture
def checkpoint(tmp_path) -> str:
    path = str(tmp_path / "checkpoints" / "step-000000001")
    layout = {"rows": PIECES * ROWS, "parts": [["w", 2]], "pieces": [ROWS] * PIECES}
    head = {"step": 1, "kind": "full", "id": "a", "base": None, "identity": {}, "tables": {"user": layout}}

    def records(i: int) -> np.ndarray:
        rows = np.arange(i * ROWS, (i + 1) * ROWS, dtype=np.float32)
        return np.stack([rows, rows], 1)

    pieces = (RecordPiece("user", i, None, records(i)) for i in range(PIECES))
    write_checkpoint(path, CheckpointHead(**head), pieces, {"step": np.int64(1)}, 4)
    return path


def test_a_checkpoint_of_many_files_is_read_under_a_hard_limit_of_few(checkpoint):
    command = [sys.executable, "-c", LIMITED, checkpoint, str(PIECES * ROWS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "read\n", done.stderr


def test_arrays_of_maps_cannot_be_written(checkpoint):
    array = map_array(open_checkpoint(checkpoint), "tables/user/00000.npy")
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EMFILE, "raise the limit of open files of this process (ulimit -n)"),
        (errno.ENFILE, "raise the limit of open files of this machine"),
        (errno.EACCES, "give this user permission"),
        (errno.EIO, "or delete its checkpoint to go on from the one before"),
    ],
)
def test_what_the_machine_lacks_is_no_damage(checkpoint, monkeypatch, number, advice):
    def refuse(path):
        raise OSError(number, os.strerror(number))

    opened = open_checkpoint(checkpoint)
    monkeypatch.setattr(reader.storage, "read_bytes", refuse)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint_file(opened, "dense.npz")
    assert not isinstance(caught.value, DamagedCheckpoint)
    assert os.strerror(number) in str(caught.value) and advice in str(caught.value)
    assert ("delete" in str(caught.value)) == (number == errno.EIO)


def test_commands_may_open_as_many_files_as_the_machine_allows():
    code = (
        "import resource; soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (32, hard)); "
        "from trainer.cli import _allow_open_files; _allow_open_files(); "
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert int(done.stdout) == (1 << 20 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20))

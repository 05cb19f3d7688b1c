"""COMMITTED forged with its own checksum right: one line, no file elsewhere is read."""

import copy
import functools
import json

import google_crc32c
import numpy as np
import pytest

from trainer.checkpoints import reader
from trainer.checkpoints.files import DamagedCheckpoint, RecordPiece, write_checkpoint
from trainer.checkpoints.manifest import CheckpointHead, CheckpointManifest
from trainer.checkpoints.reader import open_checkpoint


@pytest.fixture
def checkpoint(tmp_path) -> str:
    path = str(tmp_path / "checkpoints" / "step-000000001")
    layout = {"rows": 2, "parts": [["w", 2]], "pieces": [2]}
    head = {"step": 1, "kind": "full", "id": "a", "base": None, "identity": {}, "tables": {"user": layout}}
    piece = RecordPiece("user", 0, None, np.zeros((2, 2), np.float32))
    write_checkpoint(path, CheckpointHead(**head), iter([piece]), {"step": np.int64(1)}, 4)
    return path


def crc32c(content: bytes) -> str:
    return google_crc32c.Checksum(content).hexdigest().decode()


def forge(path: str, change) -> None:
    """Writes a changed manifest with a checksum of its own."""
    with open(f"{path}/COMMITTED", encoding="utf-8") as file:
        manifest = json.load(file)
    manifest.pop("crc32c")
    manifest = copy.deepcopy(manifest)
    change(manifest)
    checksum = crc32c(json.dumps(manifest, sort_keys=True).encode())
    with open(f"{path}/COMMITTED", "w", encoding="utf-8") as file:
        json.dump({**manifest, "crc32c": checksum}, file)


def at(*path, value):
    def change(manifest):
        inner = manifest
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value

    return change


CHANGES = [
    *(
        at("files", name, value={"bytes": 1, "crc32c": "0" * 8})
        for name in ("/etc/passwd", "../x", "a/../../b")
    ),
    *(
        at("tables", name, value={"rows": 1, "parts": [], "pieces": []})
        for name in ("..", "../../x", "/x", "")
    ),
    at("step", value="1"),
    at("step", value=-1),
    at("step", value=10**30),
    at("step", value=True),
    at("kind", value="other"),
    at("kind", value="increment"),
    at("base", value={"step": 0, "id": "x"}),
    at("base", value=[1]),
    at("identity", value=None),
    at("time", value="now"),
    at("files", value=[]),
    at("files", "dense.npz", value=None),
    at("files", "dense.npz", "bytes", value=1e300),
    at("tables", "user", "pieces", value=[-1]),
    at("tables", "user", "parts", value=[["w"]]),
    lambda manifest: manifest.pop("id"),
    lambda manifest: manifest.pop("tables"),
]


def test_one_that_is_as_written_is_read(checkpoint):
    forge(checkpoint, lambda manifest: manifest.update(later_version="key"))
    assert open_checkpoint(checkpoint).step == 1


def test_what_is_encoded_is_parsed_and_formatting_does_not_matter(checkpoint):
    with open(f"{checkpoint}/COMMITTED", "rb") as file:
        content = file.read()
    manifest = CheckpointManifest.parse(content)
    assert manifest.encode() == content
    assert CheckpointManifest.parse(json.dumps(json.loads(content), sort_keys=True).encode()) == manifest
    assert list(json.loads(content)) == [*(CheckpointManifest.model_fields), "crc32c"]


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_a_forged_one_is_damage_in_one_line(checkpoint, change):
    forge(checkpoint, change)
    with pytest.raises(DamagedCheckpoint) as caught:
        open_checkpoint(checkpoint)
    assert str(caught.value).startswith(f"{checkpoint}/COMMITTED: cannot be read (")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"null", b"[]", b"", b"\xff", b"9" * 10_000], ids=range(6)
)
def test_what_is_no_manifest_is_damage_in_one_line(checkpoint, content):
    with open(f"{checkpoint}/COMMITTED", "wb") as file:
        file.write(content)
    with pytest.raises(DamagedCheckpoint, match="COMMITTED: cannot be read"):
        open_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["dense.npz", "tables/user/00000.npy"])
@pytest.mark.parametrize(
    "content", [b"x" * 300, b"PK\x03\x04" + b"x" * 300, b"\x93NUMPY\x01\x00" + b"\xff" * 300]
)
def test_a_forged_array_is_damage(checkpoint, name, content):
    with open(f"{checkpoint}/{name}", "wb") as file:
        file.write(content)
    forge(checkpoint, at("files", name, value={"bytes": len(content), "crc32c": crc32c(content)}))
    opened = open_checkpoint(checkpoint)
    into = functools.partial(reader.read_into, to=np.zeros([2, 3], np.float32))
    readers = [reader.read_array, reader.map_array, into]
    for read in [reader.read_dense] if name == "dense.npz" else readers:
        with pytest.raises(DamagedCheckpoint, match="holds no array of a checkpoint"):
            read(*((opened,) if name == "dense.npz" else (opened, name)))

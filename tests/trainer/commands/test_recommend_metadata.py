"""lazytower.json files that lazytower did not write."""

import json

import pytest

from configs.errors import ExportError
from trainer.serving.client import read_metadata

GOOD = {
    **{"name": "n", "step": 1, "weights": "raw", "max_k": 5, "exclude_seen": True},
    **{"users": {"ids": "vocab"}, "example_users": ["a"]},
}


def write(tmp_path, content: bytes) -> None:
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "lazytower.json").write_bytes(content)


def test_a_good_one(tmp_path):
    write(tmp_path, json.dumps(GOOD).encode())
    assert read_metadata(str(tmp_path)) == GOOD


@pytest.mark.parametrize(
    "content",
    [
        *(json.dumps({k: v for k, v in GOOD.items() if k != key}).encode() for key in GOOD),
        *(json.dumps(GOOD | {key: [1]}).encode() for key in GOOD),
        json.dumps(GOOD | {"index": 3}).encode(),
        json.dumps(GOOD | {"users": {"ids": 1}}).encode(),
        *(b"[" * 100_000, b"null", b"", b"\xff", b'{"max_k": ' + b"9" * 10_000 + b"}"),
    ],
    ids=range(21),
)
def test_others_are_one_line(tmp_path, content):
    write(tmp_path, content)
    with pytest.raises(ExportError, match=r"has no readable assets.extra/lazytower.json; was it written by"):
        read_metadata(str(tmp_path))

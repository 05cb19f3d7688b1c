"""Reading outputs, and pairing their users."""

import numpy as np
import pytest

from configs.errors import DataError
from tests.support.batch_outputs import write_lists
from trainer.batch import lists as lists_module
from trainer.batch.lists import ItemNumbers, TopkOutput, paired

pytestmark = pytest.mark.any_python

ONE = {f"ü{i}": [f"item {(i * 3 + n) % 11}" for n in range(i % 5)] for i in range(14)}
OTHER = {f"ü{i}": [f"item {(i * 2 + n) % 13}" for n in range((i + 2) % 5)] for i in range(20, 3, -1)}


def pairs_of(one: str, other: str) -> dict:
    numbers, found = ItemNumbers(), {}
    for left, right in paired(TopkOutput(one), TopkOutput(other), numbers):
        assert left.users.to_pylist() == right.users.to_pylist()
        names = list(numbers._numbers)
        for place, user in enumerate(left.users.to_pylist()):
            rows = np.array([place])
            assert user not in found
            found[user] = tuple([names[n] for n in side.take(rows).items] for side in (left, right))
    return found


@pytest.mark.parametrize("pieces", ["one piece", "many pieces"])
def test_users_of_different_outputs_are_joined_by_key(tmp_path, monkeypatch, pieces):
    if pieces == "many pieces":
        monkeypatch.setattr(lists_module, "_PIECE_BYTES", 100)
    one = write_lists(tmp_path / "a", ONE, 5)
    other = write_lists(tmp_path / "b", OTHER, 5, "jsonl", shard_rows=4, users="others")
    assert pairs_of(one, other) == {u: (ONE[u], OTHER[u]) for u in ONE if u in OTHER}


def test_the_same_users_are_read_side_by_side_in_blocks_of_any_size(tmp_path, monkeypatch):
    changed = {user: items[::-1] for user, items in ONE.items()}
    one = write_lists(tmp_path / "a", ONE, 5, shard_rows=10)
    other = write_lists(tmp_path / "b", changed, 5, "jsonl", shard_rows=10)
    monkeypatch.setattr(lists_module, "_ROWS", 3)
    monkeypatch.setattr(lists_module, "_split", None)  # nothing is spooled
    assert pairs_of(one, other) == {user: (ONE[user], changed[user]) for user in ONE}


def test_what_is_no_output_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"holds no manifest.json; run `lazytower score"):
        TopkOutput(str(tmp_path))
    path = write_lists(tmp_path / "csv", ONE, 5, "csv")
    with pytest.raises(DataError, match="holds topk as csv; lists of items as parquet or jsonl can be"):
        TopkOutput(path)
    path = write_lists(tmp_path / "a", ONE, 5)
    (tmp_path / "a" / "topk-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"topk-00001.parquet: cannot be read"):
        pairs_of(path, path)

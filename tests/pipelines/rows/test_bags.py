"""Bags: lists of keys as one text and back, with weights to the last bit."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.rows.bags import BagColumn, Bags, arrow, join, length_name, split, taken

_key = st.text(st.characters(codec="utf-8", exclude_characters="\x01\x02"), min_size=1, max_size=4)
_weight = st.floats(0, width=32, allow_infinity=False) | st.sampled_from([0.1, 1.0, 1e-45, 3e38])


def joined(lists, weights=None) -> pa.StringArray:
    keys = [key for keys in lists for key in keys]
    offsets = np.r_[0, np.cumsum([len(keys) for keys in lists], dtype=np.int64)].astype(np.int64)
    return join(pa.array(keys, pa.string()), offsets, None if weights is None else np.float32(weights))


@given(st.lists(st.lists(_key, max_size=4), max_size=5))
def test_lists_come_back(lists):
    found = split(joined(lists), weighted=False)
    members = found.members.to_pylist()
    assert [members[a:b] for a, b in zip(found.offsets, found.offsets[1:], strict=False)] == lists
    assert found.weights is None and found.lengths.tolist() == [len(keys) for keys in lists]


@given(st.lists(st.lists(st.tuples(_key, _weight), max_size=4), max_size=5))
def test_weights_come_back_bit_for_bit(lists):
    weights = np.array([weight for pairs in lists for _, weight in pairs], np.float32)
    texts = joined([[key for key, _ in pairs] for pairs in lists], weights)
    assert [text == "" for text in texts.to_pylist()] == [not pairs for pairs in lists]
    found = split(texts, weighted=True)
    np.testing.assert_array_equal(found.weights.view(np.int32), weights.view(np.int32))
    assert found.members.to_pylist() == [key for pairs in lists for key, _ in pairs]


def test_rows_of_bags_become_lists():
    bags = Bags(np.array([5, 6, 7]), np.array([0, 2, 2, 3]), np.float32([0.5, 1, 2]))
    rows = taken(BagColumn(np.array([2, 0, 1, 0]), bags), np.array([3, 2, 0]))
    found = arrow("tags", rows)
    assert found["tags"].to_pylist() == [[5, 6], [], [7]]
    assert found["tags/weight"].to_pylist() == [[0.5, 1], [], [2]]
    assert arrow("tags", np.array([1]))["tags"].tolist() == [1]
    names = ["tags", "tags@valid", "tags/weight", "history", "sequence_split"]
    assert [length_name(name) for name in names] == [
        "tags/length", "tags@valid/length", None, "history_length", None,
    ]  # fmt: skip

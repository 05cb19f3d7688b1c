"""Names of groups, and who belongs to them."""

import numpy as np
import pytest

from trainer.comparison.groups import distinct_names, members
from trainer.data.ragged import Ragged
from trainer.evaluation.segments.tables import SegmentTable

pytestmark = pytest.mark.any_python


def test_equal_names_get_numbers():
    assert distinct_names(["a", "b"]) == ["a", "b"]
    assert distinct_names(["a", "a", "a (2)", "a"]) == ["a", "a (2)", "a (2) (2)", "a (3)"]
    assert distinct_names(["all", "a"], ["all"]) == ["all (2)", "a"]


def test_members_of_a_list_are_in_several_groups():
    slots = Ragged(np.array([2, 0, 2, 1, 2]), np.array([1, 2, 0, 2]))
    table = SegmentTable("tags", "user", ["x", "y", "z", "none"], np.array([3, 5, 6, 9]), slots)
    found = {name: places.tolist() for name, places in members(table, np.array([3, 4, 5, 9]))}
    assert found == {"x": [2], "y": [3], "z": [0, 2, 3], "none": []}

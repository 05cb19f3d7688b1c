"""Groups of users by their activity."""

import numpy as np
import pytest

from tests.support.tiny_dataset import write_dataset
from tests.trainer.data.test_catalog import random_rows
from trainer.comparison.groups import by_activity
from trainer.data.catalog import Items, Users

pytestmark = pytest.mark.any_python


@pytest.fixture(scope="module")
def users(tmp_path_factory) -> Users:
    rows = random_rows(5, users=40, items=35, number=500)
    dataset = write_dataset(str(tmp_path_factory.mktemp("measured")), rows, block_rows=16, history_length=4)
    return Users(dataset, Items.load(dataset))


def test_groups_by_activity(users):
    known: dict[int, int] = {}
    for block in users.blocks():
        known |= dict(zip(block.ids.tolist(), block.counts.tolist(), strict=True))
    ids = np.array(sorted(user for user, count in known.items() if count))
    counts = np.array([known[user] for user in ids])
    groups = by_activity(users, ids)
    assert 1 < len(groups.texts) <= 10
    found = groups.of(ids[::-1])[::-1]
    bounds = [(counts[found == code].min(), counts[found == code].max()) for code in range(len(groups.texts))]
    assert all(high < low for (_, high), (low, _) in zip(bounds, bounds[1:], strict=False))
    assert groups.texts[-1].startswith(f"{bounds[-1][0]}") and groups.texts[-1].endswith(" train rows")
    sizes = np.bincount(found)
    ties = max(np.bincount(counts))
    assert sizes.max() <= len(ids) / 10 + ties

"""Metrics of single users add up to those of the evaluation, under each protocol."""

import numpy as np
import pytest

from configs.sections.evaluation import EvaluateConfig
from tests.support.tiny_dataset import write_dataset
from tests.trainer.data.test_catalog import random_rows
from tests.trainer.evaluation.test_ranking import table
from trainer.comparison.groups import by_activity
from trainer.comparison.measured import UserMetrics
from trainer.data.catalog import Items, Users
from trainer.evaluation.ranking import averaged_over, evaluate_scorers

pytestmark = pytest.mark.any_python


@pytest.fixture(scope="module")
def users(tmp_path_factory) -> Users:
    rows = random_rows(5, users=40, items=35, number=500)
    dataset = write_dataset(str(tmp_path_factory.mktemp("measured")), rows, block_rows=16, history_length=4)
    return Users(dataset, Items.load(dataset))


@pytest.mark.parametrize(
    "options",
    [
        {"k": [2, 5]},
        {"k": [5], "exclude_seen": False, "max_users": 11},
        {"protocol": "sampled", "negatives": 7, "k": [3]},
        {"protocol": "sampled", "negatives": 5, "k": [3], "cold_items": "rank"},
    ],
)
def test_users_add_up(users, options):
    config = EvaluateConfig(**options)
    watch = UserMetrics(averaged_over(config))
    scorer = table("one", users, 5)
    whole = evaluate_scorers([scorer], users, config, "test", observers=[watch])["one"]
    alone = evaluate_scorers([scorer], users, config, "test")["one"]
    assert whole | {"seconds": 0} == alone | {"seconds": 0}
    ids, weights, sums = watch.results()
    assert len(ids) == whole["users"] and (np.diff(ids) > 0).all()
    assert weights.sum() == whole["users" if averaged_over(config) == "users" else "targets"]
    assert {"mrr", f"hr@{config.k[0]}"} <= set(sums)
    for name, column in sums.items():
        assert column.sum() / weights.sum() == pytest.approx(whole[name], abs=1e-12)


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

"""evaluate.cold_items: only, against a brute-force ranking of the raw interactions."""

import collections

import numpy as np
import pytest

from configs.sections.evaluation import EvaluateConfig
from tests.support.tiny_dataset import Row, write_dataset
from tests.trainer.evaluation.test_ranking import Table, close, one_user, rank
from trainer.data.catalog import Items, Users
from trainer.evaluation.ranking import evaluate_scorers
from trainer.report.left_out import reasons

pytestmark = pytest.mark.any_python

K = [1, 3, 10]


def random_rows() -> list[Row]:
    """Items old* in all splits, new* in held-out ones only; one user is cold, one has no cold target."""
    draw = np.random.default_rng(5)
    rows = []
    for split, number, items in (("train", 120, "old"), ("valid", 60, "new"), ("test", 90, "new")):
        for user, item in draw.integers([12, 9], size=(number, 2)):
            kind = "old" if draw.random() < 0.3 else items
            rows.append(Row(b"u%d" % user, f"{kind}{item}".encode(), split))
    rows += [Row(b"stranger", b"new1", "test"), Row(b"warm", b"old1", "train"), Row(b"warm", b"old2", "test")]
    return [*rows, Row(b"u1", b"late", "valid")]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return random_rows()


@pytest.fixture(scope="module")
def users(rows, tmp_path_factory) -> Users:
    dataset = write_dataset(str(tmp_path_factory.mktemp("cold")), rows, block_rows=16)
    return Users(dataset, Items.load(dataset))


def brute_force(rows, users, matrix, split, exclude_seen) -> tuple[dict, int, int]:
    """(mean metrics, users, targets)."""
    number_of = {key: number for number, key in enumerate(users.items.keys) if key}
    user_of = {key: int(i) for block in users.blocks() for i, key in zip(block.ids, block.keys, strict=True)}
    trained = {row.item for row in rows if row.split == "train"}
    pool = {row.item for row in rows if row.split == split} - trained
    of_user, values, targets = collections.defaultdict(list), [], 0
    for row in rows:
        of_user[row.user].append(row)
    for key, mine in of_user.items():
        if all(row.split != "train" for row in mine):
            continue
        seen = (
            {row.item for row in mine if row.split == "valid"} if exclude_seen and split == "test" else set()
        )
        wanted = {row.item for row in mine if row.split == split and row.item in pool} - seen
        scores = matrix[user_of[key]]
        others = {number_of[item] for item in pool - seen}
        ranks = [
            rank(scores[number_of[t]], [scores[i] for i in others - {number_of[t]}]) for t in sorted(wanted)
        ]
        if ranks:
            values.append(one_user(ranks, len(ranks), K))
            targets += len(ranks)
    means = {name: sum(value[name] for value in values) / len(values) for name in values[0]}
    return means, len(values), targets


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_only_cold_items_equal_brute_force(rows, users, split, exclude_seen):
    config = EvaluateConfig(k=K, exclude_seen=exclude_seen, cold_items="only")
    shape = (users.dataset.tables["user"].catalog_rows, users.items.rows)
    scorer = Table("a", np.random.default_rng(0).integers(4, size=shape).astype(np.float32))
    result = evaluate_scorers([scorer], users, config, split)["a"]
    expected, number, targets = brute_force(rows, users, scorer.matrix, split, exclude_seen)
    close(result, expected, [f"{m}@{k}" for m in ("hr", "recall", "ndcg") for k in K] + ["mrr"])
    assert (result["users"], result["targets"], result["cold_targets"]) == (number, targets, targets)


def test_targets_with_train_rows_are_counted_as_left_out(rows, users):
    config = EvaluateConfig(k=K, cold_items="only")
    shape = (users.dataset.tables["user"].catalog_rows, users.items.rows)
    result = evaluate_scorers([Table("a", np.zeros(shape, np.float32))], users, config, "test")["a"]
    counted = ("repeated_rows", "warm_targets", "seen_targets", "targets", "cold_user_rows")
    assert sum(result[name] for name in counted) == result["split_rows"]
    trained = {row.item for row in rows if row.split == "train"}
    warm = {row for row in rows if row.split == "test" and row.item in trained}
    assert result["warm_targets"] == len(warm) and result["warm_users"] >= 1
    assert f"{len(warm)} targets with train rows (evaluate.cold_items: only)" in reasons(result)


def test_protocol_line_names_the_items_and_the_baseline(rows, users):
    config = EvaluateConfig(k=K, cold_items="only")
    shape = (users.dataset.tables["user"].catalog_rows, users.items.rows)
    scorer = Table("a", np.zeros(shape, np.float32))
    text = evaluate_scorers([scorer], users, config, "test")["a"]["protocol"]
    pool = {row.item for row in rows if row.split == "test"} - {r.item for r in rows if r.split == "train"}
    assert f"only the {len(pool)} items without positive train rows that occur in test" in text
    assert "popularity is equal for all of these items" in text

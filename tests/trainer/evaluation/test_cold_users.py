"""evaluate.cold_users: rank, against a row-by-row ranking of the raw interactions."""

import collections

import numpy as np
import pytest

from configs.sections.evaluation import EvaluateConfig
from tests.support.set_histories import other_items
from tests.support.tiny_dataset import Row, write_dataset
from tests.trainer.evaluation.test_ranking import one_user, rank
from trainer.data.catalog import Items, Users
from trainer.evaluation import ranking
from trainer.evaluation.ranking import evaluate_scorers
from trainer.report.left_out import reasons

pytestmark = pytest.mark.any_python

K, LENGTH = [1, 3, 10], 3


class ByPast:
    """Scores that depend on the history, so that a wrong past is noticed."""

    def __init__(self, items: int):
        self.name, self.seen = "past", []
        draw = np.random.default_rng(1)
        self.matrix = draw.integers(5, size=(items + 1, items)).astype(np.float32)

    def of(self, history) -> np.ndarray:
        return self.matrix[-1] + sum(self.matrix[i] * 3**place for place, i in enumerate(history))

    def scores(self, users, items):
        self.seen.append(users)
        rows = np.stack([self.of([i for i in history if i >= 0]) for history in users.history])
        return rows.astype(np.float32) if items is None else np.take_along_axis(rows, items, axis=1)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    draw = np.random.default_rng(2)
    rows = []
    for split, users in (("train", "warm"), ("valid", "new"), ("test", "new"), ("test", "late")):
        for user, item in draw.integers([6, 12], size=(70 if split == "train" else 40, 2)):
            rows.append(Row(f"{users}{user}".encode(), b"i%d" % item, split))
    rows += [Row(b"warm1", b"i%d" % i, "test") for i in range(12)]
    rows += [Row(b"new1", b"fresh", "valid"), Row(b"new1", b"fresh", "test"), Row(b"new1", b"newer", "test")]
    return [*rows, Row(b"new1", b"i3", "test"), Row(b"disliked", b"i3", "test", 0.0)]


@pytest.fixture(scope="module", params=["earlier", "others"])
def users(request, rows, tmp_path_factory) -> Users:
    path = str(tmp_path_factory.mktemp("users"))
    dataset = write_dataset(path, rows, block_rows=8, history_length=LENGTH, history_of=request.param)
    return Users(dataset, Items.load(dataset))


def history_of(users, past, own, user) -> list[int]:
    """What a row's history holds of catalog ids `past`, oldest first."""
    if users.dataset.history_of == "earlier":
        return past[-LENGTH:]
    return other_items(past, own, user, LENGTH)


def in_turn(rows, users, scorer, split, exclude_seen) -> list[list[dict]]:
    """Metrics of each evaluated row, by cold user."""
    items = users.items
    id_of = {key: int(i) for block in users.blocks() for key, i in zip(block.keys, block.ids, strict=True)}
    number_of = {items.keys[i]: int(i) for i in items.ids}
    trained, past = {row.user for row in rows if row.split == "train"}, collections.defaultdict(list)
    of_user = collections.defaultdict(list)
    for row in rows:
        if row.user in trained or row.label <= 0:
            continue
        earlier = past[row.user]
        if row.split == split and not (exclude_seen and row.item in earlier):
            before = [number_of[i] for i in earlier if i in number_of]
            scores = scorer.of(history_of(users, before, number_of.get(row.item), id_of[row.user]))
            excluded = {number_of[i] for i in earlier if i in number_of} if exclude_seen else set()
            ranks = []
            if row.item in number_of:
                target = number_of[row.item]
                others = [scores[i] for i in items.ids if i != target and i not in excluded]
                ranks = [rank(scores[target], others)]
            of_user[row.user].append(one_user(ranks, 1, K))
        if row.split in ("valid", split):
            earlier.append(row.item)
    return list(of_user.values())


@pytest.mark.parametrize("batch", [1, 7, 1024])
@pytest.mark.parametrize("split, exclude_seen", [("valid", True), ("test", True), ("test", False)])
def test_rows_in_turn_equal_brute_force(rows, users, split, exclude_seen, batch, monkeypatch):
    monkeypatch.setattr(ranking, "_MAX_BATCH", batch)
    scorer = ByPast(users.items.rows)
    config = EvaluateConfig(k=K, exclude_seen=exclude_seen, cold_users="rank")
    result = evaluate_scorers([scorer], users, config, split)["past"]
    expected = in_turn(rows, users, scorer, split, exclude_seen)
    cold = {name: [np.mean([row[name] for row in mine]) for mine in expected] for name in expected[0][0]}
    warm = None
    if split == "test":  # no user with train rows has valid ones here
        skip = config.model_copy(update={"cold_users": "skip"})
        warm = evaluate_scorers([scorer], users, skip, split)["past"]
    number = warm["users"] if warm else 0
    for name, values in cold.items():
        total = sum(values) + number * (warm[name] if warm else 0)
        assert result[name] == pytest.approx(total / (number + len(values)), abs=1e-12), name
    assert result["users"] == number + len(expected)
    assert result["ranked_cold_users"] == len(expected)
    assert result["ranked_cold_rows"] == sum(map(len, expected))


def test_every_row_is_counted_and_the_protocol_names_these_users(rows, users):
    config = EvaluateConfig(k=K, cold_users="rank")
    result = evaluate_scorers([ByPast(users.items.rows)], users, config, "test")["past"]
    counted = ("repeated_rows", "seen_targets", "targets", "cold_user_rows", "not_positive_rows")
    assert sum(result[name] for name in counted) == result["split_rows"]
    assert result["cold_users"] == 0 and not any("without positive train" in text for text in reasons(result))
    told = f"and {result['ranked_cold_users']} users without train rows, progressively"
    assert told in result["protocol"] and "earlier valid and test rows" in result["protocol"]


def test_skipping_them_changes_nothing(rows, users):
    config = EvaluateConfig(k=K)
    scorer = ByPast(users.items.rows)
    result = evaluate_scorers([scorer], users, config, "test")["past"]
    assert "ranked_cold_users" not in result and result["cold_users"] > 0
    assert all(key.startswith(b"warm") for batch in scorer.seen for key in batch.keys)


def test_sampled_targets_count_one_each(rows, users):
    config = EvaluateConfig(k=K, protocol="sampled", negatives=4, cold_users="rank")
    scorer = ByPast(users.items.rows)
    both = evaluate_scorers([scorer], users, config, "test")["past"]
    warm = evaluate_scorers([scorer], users, config.model_copy(update={"cold_users": "skip"}), "test")["past"]
    positives = [row for row in rows if row.split == "test" and row.label > 0]
    cold = [row for row in positives if not row.user.startswith(b"warm")]
    assert both["targets"] == warm["targets"] + len(cold) and both["ranked_cold_rows"] == len(cold)


def test_a_sample_of_users_may_hold_cold_ones(rows, users):
    config = EvaluateConfig(k=K, max_users=5, cold_users="rank")
    result = evaluate_scorers([ByPast(users.items.rows)], users, config, "test")["past"]
    assert result["users"] <= 5 and result["ranked_cold_users"] > 0 and result["unsampled_users"] > 0

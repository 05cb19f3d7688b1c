"""Metrics of retrieval models by segment: as the evaluation has them, and as the raw interactions say."""

import collections
import types

import numpy as np
import pytest

from configs.sections.evaluation import EvaluateConfig
from configs.splitmix import hash_ids
from tests.support.segmented_users import BY, segmented_users
from tests.support.tiny_dataset import Row
from tests.trainer.data.test_catalog import random_rows
from tests.trainer.evaluation.test_ranking import Table
from trainer.comparison import measured
from trainer.comparison.differences import differences
from trainer.comparison.groups import EVERYONE, Group
from trainer.data.catalog import Users
from trainer.evaluation.pointwise.resampling import sample_weights
from trainer.evaluation.ranking import evaluate_scorers

pytestmark = pytest.mark.any_python


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    cold = [Row(b"u99", b"i1", "test"), Row(b"u99", b"i2", "test"), Row(b"u2", b"i98", "test")]
    return random_rows(3, users=60, items=35, number=900) + cold


@pytest.fixture(scope="module")
def users(rows, tmp_path_factory) -> Users:
    return segmented_users(str(tmp_path_factory.mktemp("measured")), rows)


def by_key(seed: int) -> np.ndarray:
    """A model: its scores by the numbers in the keys of users and items."""
    return np.random.default_rng(seed).random((100, 100)).astype(np.float32)


def scorer(users: Users, seed: int) -> Table:
    """The same by catalog ids."""
    matrix, scores = np.zeros((users.dataset.tables["user"].catalog_rows, users.items.rows)), by_key(seed)
    items = [int(key[1:] or b"0") for key in users.items.keys]
    for block in users.blocks():
        for user, key in zip(block.ids, block.keys, strict=True):
            matrix[user] = scores[int(key[1:])][items]
    return Table("raw", matrix.astype(np.float32))


def config(**keys) -> EvaluateConfig:
    return EvaluateConfig(**{"k": [3, 10], "by": BY, "by_values": 4, "bootstrap": 60, **keys})


def measure(monkeypatch, users: Users, seed: int, **keys) -> measured.MeasuredRun:
    monkeypatch.setattr(measured, "TrainedScorer", lambda *unused: scorer(users, seed))
    trained = types.SimpleNamespace(
        config=types.SimpleNamespace(evaluate=config(**keys)),
        dataset=users.dataset,
        items=users.items,
        recommender=types.SimpleNamespace(has_averages=False),
        step=1,
        chosen="newest",
    )
    return measured.measure_users(trained, "test")


@pytest.mark.parametrize(
    "keys", [{}, {"cold_users": "rank"}, {"max_users": 21}, {"protocol": "sampled", "negatives": 9}]
)
def test_segments_are_those_of_the_evaluation(monkeypatch, users, keys):
    run = measure(monkeypatch, users, 1, **keys)
    found = evaluate_scorers([scorer(users, 1)], users, config(**keys), "test", detail=True)["raw"]
    assert list(run.tables) == list(found["by"])
    assert run.figures["", "", EVERYONE].rows == found["users"]
    for name, value in run.figures["", "", EVERYONE].values.items():
        assert value == pytest.approx(found[name], abs=1e-12)
    for table, segments in found["by"].items():
        mine = [group for group in run.figures if group.table == table]
        assert [group.name for group in mine] == [segment["value"] for segment in segments]
        for group, segment in zip(mine, segments, strict=True):
            figures = run.figures[group]
            assert figures.rows == segment[run.tables[table].unit]
            assert figures.values == {name: segment[name] for name in figures.values}
            assert set(figures.values) <= set(segment["intervals"])


def test_the_activity_of_users_is_the_default(monkeypatch, users):
    default, asked = measure(monkeypatch, users, 1, by=[]), measure(monkeypatch, users, 1)
    assert list(default.tables) == ["activity/users"]
    assert list(measure(monkeypatch, users, 1, by=["brand"]).tables) == ["activity/users", "brand"]
    for group, figures in default.figures.items():
        assert figures.values == asked.figures[group].values


class Target:
    """Ranks of a user's targets by two models, from the raw interactions."""

    def __init__(self, rows: list[Row], user: bytes):
        train = collections.Counter(row.item for row in rows if row.split == "train")
        of = {
            split: {row.item for row in rows if (row.user, row.split) == (user, split)}
            for split in ("train", "valid", "test")
        }
        seen = of["train"] | of["valid"]
        self.items = sorted(of["test"] - seen) if of["train"] else []
        left = [int(item[1:]) for item in set(train) - seen]
        self.ranks = []
        for seed in (1, 2):
            scores = by_key(seed)[int(user[1:])]
            self.ranks.append(
                [
                    1 + (scores[left] > scores[int(item[1:])]).sum() if item in train else np.inf
                    for item in self.items
                ]
            )


def ndcg(ranks, k: int = 10) -> float:
    gains = sum(1 / np.log2(1 + rank) for rank in ranks if rank <= k)
    return gains / sum(1 / np.log2(2 + place) for place in range(min(k, len(ranks))))


def sampled(users: Users, keys: list[bytes], difference: np.ndarray) -> list[float]:
    """The paired bootstrap written out: the interval of a mean over users, or over targets of users."""
    id_of = {key: i for block in users.blocks() for i, key in zip(block.ids, block.keys, strict=True)}
    blocks = hash_ids(0, np.array([id_of[key] for key in keys])) >> np.uint64(56)
    times = sample_weights(0, 60)[:, blocks.astype(np.int64)]
    return np.quantile((times @ difference) / times.sum(axis=1), [0.025, 0.975]).tolist()


def test_differences_are_those_of_the_raw_interactions(monkeypatch, rows, users):
    runs = [measure(monkeypatch, users, seed) for seed in (1, 2)]
    found = {(*one[:3], one.metric): one for one in differences(*runs, 0.95)}
    targets = {user: Target(rows, user) for user in {row.user for row in rows}}
    targets = {user: target for user, target in sorted(targets.items()) if target.items}
    activity = collections.Counter(row.user for row in rows if row.split == "train")
    segments, items = collections.defaultdict(list), collections.defaultdict(list)
    named = [
        group.name for group in runs[0].figures if group.table == "country" and "others" not in group.name
    ]
    for user, target in targets.items():
        change = ndcg(target.ranks[1]) - ndcg(target.ranks[0])
        country = f"c{chr(user[-1])}"
        country = country if country in named else next(g.name for g in runs[0].figures if "others" in g.name)
        [tenth] = [
            group.name
            for group in runs[0].figures
            if group.table == "activity/users" and inside(activity[user], group.name)
        ]
        for place in (("country", country), ("activity/users", tenth), ("", EVERYONE)):
            segments[place].append((user, change))
        for item, *ranks in zip(target.items, *target.ranks, strict=True):
            change = ndcg([ranks[1]]) - ndcg([ranks[0]])
            items["all targets"].append((user, change))
            items["i1"].append((user, change)) if item[:2] == b"i1" else None
    assert len(segments) > 10 and len(items) == 2
    for (table, name), values in segments.items():
        keys, change = [key for key, _ in values], np.array([value for _, value in values])
        one = found["", table, name, "ndcg@10"]
        assert (one.number, one.by) == (len(keys), pytest.approx(change.mean(), abs=1e-9))
        assert (one.won, one.lost) == (np.mean(change > 1e-12), np.mean(change < -1e-12))
        assert one.interval is None or one.interval == pytest.approx(sampled(users, keys, change), abs=1e-9)
    for name, values in items.items():
        keys, change = [key for key, _ in values], np.array([value for _, value in values])
        one = found["", "brand", name, "ndcg@10"]
        assert (one.number, one.by) == (len(keys), pytest.approx(change.mean(), abs=1e-9))
        assert one.interval == pytest.approx(sampled(users, keys, change), abs=1e-9)
        assert one.won is one.lost is None
    assert Group("", "brand", "all targets") in runs[0].figures


def inside(count: int, text: str) -> bool:
    """Whether a number is in a range such as 3 to 5, or 7."""
    low, _, high = text.partition(" to ")
    return low.isdigit() and int(low) <= count <= int(high or low)

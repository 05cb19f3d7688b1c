"""Intervals, lists and segments of whole evaluations, against the raw interactions."""

import collections

import numpy as np
import pytest

from configs.sections.evaluation import EvaluateConfig
from tests.support.segmented_users import BY, segmented_users
from tests.support.tiny_dataset import Row
from tests.trainer.data.test_catalog import random_rows
from tests.trainer.evaluation.lists.test_metrics import recbole_coverage, recbole_gini
from tests.trainer.evaluation.test_ranking import Table
from trainer.data.catalog import Users
from trainer.evaluation.per_user import UserRecorder
from trainer.evaluation.ranking import averaged_over, evaluate_scorers
from trainer.evaluation.segments import ages
from trainer.evaluation.segments.tables import NEW, segment_tables

pytestmark = pytest.mark.any_python


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    cold = [Row(b"new", b"i1", "test"), Row(b"new", b"i2", "test"), Row(b"u2", b"fresh", "test")]
    return random_rows(3, users=60, items=35, number=900) + cold + [Row(b"u4", b"fresh2", "test")]


@pytest.fixture(scope="module")
def users(rows, tmp_path_factory) -> Users:
    return segmented_users(str(tmp_path_factory.mktemp("detail")), rows)


def scorer(users: Users, levels: int = 9) -> Table:
    shape = (users.dataset.tables["user"].catalog_rows, users.items.rows)
    return Table("a", np.random.default_rng(1).integers(levels, size=shape).astype(np.float32))


def evaluated(users, **keys) -> dict:
    config = EvaluateConfig(**{"k": [3, 10], "by": BY, "by_values": 4, **keys})
    return evaluate_scorers([scorer(users)], users, config, "test", detail=True)["a"]


def mean(segments, name: str, size: str) -> float:
    known = [one for one in segments if one["value"] != "all targets"]
    return sum(one[name] * one[size] for one in known) / sum(one[size] for one in known)


@pytest.mark.parametrize("keys", [{}, {"cold_users": "rank"}, {"max_users": 21}, {"exclude_seen": False}])
def test_segments_of_users_add_up_to_the_figures_of_all(users, keys):
    found = evaluated(users, **keys)
    for name in ("activity/users", "age/users", "country"):
        segments = found["by"][name]
        assert sum(one["users"] for one in segments) == found["users"]
        assert sum(one["targets"] for one in segments) == found["targets"]
        for metric in ("hr@3", "recall@10", "ndcg@3", "mrr"):
            assert mean(segments, metric, "users") == pytest.approx(found[metric], abs=1e-9)
        for metric in ("popularity@3", "novelty@10"):
            assert mean(segments, metric, "users") == pytest.approx(found["lists"][metric], abs=1e-9)
    new = [one for one in found["by"]["activity/users"] if one["value"] == NEW]
    assert [one["users"] for one in new] == ([1] if "cold_users" in keys else [])
    assert any(one["intervals"]["mrr"] for one in found["by"]["country"]) or "max_users" in keys


@pytest.mark.parametrize("keys", [{}, {"protocol": "sampled", "negatives": 9}])
def test_segments_of_items_add_up_to_all_targets(users, keys):
    found = evaluated(users, **keys)
    for name in ("activity/items", "age/items", "brand"):
        *segments, everything = found["by"][name]
        assert everything["value"] == "all targets" and everything["targets"] == found["targets"]
        assert sum(one["targets"] for one in segments) == found["targets"]
        for metric in ("recall@10" if not keys else "hr@10", "ndcg@3", "mrr"):
            assert mean(segments, metric, "targets") == pytest.approx(everything[metric], abs=1e-9)
            if keys:
                assert everything[metric] == pytest.approx(found[metric], abs=1e-9)
    new = found["by"]["activity/items"][0]
    assert (new["value"], new["targets"], new["mrr"]) == (NEW, found["cold_targets"], 0.0)
    assert new["targets"] >= 2
    assert "lists" not in found if keys else "lists" in found


def test_segments_of_targets_that_are_cold_items_and_ranked(users):
    config = {"protocol": "sampled", "negatives": 5, "cold_items": "rank"}
    cold = evaluated(users)["by"]["activity/items"][0]
    found = evaluated(users, **config)["by"]["activity/items"][0]
    assert (found["value"], found["targets"]) == (NEW, cold["targets"]) and found["mrr"] > cold["mrr"] == 0


def test_who_belongs_to_a_segment(rows, users, monkeypatch):
    monkeypatch.setattr(ages, "DAY", 1)  # rows are a nanosecond apart
    config = EvaluateConfig(by=BY, by_values=2, cold_users="rank")
    tables = {table.name: table for table in segment_tables(users, config, "test")}
    assert list(tables) == [
        *("activity/users", "activity/items", "age/users", "age/items", "country", "brand")
    ]
    id_of = {key: int(i) for block in users.blocks() for i, key in zip(block.ids, block.keys, strict=True)}
    number = collections.Counter(row.user for row in rows if row.split == "train")
    train = [(place, row) for place, row in enumerate(rows) if row.split == "train"]
    evaluated_users = {row.user for row in rows if row.split == "test"}
    for key in evaluated_users:
        ids = np.array([id_of[key]])
        [activity], [age] = (
            [tables[name].texts[slot] for slot in tables[name].find(ids)[1]]
            for name in ("activity/users", "age/users")
        )
        if not number[key]:
            assert activity == age == NEW
            continue
        low, _, high = activity.partition(" to ")
        assert int(low) <= number[key] <= int(high or low)
        days = train[-1][0] - min(place for place, row in train if row.user == key)
        assert age == ("365 days or more" if days >= 365 else "90 to 365 days" if days >= 90 else age)
    countries = collections.Counter(b"c" + key[-1:] for key in evaluated_users)
    [other] = tables["country"].find(np.array([id_of[b"new"]]))[1]
    assert tables["country"].texts[other].startswith("all others (")
    assert f"({len(countries) - 2} values)" in tables["country"].texts[-1]


def test_lists_equal_a_ranking_by_hand(users):
    found, matrix = evaluated(users, bootstrap=0), scorer(users).matrix
    items, lists, means = users.items, [], collections.defaultdict(list)
    for block in users.of_split("test"):
        view = users.view(block, "test")
        for row, user in enumerate(block.ids):
            seen = set(view.seen.take(np.array([row])).values.tolist())
            targets = set(view.targets.take(np.array([row])).values.tolist()) - seen
            if not targets and not view.cold.lengths[row]:
                continue
            left = [int(i) for i in items.ids if i not in seen]
            lists.append(sorted(left, key=lambda i: (-matrix[user, i], i)))
            for k in (3, 10):
                best = items.counts[lists[-1][:k]]
                means[f"popularity@{k}"].append(best.mean())
                means[f"novelty@{k}"].append(-np.log2(best / items.counts[items.ids].sum()).mean())
    for k in (3, 10):
        cut = [one[:k] for one in lists]
        assert found["lists"][f"coverage@{k}"] == pytest.approx(
            recbole_coverage(cut, len(items.ids)), abs=1e-9
        )
        assert found["lists"][f"gini@{k}"] == pytest.approx(recbole_gini(cut, len(items.ids)), abs=1e-9)
    for name, values in means.items():
        assert found["lists"][name] == pytest.approx(np.mean(values), abs=1e-9)
    assert set(found["intervals"].values()) == {None} and found["resampling"] == ""


def test_diversity_and_cold_items_alone(users):
    vectors = np.random.default_rng(0).normal(size=(users.items.rows, 3)).astype(np.float32)
    config = EvaluateConfig(k=[3], diversity=["vectors", "brand"])
    found = evaluate_scorers([scorer(users)], users, config, "test", detail=True, vectors=vectors)["a"]
    names = ["coverage@3", "gini@3", "popularity@3", "novelty@3", "diversity_vectors@3", "diversity_brand@3"]
    assert list(found["lists"]) == names and all(found["intervals"][name] for name in names)
    cold = evaluate_scorers(
        [scorer(users)], users, EvaluateConfig(k=[1], cold_items="only"), "test", detail=True
    )["a"]
    assert list(cold["lists"]) == ["coverage@1", "gini@1"] and cold["lists"]["coverage@1"] > 0


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"cold_users": "rank"},
        {"exclude_seen": False, "max_users": 11},
        {"protocol": "sampled", "negatives": 9},
        {"protocol": "sampled", "negatives": 5, "cold_items": "rank"},
    ],
)
def test_users_one_by_one_have_the_mean_of_all(users, keys):
    config = EvaluateConfig(k=[3, 10], by=["country"], **keys)
    recorder = UserRecorder(averaged_over(config))
    found = evaluate_scorers([scorer(users)], users, config, "test", observers=[recorder])["a"]
    figures = recorder.figures("a", segment_tables(users, config, "test"))
    assert len(figures.ids) == found["users"] and (np.diff(figures.ids) > 0).all()
    for metric in figures.metrics:
        assert figures.mean(metric) == pytest.approx(found[metric], abs=1e-9)
    [table] = figures.tables
    places, slots = table.find(figures.ids)
    assert (places == np.arange(len(figures.ids))).all()
    names = [table.texts[slot].encode() for slot in slots]
    for name, key in zip(names, figures.keys, strict=True):
        country = b"unknown keys" if key == b"new" else b"c" + key[-1:]
        assert name == country or name.startswith(b"all others")


def test_without_detail_there_are_intervals_alone(users):
    config = EvaluateConfig(k=[3], by=["country"])
    found = evaluate_scorers([scorer(users)], users, config, "test")["a"]
    assert set(found["intervals"]) == {"hr@3", "recall@3", "ndcg@3", "mrr"}
    assert "by" not in found and "lists" not in found

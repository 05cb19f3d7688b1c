"""Metrics and protocols equal a brute-force implementation that shares no code with them."""

import collections
import dataclasses
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError, UserError
from configs.sections.evaluation import EvaluateConfig
from tests.support.tiny_dataset import Row, write_dataset
from tests.trainer.data.test_catalog import random_rows
from trainer.data.catalog import Items, Users
from trainer.data.ragged import Ragged
from trainer.evaluation import protocols, ranking
from trainer.evaluation.metrics import full_ranks, user_metrics
from trainer.evaluation.negatives import sample_negatives

pytestmark = pytest.mark.any_python


class Table:
    """Scores from a matrix; few distinct values, so that ties abound."""

    def __init__(self, name: str, matrix: np.ndarray):
        self.name, self.matrix, self.seen = name, matrix, []

    def scores(self, users, items):
        self.seen.append(users)
        rows = self.matrix[users.ids]
        return rows.copy() if items is None else np.take_along_axis(rows, items, axis=1)


def table(name: str, users: Users, levels: int, seed: int = 0) -> Table:
    shape = (users.dataset.table_rows("user"), users.items.rows)
    return Table(name, np.random.default_rng(seed).integers(levels, size=shape).astype(np.float32))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    cold = [Row(b"new", b"i1", "test"), Row(b"u2", b"fresh", "test"), Row(b"u2", b"fresh2", "valid")]
    only_cold = [Row(b"late", b"i3", "train"), Row(b"late", b"fresh", "test")]
    nothing_left = [Row(b"again", b"i2", "train"), Row(b"again", b"i2", "test")]
    return random_rows(3, users=40, items=35, number=500) + cold + only_cold + nothing_left


@pytest.fixture(scope="module")
def users(rows, tmp_path_factory) -> Users:
    dataset = write_dataset(str(tmp_path_factory.mktemp("ranking")), rows, block_rows=16, history_length=4)
    return Users(dataset, Items.load(dataset))


def rank(of_target: float, of_others: list[float]) -> float:
    return 1 + sum(s > of_target for s in of_others) + sum(s == of_target for s in of_others) / 2


def one_user(ranks: list[float], number: int, cutoffs: list[int]) -> dict[str, float]:
    result = {}
    for k in cutoffs:
        hits = [r for r in ranks if r <= k]
        result[f"hr@{k}"] = 1.0 if hits else 0.0
        result[f"recall@{k}"] = len(hits) / number
        ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, number) + 1))
        result[f"ndcg@{k}"] = sum(1 / math.log2(r + 1) for r in hits) / ideal
    result["mrr"] = 1 / min(ranks) if ranks else 0.0
    return result


def brute_force(rows, users, scorer, config, split, negatives=None) -> dict[str, float]:
    """Means over users (full) or targets (sampled), from the raw interactions."""
    items = users.items
    number_of = {items.keys[i]: int(i) for i in items.ids}
    user_of = {key: int(i) for block in users.blocks() for i, key in zip(block.ids, block.keys, strict=True)}
    earlier_splits = {"valid": ("train",), "test": ("train", "valid")}[split]
    of_user = collections.defaultdict(list)
    for row in rows:
        of_user[row.user].append(row)
    values = []
    for key, mine in of_user.items():
        if not any(row.split == "train" for row in mine):
            continue
        now = [row.item for row in mine if row.split == split]
        cold = sum(item not in number_of for item in now)
        targets = {number_of[item] for item in now if item in number_of}
        seen = {number_of[row.item] for row in mine if row.split in earlier_splits and row.item in number_of}
        scores = scorer.matrix[user_of[key]]
        if config.protocol == "sampled":
            others = [float(scores[i]) for i in negatives[user_of[key]]] if targets else []
            for item in targets:
                values.append(one_user([rank(scores[item], others)], 1, config.k))
            values += [one_user([], 1, config.k)] * cold
            continue
        excluded = seen if config.exclude_seen else set()
        targets -= excluded
        allowed = [int(i) for i in items.ids if i not in excluded]
        ranks = [rank(scores[t], [scores[i] for i in allowed if i != t]) for t in targets]
        if ranks or cold:
            values.append(one_user(ranks, len(ranks) + cold, config.k))
    return {name: sum(v[name] for v in values) / len(values) for name in values[0]} | {"number": len(values)}


def close(result: dict, expected: dict, names) -> None:
    for name in names:
        assert result[name] == pytest.approx(expected[name], abs=1e-12), name


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_full_protocol_equals_brute_force(rows, users, split, exclude_seen, levels):
    config = EvaluateConfig(k=[1, 3, 10, 100], exclude_seen=exclude_seen)
    scorers = [table("a", users, levels, 1), table("b", users, levels, 2)]
    results = ranking.evaluate_scorers(scorers, users, config, split)
    for scorer in scorers:
        expected = brute_force(rows, users, scorer, config, split)
        names = [f"{m}@{k}" for m in ("hr", "recall", "ndcg") for k in config.k] + ["mrr"]
        close(results[scorer.name], expected, names)
        assert results[scorer.name]["users"] == expected["number"]


@pytest.mark.parametrize("levels", [2, 1000])
@pytest.mark.parametrize("number", [1, 10, 100])
def test_sampled_protocol_equals_brute_force(rows, users, number, levels):
    config = EvaluateConfig(protocol="sampled", negatives=number, k=[1, 5], seed=4)
    negatives = {}
    for block in users.blocks():
        drawn = sample_negatives(block.ids, users.view(block, "test").touched, users.items, number, 4)
        negatives |= {int(u): drawn.take(np.array([i])).values for i, u in enumerate(block.ids)}
    scorer = table("a", users, levels)
    result = ranking.evaluate_scorers([scorer], users, config, "test")["a"]
    expected = brute_force(rows, users, scorer, config, "test", negatives)
    close(result, expected, ["hr@1", "hr@5", "ndcg@1", "ndcg@5", "mrr"])
    assert result["targets"] == expected["number"] and "recall@5" not in result


def test_counts_and_protocol_are_stated(rows, users):
    results = ranking.evaluate_scorers([table("a", users, 9)], users, EvaluateConfig(), "test")["a"]
    train = {row.user for row in rows if row.split == "train"}
    fresh = {row.item for row in rows} - {row.item for row in rows if row.split == "train"}
    test = [row for row in rows if row.split == "test"]
    assert results["cold_targets"] == sum(row.item in fresh and row.user in train for row in test) >= 2
    assert results["cold_user_rows"] == sum(row.user not in train for row in test) >= 1
    assert results["seconds"] > 0
    text = results["protocol"]
    for part in ("full", f"{len(users.items.ids)} catalog items", "train and valid", "ties", "all users"):
        assert part in text
    assert "\n" not in text
    config = EvaluateConfig(protocol="sampled", negatives=7, max_users=5, seed=3)
    results = ranking.evaluate_scorers([table("a", users, 9)], users, config, "valid")["a"]
    assert results["users"] == 5
    for part in ("sampled", "7 uniform, distinct", "seed 3", "valid", "5 users"):
        assert part in results["protocol"]


@pytest.mark.parametrize("number", [3, 1000])
def test_the_protocol_says_when_there_are_fewer_negatives_than_asked_for(rows, users, number):
    config = EvaluateConfig(protocol="sampled", negatives=number, k=[1])
    scorer = table("model", users, 1000)
    protocol = ranking.evaluate_scorers([scorer], users, config, "test")["model"]["protocol"]
    left = []
    for block in users.of_split("test", None, 0):
        view = users.view(block, "test")
        drawn = sample_negatives(block.ids, view.touched, users.items, 1000, config.seed)
        left += drawn.lengths[view.targets.lengths + view.cold.lengths > 0].tolist()
    short = sum(n < number for n in left)
    assert (short > 0) == (number == 1000)
    stated = f"{short} users had fewer such items, down to {min(left)};"
    assert (stated in protocol) == (short > 0) == ("fewer" in protocol)


def test_results_do_not_depend_on_batches(users, monkeypatch):
    for config in (EvaluateConfig(), EvaluateConfig(protocol="sampled", negatives=9)):
        scorer = table("a", users, 50)
        whole = ranking.evaluate_scorers([scorer], users, config, "test")["a"]
        with monkeypatch.context() as patch:
            patch.setattr(ranking, "_MAX_BATCH", 3)
            parts = ranking.evaluate_scorers([scorer], users, config, "test")["a"]
        names = [name for name, value in whole.items() if isinstance(value, float) and name != "seconds"]
        close(parts, whole, names)


def test_scorers_see_the_past_only(rows, users):
    scorer = table("a", users, 9)
    ranking.evaluate_scorers([scorer], users, EvaluateConfig(), "valid")
    number_of = {users.items.keys[i]: int(i) for i in users.items.ids}
    for batch in scorer.seen:
        for key, history in zip(batch.keys, batch.history, strict=True):
            mine = [row for row in rows if row.user == key and row.split == "train"]
            newest = [number_of[row.item] for row in mine][-4:]
            assert list(history) == newest + [-1] * (4 - len(newest))


def test_scorers_answers_are_checked(users):
    matrix = table("a", users, 9).matrix
    matrix[:, 0] = np.nan
    with pytest.raises(UserError, match="NaN"):
        ranking.evaluate_scorers([Table("bad", matrix)], users, EvaluateConfig(), "test")
    with pytest.raises(ValueError, match="shape"):
        ranking.evaluate_scorers([Table("bad", matrix[:, :-1])], users, EvaluateConfig(), "test")


def test_minus_infinity_is_a_low_score_not_an_exclusion(users):
    low, lowest = table("a", users, 4), table("b", users, 4)
    low.matrix[low.matrix == 0] = -5
    lowest.matrix[lowest.matrix == 0] = -np.inf
    results = ranking.evaluate_scorers([low, lowest], users, EvaluateConfig(), "test")
    assert results["a"]["mrr"] == results["b"]["mrr"] and results["a"]["ndcg@10"] == results["b"]["ndcg@10"]


def test_a_read_only_answer_is_not_written_to(users):
    class Constant:
        name = "constant"
        row = np.zeros(users.items.rows, np.float32)

        def scores(self, batch, items):
            return np.broadcast_to(self.row, (len(batch), users.items.rows))

    ranking.evaluate_scorers([Constant()], users, EvaluateConfig(), "test")
    assert (Constant.row == 0).all()


def test_nobody_to_evaluate_is_an_error(tmp_path):
    dataset = write_dataset(str(tmp_path), [Row(b"a", b"x", "train"), Row(b"b", b"x", "test")])
    users = Users(dataset, Items.load(dataset))
    with pytest.raises(DataError, match="no users to evaluate.*its 1 rows: 1 users .1 rows. without"):
        ranking.evaluate_scorers([table("a", users, 2)], users, EvaluateConfig(), "test")


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 4), st.integers(1, 15))
def test_full_ranks_are_exact_where_a_metric_can_tell(data, items, levels, top):
    drawn = data.draw(st.lists(st.integers(0, levels), min_size=2 * items, max_size=2 * items))
    scores = np.array(drawn, np.float32).reshape(2, items)
    chosen = [data.draw(st.lists(st.integers(0, items - 1), unique=True)) for _ in range(2)]
    targets = Ragged(np.array(chosen[0] + chosen[1], np.int64), np.array([len(c) for c in chosen]))
    ranks, lists = full_ranks(scores, targets, top)
    for row in range(2):
        assert lists[row].tolist() == sorted(range(items), key=lambda i: (-scores[row, i], i))[:top]
        mine = ranks[targets.row_of_value == row]
        exact = np.array([rank(scores[row, i], np.delete(scores[row], i).tolist()) for i in chosen[row]])
        if len(exact):
            assert mine.min() == exact.min()
            assert (np.where(exact <= top, exact, 0) == np.where(mine <= top, mine, 0)).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1, 40), max_size=12), st.integers(0, 5), st.integers(1, 15))
def test_user_metrics_equal_loops(ranks, missed, k):
    number = len(ranks) + missed
    found = user_metrics(Ragged(np.array(ranks), np.array([len(ranks)])), np.array([number]), [k])
    expected = one_user(ranks, number, [k]) if number else {name: 0.0 for name in found}
    assert {name: float(v[0]) for name, v in found.items()} == pytest.approx(expected)


def items_of(number: int) -> Items:
    """A catalog of `number` items amid a larger table."""
    rows = 2 * number + 1
    return Items(rows, np.arange(number) * 2 + 1, np.full(rows, b"", object), np.zeros(rows, np.int64), {})


def test_negatives_are_distinct_untouched_and_stable():
    items, random = items_of(60), np.random.default_rng(0)
    rows = [items.ids[np.sort(random.choice(60, n, replace=False))] for n in random.integers(0, 61, size=50)]
    touched = Ragged(np.concatenate(rows), np.array([len(row) for row in rows]))
    ids = np.arange(50) * 7
    drawn = sample_negatives(ids, touched, items, 20, seed=1)
    for i, row in enumerate(rows):
        mine = drawn.take(np.array([i])).values
        assert len(set(mine)) == len(mine) == min(20, 60 - len(row))
        assert not set(mine) & set(row) and set(mine) <= set(items.ids)
    order = random.permutation(50)
    again = sample_negatives(ids[order], touched.take(order), items, 20, seed=1)
    assert (again.values == drawn.take(order).values).all()
    other = sample_negatives(ids, touched, items, 20, seed=2)
    assert (other.values != drawn.values).mean() > 0.5


@pytest.mark.parametrize("number", [2, 5, 37, 1000])
def test_negatives_are_uniform(number):
    items, users = items_of(number), 200_000 // number
    nothing = Ragged(np.zeros(0, np.int64), np.zeros(users, np.int64))
    for draws in (1, max(1, number // 4)):
        drawn = sample_negatives(np.arange(users), nothing, items, draws, seed=0).values
        counts = np.bincount(drawn, minlength=items.rows)[items.ids]
        expected = users * draws / number
        chi_square = ((counts - expected) ** 2 / expected).sum() / (1 - draws / number)
        assert abs(chi_square - (number - 1)) < 5 * math.sqrt(2 * number)


def test_many_items_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(protocols.FullRanking, "cells", 1 << 20)
    rows = [Row(b"u%d" % u, b"i%d" % u, s) for u in range(64) for s in ("train", "test")]
    dataset = write_dataset(str(tmp_path), rows, block_rows=64)
    items = items_of(100_000)
    users = Users(dataset, items)

    class Noise:
        name = "noise"

        def scores(self, batch, candidates):
            return np.random.default_rng(0).standard_normal((len(batch), items.rows), np.float32)

    tracemalloc.start()
    config = EvaluateConfig(exclude_seen=False)
    ranking.evaluate_scorers([Noise()], users, config, "test")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 4 * (1 << 20)  # all users at once would need 51 MB for the scores alone


def test_cold_items_can_be_ranked_by_the_out_of_vocabulary_row(users):
    """Negatives then come from all items of the data, and cold targets compete like any other."""
    config = EvaluateConfig(protocol="sampled", negatives=30, k=[10], cold_items="rank")
    oov = users.items.shared_row
    cold = dataclasses.replace(users.items, cold=200)
    pool = Users(users.dataset, cold)
    lucky = np.zeros([users.dataset.table_rows("user"), users.items.rows], np.float32)
    lucky[:, oov] = 1.0
    result = ranking.evaluate_scorers([Table("oov", lucky)], pool, config, "test")["oov"]
    assert result["cold_targets"] == 0 and "200 without train rows" in result["protocol"]
    ids = np.arange(10)
    touched = Ragged(np.zeros(0, np.int64), np.zeros(10, np.int64))
    drawn = sample_negatives(ids, touched, cold, 235, 0, cold=200)
    share = np.mean(drawn.values == oov)
    assert abs(share - 200 / (200 + len(cold.ids))) < 0.01
    missed = ranking.evaluate_scorers(
        [Table("oov", lucky)], users, EvaluateConfig(protocol="sampled"), "test"
    )
    assert missed["oov"]["cold_targets"] > 0

"""Models in closed form against NumPy written from the papers, and the part of `bench peers`."""

import numpy as np
import pytest
import yaml

from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.tiny_run import planted_document, write_planted
from tests.trainer.bench.test_optimizers import bench_run, parsed
from trainer.bench.cases.closed_form import Ease, ItemKnn, TrainItems
from trainer.bench.parts import closed_form
from trainer.data.catalog import Items, Users
from trainer.evaluation.protocols import UserBatch

pytestmark = pytest.mark.any_python


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """(TrainItems, a batch of its users, their rows as a matrix of 0 and 1)."""
    path = str(tmp_path_factory.mktemp("closed_form"))
    write_planted(path)
    dataset = load_dataset(parse_config(planted_document(path), "test").dataset.path)
    items = Items.load(dataset)
    users = Users(dataset, items)
    [block] = [*users.of_split("test")]
    view = users.view(block, "test")
    matrix = np.zeros([len(block), items.rows])
    all_rows = {}
    for whole in users.blocks():
        for row, user in enumerate(whole.ids):
            one = whole.take(np.array([row]))
            has = np.unique(one.sequence.values[one.splits.values == 0])
            all_rows[user] = has[items.known[has]]
    for row, user in enumerate(block.ids):
        matrix[row, all_rows[user]] = 1
    everyone = np.zeros([len(all_rows), items.rows])
    for row, has in enumerate(all_rows.values()):
        everyone[row, has] = 1
    batch = UserBatch(block.ids, block.keys, view.history, block.features, view.seen)
    return TrainItems(dataset, items), batch, matrix, everyone


def test_users_that_share_items_are_counted(planted, monkeypatch):
    train, batch, matrix, everyone = planted
    expected = everyone.T @ everyone
    for size in (1 << 24, 40):
        monkeypatch.setattr("trainer.bench.cases.closed_form._CODES", size)
        codes, both = train.pairs()
        found = np.zeros(expected.size)
        found[codes] = both
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    rows = train.of(batch)
    np.testing.assert_array_equal(matrix.sum(axis=1), rows.lengths)
    assert matrix[rows.row_of_value, rows.values].all()


def test_ease(planted):
    train, batch, matrix, everyone = planted
    some = np.flatnonzero(everyone.any(axis=0))
    inverse = np.linalg.inv(everyone[:, some].T @ everyone[:, some] + 3.0 * np.eye(len(some)))
    weights = np.eye(len(some)) - inverse @ np.diag(1 / np.diag(inverse))
    expected = matrix[:, some] @ weights
    found = Ease(train, 3.0, 10_000).scores(batch, None)
    np.testing.assert_allclose(found[:, some], expected, atol=1e-4)
    others = np.setdiff1d(np.arange(train.number), some)
    assert (found[:, others] < expected.min()).all()
    candidates = np.tile(some[:3], [len(batch), 1])
    np.testing.assert_array_equal(Ease(train, 3.0, 10_000).scores(batch, candidates), found[:, some[:3]])


def test_ease_of_the_most_frequent_items(planted):
    train, batch, matrix, everyone = planted
    counts = everyone.sum(axis=0)
    some = np.sort(np.argsort(-counts, kind="stable")[:5])
    inverse = np.linalg.inv(everyone[:, some].T @ everyone[:, some] + 3.0 * np.eye(5))
    weights = np.eye(5) - inverse / np.diag(inverse)
    found = Ease(train, 3.0, 5).scores(batch, None)
    np.testing.assert_allclose(found[:, some], matrix[:, some] @ weights, atol=1e-5)
    others = np.setdiff1d(np.arange(train.number), some)
    assert found[:, others].max() < found[:, some].min()


def test_neighbours_of_items(planted):
    """Item by item, as in RecBole: each keeps its most similar ones."""
    train, batch, matrix, everyone = planted
    length = np.sqrt((everyone**2).sum(axis=0))
    expected = np.zeros(matrix.shape)
    similar = np.zeros([train.number] * 2)
    for i, j in np.argwhere(everyone.T @ everyone):
        if i != j:
            similar[i, j] = everyone[:, i] @ everyone[:, j] / (length[i] * length[j] + 2.0)
    for j in range(train.number):
        # Of equally similar ones, those with the smallest ids.
        kept = np.argsort(-similar[:, j], kind="stable")[:4]
        expected[:, j] = matrix[:, kept] @ similar[kept, j]
    found = ItemKnn(train, 4, 2.0).scores(batch, None)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    candidates = np.tile(np.array([2, 0]), [len(batch), 1])
    np.testing.assert_allclose(
        ItemKnn(train, 4, 2.0).scores(batch, candidates), expected[:, [2, 0]], atol=1e-6
    )


def test_the_part_compares_a_config_with_both(tmp_path):
    write_planted(str(tmp_path))
    path = tmp_path / "planted.yaml"
    path.write_text(yaml.safe_dump(planted_document(str(tmp_path))))
    args = ["--parts", "closed_form", "--turns", "1", "--config", str(path), "--output", str(tmp_path)]
    grid = ["--ease_l2", "1", "1e6", "--neighbours", "3", "20", "--shrinkages", "0"]
    assert bench_run("peers", *args, *grid) == 0
    rows = {row["by"]: row for row in parsed(tmp_path / "peers_closed_form.csv")}
    assert list(rows) == ["lazytower", "item_knn", "ease"]
    for row in rows.values():
        assert 0 < float(row["recall"]) <= 1 and 0 < float(row["ndcg"]) <= 1
        assert float(row["x_ndcg"]) == pytest.approx(
            float(rows["lazytower"]["ndcg"]) / float(row["ndcg"]), abs=0.01
        )
    assert rows["ease"]["settings"] in ("l2 1", "l2 1e+06")


def test_the_best_setting_on_valid_is_taken():
    class Contest(closed_form._Contest):
        def figures(self, scorer, split):
            return {"ndcg@7": scorer[split], "recall@7": scorer[split]}

    class Options:
        k = [3, 7]

    grid = {
        "a": lambda: {"valid": 0.2, "test": 0.1},
        "b": lambda: {"valid": 0.3, "test": 0.05},
        "c": lambda: {"valid": 0.1, "test": 0.9},
    }
    row = Contest(None, None, Options()).best("x", grid)
    assert (row["settings"], row["valid_ndcg"], row["ndcg"], row["at"]) == ("b", 0.3, 0.05, 7)


def test_without_a_config_the_part_is_skipped():
    from trainer import cli

    assert closed_form.measure(cli.parse(["lazytower", "bench", "peers"])) == []

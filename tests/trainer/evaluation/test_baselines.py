"""Popularity is the floor, the planted model the ceiling."""

import numpy as np
import pytest

from configs.errors import DataError
from configs.planted.interactions import Planted, index_of_key, item_key, user_key
from configs.sections.evaluation import EvaluateConfig
from configs.sections.source_kinds.synthetic import SyntheticSourceConfig
from tests.support.tiny_dataset import Row, write_dataset
from trainer.data.catalog import Items, Users
from trainer.evaluation.baselines import BestReachable, Popularity
from trainer.evaluation.protocols import UserBatch
from trainer.evaluation.ranking import evaluate_scorers

pytestmark = pytest.mark.any_python

SOURCE = SyntheticSourceConfig(
    kind="synthetic", rows=12_000, users=600, items=150, clusters=12, sharpness=3.0
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A planted dataset, leave last out."""
    drawn_users, drawn_items, _ = Planted(SOURCE).rows(0, SOURCE.rows)
    last = {user: row for row, user in enumerate(drawn_users)}
    keys = zip(user_key(drawn_users).tolist(), item_key(drawn_items).tolist(), strict=True)
    rows = [
        Row(user, item, "test" if last[drawn_users[row]] == row else "train")
        for row, (user, item) in enumerate(keys)
    ]
    path = str(tmp_path_factory.mktemp("planted"))
    return write_dataset(path, rows, block_rows=4096, source=SOURCE.model_dump())


class Noisy:
    """The best ranking with Gaussian noise on its scores."""

    def __init__(self, best: BestReachable, deviation: float):
        self.name, self.best, self.deviation = f"noisy_{deviation}", best, deviation

    def scores(self, users, items):
        scores = self.best.scores(users, items)
        noise = np.random.default_rng(int(users.ids[0])).standard_normal(scores.shape)
        return scores + self.deviation * noise.astype(np.float32)


@pytest.mark.parametrize("protocol", ["full", "sampled"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_nothing_beats_the_planted_model(planted, protocol, exclude_seen):
    items = Items.load(planted)
    best = BestReachable(planted, items)
    scorers = [best, Noisy(best, 1.0), Noisy(best, 4.0), Popularity(items)]
    config = EvaluateConfig(protocol=protocol, negatives=50, exclude_seen=exclude_seen, k=[10])
    results = evaluate_scorers(scorers, Users(planted, items), config, "test")
    for metric in ("hr@10", "ndcg@10", "mrr"):
        of_best, of_noisy, of_noisier, of_popularity = (results[s.name][metric] for s in scorers)
        assert of_best > of_noisy > of_noisier
        assert of_best > 1.1 * of_popularity


def test_best_reachable_is_the_planted_log_probability(planted):
    items = Items.load(planted)
    users = next(Users(planted, items).blocks())
    batch = UserBatch(users.ids, users.keys, np.zeros((len(users), 0), np.int64), {})
    expected = Planted(SOURCE).scores(index_of_key(users.keys), index_of_key(items.keys[items.ids]))
    best = BestReachable(planted, items)
    found = best.scores(batch, None)
    assert found.dtype == np.float32 and found.shape == (len(users), items.rows)
    np.testing.assert_allclose(found[:, items.ids], expected, rtol=2e-6)
    candidates = np.random.default_rng(0).choice(items.ids, (len(users), 7))
    np.testing.assert_array_equal(
        best.scores(batch, candidates), np.take_along_axis(found, candidates, axis=1)
    )


def test_best_reachable_needs_planted_data_with_exact_ids(tmp_path):
    rows = [Row(b"u0", b"i0", "train"), Row(b"u0", b"i1", "test")]
    other = write_dataset(str(tmp_path / "other"), rows)
    source = SOURCE.model_dump()
    hashed = write_dataset(str(tmp_path / "hashed"), rows, hashed={"item": 8}, source=source)
    for dataset in (other, hashed):
        assert not BestReachable.available(dataset)
        with pytest.raises(DataError, match="synthetic data with ids of kind vocab"):
            BestReachable(dataset, Items.load(dataset))


def test_popularity_orders_by_train_rows(planted):
    items = Items.load(planted)
    batch = UserBatch(np.arange(2), np.array([b"u0", b"u1"], object), np.zeros((2, 0), np.int64), {})
    found = Popularity(items).scores(batch, None)
    assert (np.diff(items.counts[np.argsort(-found[1], kind="stable")]) <= 0).all()
    same = items.counts[:, None] == items.counts[None, :]
    assert ((found[0][:, None] == found[0][None, :]) == same).all()
    found[0] = 0  # an answer is the caller's to overwrite
    candidates = np.array([[0, 3], [2, 1]])
    np.testing.assert_array_equal(
        Popularity(items).scores(batch, candidates)[1], Popularity(items).scores(batch, None)[1, [2, 1]]
    )

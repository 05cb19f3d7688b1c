"""From a file without an order to a served model: its answers are those that the evaluation ranked."""

import random

import numpy as np
import pytest
import tensorflow as tf

from configs.load import parse_config
from pipelines.prepare import prepare
from tests.support.replays import export_here
from trainer.data.catalog import Users
from trainer.evaluation.ranking import evaluate_scorers
from trainer.evaluation.scorer import TrainedScorer
from trainer.evaluation.trained import open_trained

pytestmark = pytest.mark.slow
ITEMS, LENGTH = 30, 4


class Recorded:
    """A scorer that keeps what it was asked and what it answered, by user."""

    def __init__(self, scorer):
        self.name, self._scorer, self.found = "recorded", scorer, {}

    def scores(self, users, items):
        scores = self._scorer.scores(users, items)
        for key, history, row in zip(users.keys, users.history, scores, strict=True):
            self.found[key] = [int(item) for item in history if item >= 0], row.copy()
        return scores


@pytest.fixture(scope="module")
def raw() -> list[tuple[str, str, str]]:
    """(user, item, split), sorted by item. In test, users with even numbers have only items that are not in
    train; the others have valid rows and repeat train items."""
    draw, rows = random.Random(3), []
    for user in range(24):
        mine = [draw.randrange(ITEMS) for _ in range(draw.randint(1, 12))]
        rows += [(f"u{user}", f"i{item:02d}", "train") for item in mine]
        if user % 2:
            for split in ("valid", "test"):
                more = [*draw.choices(range(ITEMS), k=3), mine[0]]
                rows += [(f"u{user}", f"i{item:02d}", split) for item in more]
        else:
            rows += [(f"u{user}", f"fresh {draw.randrange(4)}", "test")]
    return sorted(rows, key=lambda row: row[1])


@pytest.fixture(scope="module")
def chain(raw, tmp_path_factory):
    """(evaluation by user, items, loaded SavedModel)."""
    from trainer.training.run import train

    directory = tmp_path_factory.mktemp("unordered")
    lines = [",".join(row) + "\n" for row in raw]
    (directory / "rows.csv").write_text("user,item,split\n" + "".join(lines))
    document = {
        "source": {
            "kind": "delimited",
            "paths": [str(directory / "rows.csv")],
            "roles": {"split": "split"},
        },
        "dataset": {
            "path": str(directory / "dataset"),
            "split": {"kind": "given"},
            "history_length": LENGTH,
            "history_of": "others",
        },
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["user", "history"], "layers": [8]},
            "item_tower": {"inputs": ["item"], "layers": [9]},
        },
        "train": {"batch_size": 16, "num_steps": 20},
        "evaluate": {"k": [5]},
        "output": {"path": str(directory / "run")},
    }
    config = parse_config(document, "unordered")
    assert prepare(config.source, config.dataset).history_of == "others"
    train(config)
    trained = open_trained(config)
    scorer = Recorded(TrainedScorer(trained.recommender, trained.items, True, trained.step))
    with trained.reading:
        figures = evaluate_scorers([scorer], Users(trained.dataset, trained.items), config.evaluate, "test")
    assert len(scorer.found) == 24 and figures["recorded"]["users"] > 12
    return scorer.found, trained.items, tf.saved_model.load(export_here(config))


def _scores(model, user: bytes, history=None) -> dict[bytes, float]:
    more = {} if history is None else {"history": tf.constant([history])}
    answer = model.recommend(tf.constant([user]), k=ITEMS, exclude_seen=tf.constant(False), **more)
    items, scores = answer["items"].numpy()[0], answer["scores"].numpy()[0]
    return {item: score for item, score in zip(items, scores, strict=True) if item}


def test_evaluation_reads_train_items_alone(raw, chain):
    evaluated, items, _ = chain
    for user, (history, _) in evaluated.items():
        train = {item.encode() for name, item, split in raw if name.encode() == user and split == "train"}
        found = [items.keys[item] for item in history]
        assert len(found) == len(set(found)) == min(len(train), LENGTH) and set(found) <= train
    assert max(len(history) for history, _ in evaluated.values()) == LENGTH


def test_a_known_user_without_later_rows_is_served_what_was_evaluated(chain):
    evaluated, items, model = chain
    for user, (_, expected) in evaluated.items():
        if int(user[1:]) % 2 == 0:
            found = _scores(model, user)
            assert len(found) == len(items.ids)
            for item in items.ids:
                np.testing.assert_allclose(found[items.keys[item]], expected[item], rtol=1e-4, atol=1e-5)


def test_the_history_of_a_request_is_that_of_the_evaluation(chain):
    evaluated, items, model = chain
    differs = 0
    for user, (history, expected) in evaluated.items():
        found = _scores(model, user, [items.keys[item] for item in reversed(history)])
        served = _scores(model, user)
        for item in items.ids:
            np.testing.assert_allclose(found[items.keys[item]], expected[item], rtol=1e-4, atol=1e-5)
            differs += abs(served[items.keys[item]] - expected[item]) > 1e-3
    assert differs  # users with valid and test rows are served with them

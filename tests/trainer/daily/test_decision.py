"""Which models are accepted, and by which figures."""

import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from trainer.daily.decision import compared_figure, day_metric, decide

pytestmark = pytest.mark.any_python


def config(day: dict | None = None, **sections):
    document = {
        "source": {"kind": "synthetic", "rows": 10, "users": 2, "items": 2},
        "dataset": {"path": "data"},
        "train": {"num_steps": 1},
        "output": {"path": "run"},
        "day": day or {},
    }
    return parse_config(document | sections, "test")


def clicks(tasks: list | None = None, day: dict | None = None):
    source = {"kind": "synthetic_clicks", "rows": 10}
    return config(day, source=source, model={"kind": "ranking"} | ({"tasks": tasks} if tasks else {}))


@pytest.mark.parametrize(
    ("higher", "new", "served", "accepted", "words"),
    [
        (True, 0.20, 0.20, True, "not worse"),
        (True, 0.30, 0.20, True, "not worse"),
        (True, 0.197, 0.20, True, "worse by 1.5%, within day.tolerance 2.0%"),
        (True, 0.195, 0.20, False, "worse by 2.5%, day.tolerance is 2.0%"),
        (False, 0.19, 0.20, True, "not worse"),
        (False, 0.203, 0.20, True, "worse by 1.5%, within"),
        (False, 0.21, 0.20, False, "worse by 5.0%"),
        (True, 0.0, 0.0, True, "not worse"),
        (True, 0.1, 0.0, True, "not worse"),
        (False, 0.1, 0.0, False, "worse by inf%"),
        (True, -0.1, -0.2, True, "not worse"),
        (True, -0.3, -0.2, False, "worse by 50.0%"),
        (True, None, 0.2, False, "undefined, the served model 0.2000 on the same rows: they cannot be"),
        (True, 0.2, None, False, "they cannot be compared"),
    ],
)
def test_decisions(higher, new, served, accepted, words):
    found = decide("m", higher, new, served, 0.02, is_first=False)
    assert found.accepted == accepted and words in found.reason


def test_the_first_model_is_accepted():
    assert decide("ndcg@10", True, 0.1, None, 0.0, is_first=True) == (
        True,
        "the first model: ndcg@10 0.1000",
    )


def test_metrics():
    assert day_metric(config()) == ("ndcg@10", True)
    assert day_metric(config(evaluate={"k": [5, 20]})) == ("ndcg@5", True)
    assert day_metric(config({"metric": "mrr"})) == ("mrr", True)
    assert day_metric(clicks()) == ("log_loss", False)
    assert day_metric(clicks(day={"metric": "auc"})) == ("auc", True)
    with pytest.raises(ConfigError, match="day.metric: 'auc' is not a metric of this run; known: hr@10"):
        day_metric(config({"metric": "auc"}))


def test_the_figure_is_that_of_the_exported_weights():
    lines = [
        {"scorer": "popularity", "weights": "average", "mrr": 0.9, "protocol": "full"},
        {"scorer": "model", "weights": "average", "mrr": 0.2, "protocol": "full"},
        {"scorer": "model", "weights": "raw", "mrr": 0.1, "protocol": "full"},
    ]
    assert compared_figure(config(), lines, "mrr") == (0.2, "full")
    assert compared_figure(config(export={"weights": "raw"}), lines, "mrr") == (0.1, "full")
    assert compared_figure(config(), lines[2:], "mrr") == (0.1, "full")
    assert compared_figure(config(), [lines[1] | {"mrr": float("nan")}], "mrr") == (None, "full")
    tasks = [{"scorer": "model", "task": t, "weights": "raw", "auc": v, "protocol": "p"} for t, v in _AUCS]
    assert compared_figure(config(), tasks, "buy/auc") == (0.7, "p")


_AUCS = [("click", 0.6), ("buy", 0.7)]

"""Predictions of ranking models in bootstrap samples: as the evaluation has them, for all rows and groups."""

import numpy as np
import pytest

from tests.support.naive_metrics import naive_auc
from tests.support.ranking_dataset import OWNER_ROWS, click_rows
from tests.support.ranking_runs import ROWS, ranking_run
from tests.trainer.evaluation.pointwise.test_evaluator import Given
from trainer.comparison import predictions
from trainer.comparison.differences import differences
from trainer.comparison.groups import EVERYONE
from trainer.comparison.predictions import measure_predictions
from trainer.evaluation.scorer import evaluate_recommender
from trainer.evaluation.segments.tables import NEW
from trainer.evaluation.trained import open_trained

pytestmark = pytest.mark.any_python

BY = ["c2", "tags"]


@pytest.fixture(scope="module")
def trained():
    config = ranking_run("owners")
    evaluate = config.evaluate.model_copy(update={"by": BY, "by_values": 3, "bootstrap": 50})
    found = open_trained(config.model_copy(update={"evaluate": evaluate}))
    yield found
    found.reading.close()


def test_figures_are_those_of_the_evaluation(trained):
    run = measure_predictions(trained, "test")
    lines = evaluate_recommender(
        trained.recommender, trained.dataset, trained.items, trained.step, "test", detail=True
    )
    assert list(run.tables) == ["activity/users", *BY]
    assert [table.title for table in run.tables.values()] == ["train rows of the user", *BY]
    assert {group.task for group in run.figures} == {"click", "buy"}
    for task in ("click", "buy"):
        line = next(line for line in lines if line["task"] == task)
        assert set(run.figures[task, "", EVERYONE].values) == set(line["intervals"])
        same(run.figures[task, "", EVERYONE], line)
        for table in BY:
            mine = [group for group in run.figures if (group.task, group.table) == (task, table)]
            assert [group.name for group in mine] == [one["value"] for one in line["by"][table]]
            for group, one in zip(mine, line["by"][table], strict=True):
                same(run.figures[group], one)


def same(figures, line):
    assert figures.rows == line["rows"]
    for name, value in figures.values.items():
        assert value == pytest.approx(line[name]) if line[name] is not None else np.isnan(value)


def test_differences_equal_naive_ones(monkeypatch, trained):
    """Of two models whose predictions are known, in groups that are found in the raw rows."""
    draw, runs = np.random.default_rng(0), []
    rows = click_rows(ROWS, True)[ROWS * 9 // 10 :]
    given = [draw.random(ROWS).astype(np.float32) for _ in range(2)]
    for made in given:
        model = Given({"click": made, "buy": made}, True)
        monkeypatch.setattr(predictions, "TrainedPredictor", lambda *unused, model=model: model)
        runs.append(measure_predictions(trained, "test"))
    found = {(*one[:3], one.metric): one for one in differences(*runs, 0.95)}
    clicks, times = (np.array([row[name] for row in rows]) for name in ("label", "timestamp"))
    old = np.array([row["user"] != OWNER_ROWS["user"] - 1 for row in rows])  # the catalog lacks one user
    groups = {("", EVERYONE): np.ones(len(rows), bool), ("activity/users", "1"): old}
    groups["activity/users", NEW] = ~old
    tagged = {tag: np.array([tag in row["tags"] for row in rows]) for tag in range(7)}
    site = {value: np.array([row["c2"] == value for row in rows]) for value in range(5)}
    for table, values in (("c2", site), ("tags", tagged)):
        best = sorted(values, key=lambda value: -values[value].sum())[:3]
        groups |= {(table, f"{table}:{value}"): values[value] for value in best}
        others = [mine for value, mine in values.items() if value not in best]
        groups[table, "all others"] = np.any(others, axis=0)
    assert {group[1:] for group in runs[0].figures} == set(groups)
    for (table, name), mine in groups.items():
        labels, made = clicks[mine], [predicted[times][mine].astype(float) for predicted in given]
        losses = [-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)) for p in made]
        difference = found["click", table, name, "log_loss"]
        assert (difference.number, difference.won) == (mine.sum(), None)
        assert difference.by == pytest.approx(losses[1] - losses[0], abs=1e-9)
        if 0 < labels.mean() < 1:
            areas = [naive_auc(labels, p, np.ones(len(p))) for p in made]
            assert found["click", table, name, "auc"].by == pytest.approx(areas[1] - areas[0], abs=1e-9)
        else:
            assert ("click", table, name, "auc") not in found


def test_a_model_beside_itself(trained):
    run = measure_predictions(trained, "test")
    found = differences(run, run, 0.95)
    assert {(one.task, one.table) for one in found} == {
        (task, table) for task in ("click", "buy") for table in ("", *run.tables)
    }
    assert all(one.by == 0 and one.interval in (None, [0.0, 0.0]) for one in found)

"""Predictions of ranking models in bootstrap samples: as the evaluation has them, for all rows and groups."""

import numpy as np
import pytest

from tests.support.ranking_runs import ranking_run
from trainer.comparison.differences import differences
from trainer.comparison.groups import EVERYONE, UserGroups
from trainer.comparison.predictions import measure_predictions
from trainer.evaluation.scorer import evaluate_recommender
from trainer.evaluation.trained import open_trained

pytestmark = pytest.mark.any_python


@pytest.fixture(scope="module")
def trained():
    found = open_trained(ranking_run("owners"))
    yield found
    found.reading.close()


def test_values_and_intervals_are_those_of_the_evaluation(trained):
    run = measure_predictions(trained, "test")
    lines = evaluate_recommender(
        trained.recommender, trained.dataset, trained.items, trained.step, "test", detail=False
    )
    tasks = [task.name for task in trained.config.model.tasks]
    assert len(tasks) == 2
    for task in tasks:
        line = next(line for line in lines if line["task"] == task)
        figures = run.figures[task, EVERYONE]
        assert figures.rows == line["rows"]
        assert set(figures.values) == set(line["intervals"])
        for name, value in figures.values.items():
            assert line[name] is None or value == pytest.approx(line[name])


def test_groups_share_the_rows(trained):
    """Any division of users can take the place of their activity."""

    def parity(users, ids):
        return UserGroups("parity", ["even", "odd"], ids, np.arange(len(ids)) % 2)

    run = measure_predictions(trained, "test", parity)
    assert {group for _, group in run.figures} == {EVERYONE, "even", "odd"}
    for task in ("click", "buy"):
        parts = [f.rows for (of, group), f in run.figures.items() if of == task and group != EVERYONE]
        assert sum(parts) == run.figures[task, EVERYONE].rows and len(parts) == 2


def test_a_model_beside_itself(trained):
    run = measure_predictions(trained, "test")
    found = [one for one in differences(run, run, 0.95) if one.group == EVERYONE]
    assert {one.task for one in found} == {"click", "buy"}
    assert all(one.by == 0 and one.interval in (None, [0.0, 0.0]) for one in found)

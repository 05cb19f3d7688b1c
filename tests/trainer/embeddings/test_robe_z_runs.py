"""Whole runs with compressed tables, chosen by config alone: train, resume, evaluate, export."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import CheckpointError
from configs.load import parse_config
from configs.schema import RunConfig
from tests.support.checkpoint_state import newest_state
from tests.support.replays import export_here
from tests.support.tiny_run import planted_document, tiny_export, tiny_run, write_planted
from trainer.commands import evaluate
from trainer.evaluation.trained import open_trained
from trainer.report.metrics_file import read_metrics
from trainer.training.run import train

pytestmark = pytest.mark.any_python

ROBE = {"kind": "robe_z", "dim": 8, "block": 4, "size": 400, "optimizer": {"learning_rate": 0.02}}
MODELS = {
    # No layers for items: the softmax does not see their last bias, and Adam turns its rounding into steps.
    "two_tower": {"kind": "two_tower", "user_tower": {"inputs": ["user", "history"], "layers": [12, 8]}},
    "dot_bias": {"kind": "dot_bias", "negatives": 3},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("planted")
    write_planted(str(directory))
    return directory


def configured(place, model: str, output: str | None = None, **options) -> RunConfig:
    """The planted run of a model, with both tables compressed."""
    document = planted_document(str(place))
    document["output"]["path"] = str(place / (output or model))
    document["model"] = MODELS[model]
    document["tables"] = {name: {**ROBE, **options} for name in ("user", "item")}
    return parse_config(document, "test")


@pytest.fixture(scope="module", params=MODELS)
def trained(place, request):
    """An undisturbed run."""
    config = configured(place, request.param)
    train(config)
    return request.param, config


def test_the_loss_falls(trained):
    losses = [line["loss"] for line in read_metrics(trained[1].output.path) if line["kind"] == "train"]
    assert losses[-1] < losses[0]


def test_the_saved_array_is_as_large_as_the_config_says(trained):
    for name in ("user", "item"):
        records = newest_state(trained[1].output.path)[f"tables/{name}"]
        assert records.shape == (100, 4 * 4 + 1)  # weight, m, v, average, last step
        assert records[:, :4].nbytes == 400 * 4


def test_a_resumed_run_equals_an_undisturbed_one(place, trained):
    model, undisturbed = trained
    config = configured(place, model, f"{model}-resumed")
    shutil.copytree(undisturbed.output.path, config.output.path)
    shutil.rmtree(f"{config.output.path}/checkpoints/step-000000060")
    train(config)
    got, wanted = newest_state(config.output.path), newest_state(undisturbed.output.path)
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_dense_and_sparse_gradients_train_alike(place, trained):
    model, undisturbed = trained
    tables = open_trained(undisturbed).recommender.tables.values()
    assert all(table.dense for table in tables), "what the size decides for"
    config = configured(place, model, f"{model}-sparse", gradient="sparse")
    train(config)
    found = newest_state(config.output.path)
    for name, value in newest_state(undisturbed.output.path).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    # The kind of gradient may change from one session to the next, the hashing may not.
    with pytest.raises(CheckpointError, match="saved with tables"):
        train(configured(place, model, f"{model}-sparse", seed=1))


def test_evaluate_scores_as_training_did(trained, capsys):
    _, config = trained
    last = [line for line in read_metrics(config.output.path) if line["kind"] == "evaluate"]
    path = os.path.join(config.output.path, "config.yaml")
    flags = {"config": path, "overrides": [], "split": "valid", "json": False, "step": None, "start": False}
    assert evaluate.run(type("Args", (), flags)) == 0 and "ndcg@5" in capsys.readouterr().out
    with open(os.path.join(config.output.path, "evaluate-valid.json"), encoding="utf-8") as file:
        again = {line["scorer"]: line for line in json.load(file)["results"]}["model"]
    during = [line for line in last if line["scorer"] == "model"][-1]
    assert again["ndcg@5"] == pytest.approx(during["ndcg@5"], abs=1e-6)


@pytest.mark.slow
def test_export_answers_as_the_trained_model(trained):
    """Export replays golden examples and fails when an answer differs."""
    path = export_here(trained[1])
    assert os.path.exists(os.path.join(path, "saved_model.pb"))


def test_the_served_user_table_stays_compressed():
    variables = dict(tf.train.list_variables(f"{tiny_export('robe')}/variables/variables"))
    shapes = [shape for name, shape in variables.items() if "OBJECT_GRAPH" not in name]
    assert [8, 8] in shapes  # 64 values for 24 users of dim 8
    recommender = open_trained(tiny_run("robe").config).recommender
    assert recommender.tables["user"].rows * 8 > 64

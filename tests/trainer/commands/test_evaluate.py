"""`lazytower evaluate` on ranking models: text, JSON, and what is written."""

import json

import pytest

import configs.load
from tests.support.ranking_dataset import click_log
from trainer import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(path of the config, directory) of a trained model."""
    directory = tmp_path_factory.mktemp("run")
    model = {"tasks": [{"name": "click"}, {"name": "buy", "label": "buy", "where": "label"}]}
    steps = {"train": {"num_steps": 4, "steps_per_loop": 2}, "checkpoint": {"every_steps": 4}}
    config = click_log(str(directory), 400, model=model, evaluate={"bootstrap": 20}, **steps)
    path = directory / "run.yaml"
    path.write_text(configs.load.dump_config(config))
    lazytower("train", "--config", str(path))
    return path, directory


def lazytower(*arguments: str) -> None:
    assert cli.run(cli.parse(["lazytower", *arguments])) == 0


def test_json_is_what_is_written(run, capsys):
    path, directory = run
    lazytower("evaluate", "--config", str(path), "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((directory / "run" / "evaluate-test.json").read_text())
    assert printed["step"] == 4 and {line["task"] for line in printed["results"]} == {"click", "buy"}


def test_text_has_a_table_for_each_task_and_the_splits_name(run, capsys):
    path, directory = run
    lazytower("evaluate", "--config", str(path), "--split", "valid")
    text = capsys.readouterr().out
    assert "task click " in text and "task buy " in text and "valid: 40 rows" in text
    assert "log_loss" in text and "constant" in text
    assert (directory / "run" / "evaluate-valid.json").exists()
    assert "Predictions: task buy, valid" in (directory / "run" / "report.html").read_text()

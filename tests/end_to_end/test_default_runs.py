"""Runs on planted data that set only source, dataset, batch, steps and output, through the commands, and the
findings when a learning rate or an average spoils a run."""

import json

import pytest
import yaml

from configs.load import load_config
from trainer import cli
from trainer.report.metrics_file import read_metrics
from trainer.serving import export

pytestmark = pytest.mark.any_python

METRIC = "recall@20"


def lazytower(command: str, path, *overrides: str) -> int:
    flags = [word for override in overrides for word in ("--set", override)]
    return cli.run(cli.parse(["lazytower", command, "--config", str(path), *flags]))


def written(directory, **sections):
    """Prepares a config with source, dataset and batch in `directory`; returns its path."""
    document = {
        "name": "planted",
        "source": {"kind": "synthetic", "rows": 30_000, "users": 600, "items": 300, "clusters": 12},
        "dataset": {"path": str(directory / "dataset"), "split": {"kind": "temporal"}},
        "train": {"batch_size": 256, "num_epochs": 4},
        "output": {"path": str(directory / "run")},
    }
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(document | sections))
    assert lazytower("prepare", path) == 0
    return path


@pytest.fixture
def unverified(monkeypatch):
    """Skips the fresh process of export, for tests of its messages."""
    monkeypatch.setattr(export, "replay_golden", lambda model, golden: None)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return written(tmp_path_factory.mktemp("planted"))


def trained(planted, tmp_path, *overrides: str) -> tuple[list[str], list[dict]]:
    """Trains and evaluates in a directory of its own; returns the overrides and the evaluation's lines."""
    overrides = [f"output.path={tmp_path}/run", "evaluate.weights=both", *overrides]
    assert lazytower("train", planted, *overrides) == 0
    assert lazytower("evaluate", planted, *overrides) == 0
    with open(f"{tmp_path}/run/evaluate-test.json", encoding="utf-8") as file:
        return overrides, json.load(file)["results"]


def figures(lines: list[dict]) -> dict[str, float]:
    return {line["weights"] if line["scorer"] == "model" else line["scorer"]: line[METRIC] for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("split", ["temporal", "leave_last_out"])
def test_the_average_is_as_good_as_the_weights_and_far_above_popularity(tmp_path, caplog, capsys, split):
    path = written(
        tmp_path,
        source={"kind": "synthetic", "rows": 100_000, "users": 3000, "items": 1000, "clusters": 40},
        dataset={"path": str(tmp_path / "dataset"), "split": {"kind": split}},
        train={"batch_size": 512, "num_epochs": 5},
    )
    _, lines = trained(path, tmp_path)
    reached = figures(lines)
    assert reached["average"] >= 0.99 * reached["raw"]
    assert reached["average"] > 1.5 * reached["popularity"]
    assert reached["average"] > 0.7 * reached["best_reachable"]
    said = caplog.text + capsys.readouterr().out
    assert "The loss" not in said and "averaged weights are worse" not in said and "no better" not in said


def test_a_healthy_run_has_no_findings(planted, tmp_path, caplog, capsys):
    overrides, lines = trained(planted, tmp_path)
    printed = capsys.readouterr().out
    assert "The loss" not in caplog.text and "no better" not in printed and "are worse" not in printed
    assert "average" in printed and "raw" in printed and figures(lines)["average"] > 0
    config = load_config(str(planted), overrides)
    assert not [line for line in read_metrics(config.output.path) if line.get("event") == "finding"]


@pytest.mark.parametrize(
    "rate, words", [(1e-7, ["The loss barely changed"]), (50.0, ["no lower than", "The loss rose"])]
)
def test_a_rate_that_is_far_off_is_said_in_log_and_report(planted, tmp_path, caplog, rate, words):
    rates = [f"tables.{table}.optimizer.learning_rate={rate}" for table in ("user", "item")]
    trained(planted, tmp_path, *rates)
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for text in (caplog.text, report):
        assert any(word in text for word in words)
        assert "0.005 suits lazy_adam" in text


@pytest.mark.slow
@pytest.mark.usefixtures("unverified")
def test_a_model_that_has_learned_nothing_is_no_better_than_popularity(planted, tmp_path, caplog, capsys):
    rates = [f"tables.{table}.optimizer.learning_rate=1e-7" for table in ("user", "item")]
    overrides, _ = trained(planted, tmp_path, *rates)
    words = f"The model is no better than popularity ({METRIC} "
    assert words in capsys.readouterr().out
    caplog.clear()
    assert lazytower("export", planted, *overrides) == 0
    assert words in caplog.text


@pytest.mark.usefixtures("unverified")
def test_an_average_that_lags_is_said_before_during_and_after(planted, tmp_path, caplog, capsys):
    overrides, lines = trained(planted, tmp_path, "polyak.decay=0.9999", "polyak.start_fraction=0")
    reached = figures(lines)
    assert reached["average"] < 0.9 * reached["raw"], "what this test is about"
    assert "polyak.decay 0.9999 averages over about 10,000 steps" in caplog.text
    words = f"The averaged weights are worse than the raw weights ({METRIC} {reached['average']:.4f}"
    assert words in capsys.readouterr().out
    caplog.clear()
    assert lazytower("export", planted, *overrides) == 0
    assert words in caplog.text and "average " in caplog.text

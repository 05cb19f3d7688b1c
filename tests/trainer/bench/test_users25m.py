"""`bench users25m` on a small planted run: every stage really runs and has its figures."""

import csv
import re
import shutil

import pytest
import yaml

from tests.support.tiny_run import planted_document
from trainer import cli
from trainer.bench import users25m


def bench(*args) -> int:
    return cli.run(cli.parse(["lazytower", "bench", "users25m", *args]))


@pytest.fixture
def config(tmp_path) -> str:
    document = planted_document(str(tmp_path))
    document["train"] |= {"num_steps": 30, "steps_per_loop": 5}
    document["checkpoint"] = {"every_steps": 10}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    return str(tmp_path / "run.yaml")


@pytest.fixture
def few_processes(monkeypatch):
    """Only the first `prepare` and `train` run in processes of their own and are measured."""
    measured, done = users25m._command, []

    def command(args, *words):
        done.append(words[0])
        if words[0] in ("prepare", "train") and done.count(words[0]) == 1:
            return measured(args, *words)
        assert cli.run(cli.parse(["lazytower", *users25m._arguments(args, words)])) == 0
        return [("command", "", words[0])]

    monkeypatch.setattr(users25m, "_command", command)
    monkeypatch.setattr(users25m, "in_fresh_process", lambda function, *args: function(*args))


@pytest.mark.slow
@pytest.mark.usefixtures("few_processes")
def test_all_stages(config, tmp_path, capsys):
    args = ["--config", config, "--few_rows", "7", "--steps", "2", "--turns", "1", "--output", str(tmp_path)]
    args += ["--day_rows", "400"]
    assert bench(*args) == 0
    with open(tmp_path / "users25m.csv", newline="", encoding="utf-8") as file:
        rows = {(row["stage"], row["figure"], row["unit"]): row["value"] for row in csv.DictReader(file)}
    for stage in ("prepare", "train"):
        assert float(rows[stage, "time", "s"]) > 0.1
        assert 0.05 < float(rows[stage, "peak memory", "GB"]) < 8
    commands = {"restore": "train", "warm": "train"} | {
        name: name for name in ("evaluate", "export", "recommend")
    }
    assert {stage: rows[stage, "command", ""] for stage in commands} == commands
    assert float(rows["export", "SavedModel", "GB"]) >= 0
    assert float(rows["train", "median steps", "steps/s"]) > 0
    assert float(rows["train", "full checkpoint", "s"]) >= 0
    assert float(rows["train", "paused by checkpoints", "s"]) > 0
    assert " cores, " in rows["run", "machine", ""]
    assert rows["train", "full checkpoints", ""].endswith(("async", "blocking"))
    assert float(rows["restore", "restore", "s"]) > 0 and float(rows["warm", "warm start", "s"]) > 0
    assert rows["day", "prepare: command", ""] == "prepare" and rows["day", "train: command", ""] == "train"
    assert float(rows["day", "changed files of the first dataset", "files"]) == 0
    assert float(rows["day", "new users", "rows"]) == 4
    assert float(rows["steps", "ratio", "x"]) > 0
    assert float(rows["steps", "step with 7 user rows, distinct users", "rows"]) == 7
    assert rows["run", "config", ""] == config
    assert "written: " in capsys.readouterr().out

    shutil.copy(tmp_path / "users25m.csv", tmp_path / "old.csv")
    assert bench(*args, "--stages", "prepare", "restore", "--repeat", "2") == 0
    assert "the dataset exists" in capsys.readouterr().out
    compared = ["lazytower", "bench", "compare", str(tmp_path / "old.csv"), str(tmp_path / "users25m.csv")]
    assert cli.run(cli.parse(compared)) == 0
    output = capsys.readouterr().out
    assert re.search(r"\nrestore +restore +s +[0-9.]+ +[0-9.]+ \([0-9.]+ to [0-9.]+\) +[0-9.]+\n", output)
    assert "\n-  only before: train, warm, day, evaluate, export, recommend, steps\n" in output


def test_a_stage_that_fails_ends_it(config, tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        bench("--config", config, "--stages", "evaluate", "--output", str(tmp_path))
    assert ended.value.code == 2
    assert "lazytower evaluate: error: " in capfd.readouterr().err

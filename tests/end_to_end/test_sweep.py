"""A sweep of real processes, killed with SIGKILL: its trials end as they would have alone."""

import csv
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import yaml

from configs.load import load_config
from tests.support.tiny_run import planted_document, write_planted
from trainer.checkpoints.best import read_best
from trainer.training.run import train


def start(root: pathlib.Path) -> subprocess.Popen:
    files = ("--config", str(root / "base.yaml"), "--sweep", str(root / "sweep.yaml"))
    command = [sys.executable, "-m", "trainer.cli", "sweep", *files]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def kill_after_a_checkpoint(root: pathlib.Path, trial: int) -> None:
    """Kills the sweep when a trial has written one."""
    process = start(root)
    place = root / "out" / "trials" / str(trial) / "checkpoints"
    while process.poll() is None and not list(place.glob("step-*")):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.communicate()


@pytest.mark.slow
def test_killed_and_rerun_it_ends_as_undisturbed(tmp_path):
    write_planted(str(tmp_path))
    document = planted_document(str(tmp_path))
    document["train"] |= {"num_steps": 400, "steps_per_loop": 10}
    document["checkpoint"] = {"every_steps": 20, "keep": 2}
    document["evaluate"] = {"every_steps": 100, "k": [5], "best": {"metric": "ndcg@5"}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(document))
    space = {"tables.*.optimizer.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    sweep = {"output": str(tmp_path / "out"), "trials": 2, "space": space, "pruner": {"kind": "none"}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    kill_after_a_checkpoint(tmp_path, 0)
    kill_after_a_checkpoint(tmp_path, 1)
    process = start(tmp_path)
    text = process.communicate(timeout=900)[0]
    assert process.returncode == 0 and "The best of 2 trials (2 complete)" in text
    rows = list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))
    assert [(row["trial"], row["state"], row["steps"]) for row in rows] == [
        (str(number), "complete", "400") for number in range(2)
    ]
    for row in rows:
        config = load_config(
            str(tmp_path / "out" / "trials" / row["trial"] / "config.yaml"),
            [f"output.path={tmp_path}/alone-{row['trial']}"],
        )
        train(config)
        alone = read_best(f"{config.output.path}/checkpoints")
        assert float(row["ndcg@5"]) == alone.best.value
        assert read_best(str(tmp_path / "out" / "trials" / row["trial"] / "checkpoints")) == alone
    best = load_config(str(tmp_path / "out" / "best.yaml"))
    assert (pathlib.Path(best.output.path) / "evaluate-test.json").exists()
    assert start(tmp_path).communicate(timeout=300)[0] == text, "nothing was left to do"

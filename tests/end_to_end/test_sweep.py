"""Sweeps of real processes and jobs, killed with SIGKILL: their trials end as they would have alone."""

import argparse
import csv
import pathlib
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
import yaml

from configs.load import load_config, parse_as
from configs.sections.search.sweep import SweepConfig
from tests.support.fake_tpu import wait_until
from tests.support.job_runs import end_processes
from tests.support.tiny_run import planted_document, write_planted
from trainer.checkpoints.best import read_best
from trainer.commands import evaluate
from trainer.daily.children import Children
from trainer.jobs.record import FINAL, JobRecord, find_jobs
from trainer.sweep.job import run_sweep
from trainer.sweep.space import Space
from trainer.training.run import train


def start(root: pathlib.Path, *flags: str) -> subprocess.Popen:
    files = ("--config", str(root / "base.yaml"), "--sweep", str(root / "sweep.yaml"))
    command = [sys.executable, "-m", "trainer.cli", "sweep", *files, *flags]
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


class InThisProcess(Children):
    """Trains and evaluates at once, which needs no further interpreter."""

    def start(self, command: str, *arguments: str, log: str | None = None) -> mock.Mock:
        assert command == "train"
        train(load_config(arguments[1]))
        return mock.Mock(poll=lambda: 0)

    def run(self, command: str, *arguments: str) -> None:
        parser = argparse.ArgumentParser()
        evaluate.add_arguments(parser)
        assert command == "evaluate" and evaluate.run(parser.parse_args(arguments)) == 0


@pytest.mark.slow
def test_jobs_go_on_while_the_sweep_is_dead_and_make_the_same_table(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_planted(str(tmp_path))
    document = planted_document(str(tmp_path))
    document["train"] |= {"num_steps": 200, "steps_per_loop": 10}
    document["evaluate"] = {"every_steps": 50, "k": [5], "best": {"metric": "ndcg@5"}}
    document["launch"] = {"poll_seconds": 0.2, "heartbeat_seconds": 0.5, "log_seconds": 0.5}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(document))
    space = {"tables.*.optimizer.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    sweep = {"output": str(tmp_path / "out"), "trials": 3, "space": space, "pruner": {"kind": "none"}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    try:
        killed = start(tmp_path, "--submit", "--jobs", "2")
        wait_until(lambda: jobs_of(tmp_path, 1), what="for the second job")
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
        wait_until(lambda: is_over(jobs_of(tmp_path, 0)[0]), what="for a job to end without the sweep")
        process = start(tmp_path, "--submit", "--jobs", "2")
        text = process.communicate(timeout=900)[0]
        assert process.returncode == 0
    finally:
        end_processes(str(tmp_path / "state"))
    assert [[job.state().state for job in jobs_of(tmp_path, number)] for number in range(3)] == [
        ["succeeded"]
    ] * 3
    here = parse_as(SweepConfig, sweep | {"output": str(tmp_path / "here"), "study": "out"}, "here")
    result = run_sweep(Space(document, "base.yaml", here), here, "here", runner=InThisProcess)
    assert (tmp_path / "out" / "trials.csv").read_text() == (tmp_path / "here" / "trials.csv").read_text()
    assert f"{result.text}\n" == text.replace(str(tmp_path / "out"), str(tmp_path / "here"))


def jobs_of(root: pathlib.Path, trial: int) -> list[JobRecord]:
    return find_jobs(str(root / "out" / "trials" / str(trial) / "jobs"))


def is_over(job: JobRecord) -> bool:
    return job.state().state in FINAL


@pytest.mark.slow
def test_a_trial_on_a_slice(cloud):
    """The fixture asserts that no slice is left."""
    document = yaml.safe_load(pathlib.Path(cloud.config).read_text())
    document["train"] |= {"num_steps": 40}
    document["evaluate"] = {"every_steps": 20, "k": [5], "best": {"metric": "ndcg@5"}}
    output, study = cloud.bucket.url + "/sweep", f"sqlite:///{cloud.directory}/study.db"
    space = {"tables.*.dim": [4, 8]}
    sweep = parse_as(SweepConfig, {"output": output, "storage": study, "trials": 1, "space": space}, "sweep")
    result = run_sweep(
        Space(document, "base.yaml", sweep), sweep, "sweep", is_submitted=True, runner=InThisProcess
    )
    assert [one.state for one in result.outcomes] == ["complete"] and "Test: hr@5" in result.text
    [job] = find_jobs(f"{output}/trials/0/jobs")
    assert cloud.tpu.started == [f"{job.id}-1"] and job.state().state == "succeeded"
    assert "sweep/trials/0/evaluate-test.json" in cloud.bucket.names("sweep/")

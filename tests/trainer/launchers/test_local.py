"""A job in a process of this machine: it trains, it can be stopped, and nothing of it is left."""

import json
import os
import subprocess
import sys

import psutil
import pytest
import yaml

from configs.errors import UserError
from tests.support.fake_tpu import wait_until
from tests.support.tiny_run import planted_document, write_planted
from trainer.jobs.record import JobRecord
from trainer.launchers.local import Local


@pytest.fixture
def config(tmp_path, monkeypatch) -> str:
    """Of a run whose paths are relative to the directory that it is submitted from."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_planted(str(tmp_path))
    document = planted_document("")
    document["dataset"]["path"], document["output"]["path"] = "dataset", "run"
    document["launch"] = {"poll_seconds": 0.2, "heartbeat_seconds": 0.5, "log_seconds": 0.5}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    return "run.yaml"


def lazytower(directory, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "trainer.cli", *arguments]
    # Where the tests run, relative paths of modules would be lost with the change of directory.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def ours(directory) -> list[psutil.Process]:
    """Processes of jobs that were submitted from a directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("XDG_STATE_HOME") == f"{directory}/state" and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_local_job_from_submit_to_success(config, tmp_path):
    path = lazytower(tmp_path, "submit", "--config", config).strip()
    assert path.startswith(f"{tmp_path}/run/jobs/planted-")
    lazytower(tmp_path, "jobs", "wait", path)
    shown = lazytower(tmp_path, "jobs", "show", os.path.basename(path))
    assert "succeeded" in shown and "step         60/60" in shown and "cost so far  -" in shown
    assert "done in" in lazytower(tmp_path, "jobs", "logs", path)
    assert (tmp_path / "state" / "lazytower" / "jobs" / JobRecord(path).id / "attempt-1" / "log.txt").exists()
    assert (tmp_path / "run" / "report.html").exists()
    wait_until(lambda: not ours(tmp_path), what="for all processes to end")


@pytest.mark.slow
def test_a_local_job_is_cancelled(config, tmp_path):
    path = lazytower(tmp_path, "submit", "--config", config, "--set", "train.num_steps=1000000").strip()
    log = tmp_path / "state" / "lazytower" / "jobs" / JobRecord(path).id / "attempt-1" / "log.txt"
    wait_until(lambda: log.exists() and "checkpoint of step" in log.read_text(), what="for training")
    assert "cancelled" in lazytower(tmp_path, "jobs", "cancel", path)
    wait_until(lambda: not ours(tmp_path), what="for all processes to end")
    assert "stopped by SIGTERM" in log.read_text()
    lazytower(tmp_path, "jobs", "wait", path, code=130)


def test_another_machine_s_job_is_left_alone(tmp_path):
    (tmp_path / "attempts" / "001").mkdir(parents=True)
    facts = {"host": "elsewhere", "pid": 1, "started": "0"}
    (tmp_path / "attempts" / "001" / "process.json").write_text(json.dumps(facts))
    launcher = Local(None, str(tmp_path), {"directory": str(tmp_path)})
    with pytest.raises(UserError, match="runs on machine elsewhere; supervise or cancel it there"):
        launcher.observe(1)


def test_the_files_of_a_local_job_are_on_the_disk(tmp_path):
    with pytest.raises(
        UserError, match="launch.staging: gs://b/run/jobs is in a bucket, but launch.kind local"
    ):
        Local(None, "gs://b/run/jobs/one", {"directory": ""}).check_files()
    Local(None, f"{tmp_path}/one", {"directory": ""}).check_files()


@pytest.mark.slow
def test_a_cluster_is_rehearsed_and_survives_the_loss_of_a_host(config, tmp_path):
    document = yaml.safe_load((tmp_path / config).read_text())
    document["launch"]["hosts"] = 2
    document["device"] = {"kind": "cluster", "from": "TF_CONFIG"}
    document["train"]["num_steps"] = 300
    (tmp_path / config).write_text(yaml.safe_dump(document))
    path = lazytower(tmp_path, "submit", "--config", config).strip()
    log = tmp_path / "state" / "lazytower" / "jobs" / JobRecord(path).id / "attempt-1" / "log.txt"
    wait_until(lambda: log.exists() and "checkpoint of step" in log.read_text(), what="for training")
    [worker] = [each for each in ours(tmp_path) if "worker" in each.cmdline()]
    worker.kill()
    lazytower(tmp_path, "jobs", "wait", path)
    assert "restart 1" in log.read_text() and "300/300" in lazytower(tmp_path, "jobs", "show", path)
    wait_until(lambda: not ours(tmp_path), what="for all processes to end")

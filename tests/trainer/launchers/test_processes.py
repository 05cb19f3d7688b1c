"""Processes of local jobs are found by their mark, whatever became of those that started them."""

import json
import os
import signal
import subprocess
import sys

import pytest

from configs.errors import UserError
from configs.load import dump_config, parse_config
from tests.support.documents import document
from tests.support.fake_tpu import wait_until
from trainer.jobs.record import JobRecord
from trainer.jobs.supervise import cancel
from trainer.launchers import local
from trainer.launchers.base import Refused
from trainer.launchers.local import Local
from trainer.launchers.processes import LocalProcesses, job_processes, process_mark
from trainer.vm.program import PROCESS_MARK

SLEEP = "import time; time.sleep(600)"
# Starts a child in a session of its own, says so, and goes on.
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); {SLEEP}"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A directory whose processes are ended after the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = str(tmp_path / "jobs" / "one")
    yield path
    for process in job_processes(path):
        os.kill(process.pid, signal.SIGKILL)


def start(job: str, attempt: int, code: str = SLEEP, is_machine: bool = True) -> subprocess.Popen:
    environment = {**os.environ, PROCESS_MARK: process_mark(job, attempt, is_machine)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
    wait_until(lambda: process.pid in [found.pid for found in job_processes(job)])
    return process


def test_the_machine_and_what_it_leaves_behind(job):
    slices, parent = LocalProcesses(job, {}), start(job, 1, PARENT)
    assert slices.observe(1).kind == "ready" and slices.observe(2).kind == "lost"
    wait_until(lambda: len(job_processes(job)) == 2)
    parent.kill()
    parent.wait()
    [orphan] = job_processes(job)
    assert orphan.pid != parent.pid and f"`kill {orphan.pid}` ends them" in slices.left(1)
    slices.delete(1)
    assert job_processes(job) == [] and slices.observe(1).kind == "absent"


def test_a_child_without_its_machine_is_lost(job):
    child = start(job, 1, is_machine=False)
    state = LocalProcesses(job, {}).observe(1)
    assert state.kind == "lost" and f"pid {child.pid}" in state.reason
    assert LocalProcesses(f"{job}-other", {}).observe(1).kind == "absent"


def test_what_does_not_stop_is_killed(job, monkeypatch):
    monkeypatch.setattr("trainer.launchers.processes._STOP_SECONDS", 0.3)
    deaf = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open(__import__('sys').argv[1], 'w')"
    )
    mark = {**os.environ, PROCESS_MARK: process_mark(job, 1)}
    ready = os.path.join(os.path.dirname(os.path.dirname(job)), "ready")
    process = subprocess.Popen([sys.executable, "-c", f"{deaf}; {SLEEP}", ready], env=mark)
    wait_until(lambda: os.path.exists(ready))
    LocalProcesses(job, {}).delete(1)
    assert process.wait() == -signal.SIGKILL


def make(job: str) -> Local:
    return Local(parse_config(document(), "x"), job, {"directory": os.path.dirname(os.path.dirname(job))})


def test_a_launcher_that_is_killed_right_after_the_start_is_no_reason_for_a_second_one(job, monkeypatch):
    """The next one finds the process by its mark, and ends it when asked to."""
    made, launcher = [], make(job)

    def popen(command, env, **unused):
        made.append(start_with(env))
        raise KeyboardInterrupt  # the launcher dies here

    def start_with(env):
        return real([sys.executable, "-c", SLEEP], env=env, start_new_session=True)

    real = subprocess.Popen
    monkeypatch.setattr(local.subprocess, "Popen", popen)
    with pytest.raises(KeyboardInterrupt):
        launcher.create(1)
    wait_until(lambda: job_processes(job))
    make(job).create(1)
    assert len(made) == 1 and make(job).observe(1).kind == "ready"
    make(job).delete(1)
    assert made[0].wait() == -signal.SIGTERM


def test_what_is_started_is_noted_before_and_not_for_ever(job, monkeypatch):
    notes = []

    def popen(*_, **__):
        with open(f"{job}/attempts/001/process.json") as file:
            notes.append(json.load(file)["starts"])

    monkeypatch.setattr(local.subprocess, "Popen", popen)
    for _ in range(3):
        make(job).create(1)
    with pytest.raises(Refused, match="ended 3 times before its first heartbeat; read /"):
        make(job).create(1)
    assert notes == [1, 2, 3]


def test_a_torn_note_blocks_nothing(job, tmp_path):
    os.makedirs(f"{job}/attempts/001")
    open(f"{job}/attempts/001/process.json", "w").close()
    assert make(job).observe(1).kind == "absent"


def test_another_user_s_job_is_left_alone(job, monkeypatch):
    os.makedirs(f"{job}/attempts/001")
    with open(f"{job}/attempts/001/process.json", "w") as file:
        json.dump({"user": 4321}, file)
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    with pytest.raises(UserError, match="runs as user 4321; supervise or cancel it as that user"):
        make(job).observe(1)


def test_cancel_ends_what_nobody_has_noted(job):
    record = JobRecord.create(job, {"launcher": "local", "output": "x"})
    with open(f"{job}/config.yaml", "w") as file:
        file.write(dump_config(parse_config(document(launch={"poll_seconds": 0.1}), "x")))
    record.append("requesting", 1)
    orphan = start(job, 1, is_machine=False)
    assert cancel(job).state == "cancelled"
    assert orphan.wait() == -signal.SIGTERM and job_processes(job) == []

"""`lazytower worker`: which host it is, what it refuses, and a clean end."""

import argparse
import signal
import time

import pytest
import yaml

from configs.errors import ConfigError
from tests.support.cluster_hosts import tf_config, wait_for, workers
from tests.support.tiny_run import planted_document
from trainer.commands.worker import add_arguments, task_of

HOSTS = ["10.0.0.1:7777", "10.0.0.2:7777"]


def asked(*flags: str):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return task_of(parser.parse_args(flags))


@pytest.fixture
def config(tmp_path):
    def written(device: dict) -> str:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(planted_document(str(tmp_path)) | {"device": device}))
        return str(path)

    return written


def test_tf_config_alone_is_enough(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(HOSTS, 1))
    device, task = asked()
    assert (list(task.addresses), task.index, device.threads) == (HOSTS, 1, 0)


def test_a_config_says_how(config):
    path = config({"kind": "cluster", "hosts": HOSTS, "threads": 3})
    device, task = asked("--config", path, "--task", "1")
    assert (list(task.addresses), task.index, device.threads) == (HOSTS, 1, 3)


def test_a_config_may_leave_the_hosts_to_the_environment(config, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(HOSTS, 1))
    _, task = asked("--config", config({"kind": "cluster", "from": "TF_CONFIG"}))
    assert task.index == 1


@pytest.mark.parametrize(
    ("device", "flags", "problem"),
    [
        ({"kind": "cluster", "hosts": HOSTS}, [], "--task: missing"),
        ({"kind": "cluster", "hosts": HOSTS}, ["--task", "0"], "host 0 is the driver"),
        ({"kind": "cluster", "hosts": HOSTS}, ["--task", "2"], "device.hosts has 0..1"),
        ({"kind": "cpu"}, ["--task", "1"], "device.kind is cpu"),
    ],
)
def test_what_a_worker_cannot_be(config, device, flags, problem):
    with pytest.raises(ConfigError) as error:
        asked("--config", config(device), *flags)
    assert problem in str(error.value)


def test_the_driver_is_no_worker(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(HOSTS, 0))
    with pytest.raises(ConfigError, match="host 0 is the driver"):
        asked()


def test_without_hosts_there_is_nothing_to_do(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="TF_CONFIG: is not set"):
        asked()


def test_sigterm_ends_a_waiting_worker_with_0(tmp_path):
    with workers(2, tmp_path) as (worker,):
        wait_for("waiting for a driver", worker.log, worker.process)
        started = time.monotonic()
        assert worker.end(signal.SIGTERM) == 0
        assert time.monotonic() - started < 60
    assert "ended by SIGTERM" in worker.log.read_text()

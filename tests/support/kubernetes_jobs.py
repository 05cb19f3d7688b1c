"""Jobs on the fake Kubernetes: a config, a kubeconfig, and a record that is supervised step by step."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from configs.load import dump_config, parse_config
from configs.schema import RunConfig
from tests.support.documents import document
from tests.support.fake_kubernetes import FakeKubernetes
from trainer.jobs.record import JobRecord, JobState
from trainer.jobs.supervise import supervise

JOB = "shop-20261126-120000-abcd"


def section(**keys: Any) -> dict[str, Any]:
    """A launch section."""
    return {"kind": "kubernetes", "image": "registry.local/lazytower:cpu", "memory": "4Gi", **keys}


def kubernetes_config(hosts: int = 1, **keys: Any) -> RunConfig:
    """A config that trains in pods, with a dataset in a bucket."""
    more: dict[str, Any] = {}
    if hosts > 1:
        more = {
            "device": {"kind": "cluster", "from": "TF_CONFIG"},
            "train": {"batch_size": 16 * hosts, "num_steps": 4},
        }
    base = document(dataset={"path": "gs://b/dataset"}, output={"path": "gs://b/run"}, **more)
    base["launch"] = section(hosts=hosts, poll_seconds=0.05, backoff_seconds=0, **keys)
    return parse_config(base, "run.yaml")


class Submitted:
    """A job whose record is on this disk."""

    def __init__(self, directory: pathlib.Path, cluster: FakeKubernetes, config: RunConfig):
        self.cluster, self.path = cluster, str(directory / "jobs" / JOB)
        facts = {"launcher": "kubernetes", "output": config.output.path, "directory": str(directory)}
        facts |= {"namespace": config.launch.namespace}
        self.record = JobRecord.create(self.path, facts)
        pathlib.Path(self.path, "config.yaml").write_text(dump_config(config))

    def turn(self, steps: int = 20) -> JobState:
        """Supervises up to the first wait, or the end."""
        return supervise(self.path, steps=steps)

    def finish(self) -> JobState:
        """Supervises to the end."""
        return supervise(self.path)

    def history(self) -> list[str]:
        """Types of events."""
        return [event.type for event in JobRecord(self.path).events()]


@pytest.fixture
def kubernetes(tmp_path, monkeypatch) -> Iterator[FakeKubernetes]:
    """The server; kubeconfig, home and state are the test's own."""
    found = FakeKubernetes()
    monkeypatch.setenv("KUBECONFIG", found.kubeconfig(tmp_path / "kubeconfig"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    yield found
    found.close()


@pytest.fixture
def submit(kubernetes, tmp_path):
    """Makes the record of a job, as `lazytower submit` leaves it."""
    return lambda hosts=1, **keys: Submitted(tmp_path, kubernetes, kubernetes_config(hosts, **keys))

"""Pods that really train: processes of this machine, with the commands and configs of the JobSet."""

import os
import pathlib
import subprocess
import sys

import psutil
import pytest
import yaml

from tests.support.fake_kubelet import Kubelet
from tests.support.fake_tpu import wait_until
from tests.support.tiny_run import planted_document, write_planted
from trainer.jobs.record import JobRecord

pytestmark = pytest.mark.slow


@pytest.fixture
def kubelet(kubernetes, tmp_path):
    found = Kubelet(kubernetes, tmp_path)
    yield found
    found.close()
    for process in psutil.process_iter():
        try:
            if process.environ().get("XDG_STATE_HOME") == f"{tmp_path}/state" and process.pid != os.getpid():
                process.kill()
        except psutil.Error:
            continue


def lazytower(*arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "trainer.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == code, done.stderr
    return done.stdout


def write_config(tmp_path: pathlib.Path, kubernetes, **changes) -> str:
    """A planted run on a volume that this machine has, too."""
    write_planted(str(tmp_path))
    document = planted_document(str(tmp_path))
    document["launch"] = {
        **{"kind": "kubernetes", "image": "lazytower:cpu", "poll_seconds": 0.3, "cpu": 1},
        **{"volumes": [{"claim": "shared", "path": str(tmp_path)}]},
    }
    kubernetes.objects.add(("persistentvolumeclaims", "default", "shared"))
    for name, value in changes.items():
        document[name] = document.get(name, {}) | value
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_one_pod_trains(kubernetes, kubelet, tmp_path):
    config = write_config(tmp_path, kubernetes)
    path = lazytower("submit", "--config", config).strip()
    lazytower("jobs", "wait", path)
    shown = lazytower("jobs", "show", path)
    assert "succeeded" in shown and "60/60" in shown and "done in" in lazytower("jobs", "logs", path)
    memory = yaml.safe_load(pathlib.Path(path, "config.yaml").read_text())["launch"]["memory"]
    assert memory.endswith("Mi"), "as lazytower plan forecasts"
    assert kubernetes.jobsets == {} and any("dryRun=All" in each for each in kubernetes.requests)


def test_a_cluster_restarts_after_the_loss_of_a_host(kubernetes, kubelet, tmp_path):
    cluster = {"launch": {"hosts": 2}, "device": {"kind": "cluster", "from": "TF_CONFIG"}}
    config = write_config(tmp_path, kubernetes, train={"num_steps": 300}, **cluster)
    path = lazytower("submit", "--config", config).strip()
    saved = tmp_path / "run" / "checkpoints"
    wait_until(lambda: list(saved.glob("*/COMMITTED")), seconds=300, what="for a checkpoint")
    worker = kubernetes.hosts()[1]["metadata"]["name"]
    kubernetes.lose(1)
    wait_until(lambda: kubelet.processes[worker].poll() is not None, what="for the old worker to end")
    lazytower("jobs", "wait", path)
    shown = lazytower("jobs", "show", path)
    assert "300/300" in shown and "1 restarts" in shown and JobRecord(path).state().attempt == 1
    assert "worker 1" in lazytower("jobs", "logs", path)

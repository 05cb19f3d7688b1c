"""Jobs for tests: a tiny planted run whose files are in the bucket, submitted to the fake Cloud TPU."""

import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import yaml

from configs.load import load_config
from tests.support.fake_tpu import FakeTpu
from tests.support.gcs_bucket import Bucket
from tests.support.tiny_run import planted_document, write_planted
from trainer.jobs.record import JobRecord

NUM_STEPS = 240
PROJECT, ZONE = "shop", "us-east5-b"


def job_document(root: str, directory: str) -> dict:
    """The run, with dataset and output under `root`, and machines that work under `directory`."""
    document = planted_document(root)
    document["train"] |= {"num_steps": NUM_STEPS, "steps_per_loop": 5}
    document["checkpoint"] = {"every_steps": 20, "keep": 2}
    document["evaluate"] = {"every_steps": 0}
    document["launch"] = {
        "kind": "cloud_tpu",
        "project": PROJECT,
        "zone": ZONE,
        "slice": "v6e-4",
        "spot": True,
        "price_per_chip_hour": 2.7,
        "work_dir": f"{directory}/machines",
        "python": sys.executable,
        "poll_seconds": 0.3,
        "heartbeat_seconds": 0.5,
        "log_seconds": 0.5,
        "backoff_seconds": 0.2,
        "heartbeat_timeout_seconds": 300,
    }
    return document


class Cloud:
    """A bucket with a dataset, the fake service, and a config that trains from one on the other.

    Attributes:
      config: path of the YAML.
      tpu: the service.
      bucket: the bucket.
      environment: what subprocesses and the product in this process need beside the bucket's.
    """

    def __init__(self, directory: pathlib.Path, bucket: Bucket, tpu: FakeTpu):
        self.directory, self.bucket, self.tpu = directory, bucket, tpu
        self.environment = {"TPU_EMULATOR_HOST": tpu.address, "XDG_STATE_HOME": str(directory / "state")}
        bucket.environment |= self.environment
        self.config = str(directory / "run.yaml")
        pathlib.Path(self.config).write_text(yaml.safe_dump(job_document(bucket.url, str(directory))))

    def load(self, *overrides: str):
        """The config."""
        return load_config(self.config, overrides)

    def start(self, *arguments: str) -> subprocess.Popen:
        """Starts `lazytower`."""
        return self.bucket.start("-m", "trainer.cli", *arguments)

    def lazytower(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """(output, log) of `lazytower`, which must end with this code."""
        process = self.start(*arguments)
        output, log = process.communicate(timeout=900)
        assert process.returncode == code, log
        return output, log

    def record(self, path: str) -> JobRecord:
        """A job's record, read again."""
        return JobRecord(path)

    def history(self, path: str) -> list[str]:
        """Types of a job's events."""
        return [event.type for event in JobRecord(path).events()]


@pytest.fixture
def cloud(tmp_path, bucket, monkeypatch) -> Iterator[Cloud]:
    """As Cloud says. At the end of every test nothing may be left of what is paid for."""
    write_planted(str(tmp_path / "local"))
    dataset = tmp_path / "local" / "dataset"
    for path in sorted(dataset.rglob("*")):
        if path.is_file():
            bucket.write(f"dataset/{path.relative_to(dataset)}", path.read_bytes())
    tpu = FakeTpu(tmp_path, bucket.environment)
    found = Cloud(tmp_path, bucket, tpu)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    try:
        yield found
        assert tpu.left() == []
    finally:
        tpu.close()
        end_processes(found.environment["XDG_STATE_HOME"])


def end_processes(state_home: str) -> None:
    """Stops all of jobs whose test has failed; their supervisors would keep calling the service."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("XDG_STATE_HOME") == state_home:
                process.kill()


def download(cloud: Cloud, prefix: str) -> pathlib.Path:
    """Copies objects under a prefix to a new local directory."""
    target = cloud.directory / "downloaded"
    for name in cloud.bucket.names(prefix):
        path = target / name.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cloud.bucket.read(name))
    return target

"""Clusters of real processes on this machine: workers that tests share, and drivers that train on them.

`python -m tests.support.cluster_hosts CONFIG ...` is a driver that trains one run after the other.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import yaml

from trainer.checkpoints.chain import CheckpointDirectory
from trainer.checkpoints.rows import StoredRows

SECONDS = 600
"""Longest time that anything may take on the busiest machine."""


def free_addresses(number: int) -> list[str]:
    """Addresses of this machine on which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def tf_config(addresses: list[str], index: int) -> str:
    """TF_CONFIG of a host."""
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


class WorkerProcess:
    """`lazytower worker` of one host, started again when a test has ended it.

    Args:
      addresses: of all hosts.
      index: of this one.
      log: file of its output.
    """

    def __init__(self, addresses: list[str], index: int, log: pathlib.Path):
        self.addresses, self._index, self.log = addresses, index, log
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        """Starts the process if it does not run; does not wait for it."""
        if self.process is not None and self.process.poll() is None:
            return
        environment = os.environ | {"TF_CONFIG": tf_config(self.addresses, self._index)}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainer.cli", "worker"], env=environment, stdout=log, stderr=log
            )

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextlib.contextmanager
def workers(number: int, directory: pathlib.Path) -> Iterator[list[WorkerProcess]]:
    """The workers of a cluster of `number` hosts."""
    addresses = free_addresses(number)
    found = [WorkerProcess(addresses, i, directory / f"host-{i}.log") for i in range(1, number)]
    try:
        yield found
    finally:
        for worker in found:
            if worker.process is not None and worker.process.poll() is None:
                worker.end(signal.SIGKILL)


def on_cluster(document: dict, addresses: list[str], output: pathlib.Path, **train) -> dict:
    """A run's document, on a cluster, with another output and other keys of `train`."""
    device = {"kind": "cluster", "hosts": addresses}
    return moved(document, output, **train) | {"device": device}


def moved(document: dict, output: pathlib.Path, **train) -> dict:
    """A run's document with another output and other keys of `train`."""
    return document | {"output": {"path": str(output)}, "train": document["train"] | train}


def written(document: dict) -> str:
    """The path of a document written to a file beside its output."""
    path = f"{document['output']['path']}.yaml"
    pathlib.Path(path).write_text(yaml.safe_dump(document))
    return path


def driven(*documents: dict) -> None:
    """Trains runs one after the other in one driver process, which must succeed."""
    command = [sys.executable, "-m", "tests.support.cluster_hosts", *map(written, documents)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def started(document: dict, log: pathlib.Path) -> subprocess.Popen:
    """`lazytower train` in a process of its own."""
    with open(log, "wb") as file:
        command = [sys.executable, "-m", "trainer.cli", "train", "--config", written(document)]
        return subprocess.Popen(command, stdout=file, stderr=file)


def wait_for(text: str, log: pathlib.Path, process: subprocess.Popen) -> None:
    """Waits until a process has logged a text."""
    deadline = time.monotonic() + SECONDS
    while text not in log.read_text(errors="replace"):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
        time.sleep(0.2)


def copied(run: pathlib.Path, to: pathlib.Path, step: int) -> None:
    """Copies a run as it was after `step` steps."""
    shutil.copytree(run, to)
    for directory in (to / "checkpoints").iterdir():
        if int(directory.name[5:14]) > step:
            shutil.rmtree(directory)


def state(run: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """All records and dense values in a checkpoint, by name."""
    chain = next(CheckpointDirectory(str(run / "checkpoints")).chains(step))
    assert isinstance(chain, list), chain
    with np.load(pathlib.Path(chain[-1].path) / "dense.npz") as dense:
        found = {name: dense[name] for name in dense.files}
    for name, layout in chain[-1].manifest.tables.items():
        found[f"table/{name}"] = StoredRows(chain, name).read(np.arange(layout.rows))
    return found


def main(paths: list[str]) -> None:
    """Trains the runs of config files."""
    from configs.load import load_config
    from trainer.training.run import train

    for path in paths:
        train(load_config(path))


if __name__ == "__main__":
    main(sys.argv[1:])

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
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import yaml

from tests.support.network_hosts import Network
from trainer import cli
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
      within: what runs the command after it where the host is.
    """

    def __init__(self, addresses: list[str], index: int, log: pathlib.Path, within: Sequence[str] = ()):
        self.addresses, self._index, self.log, self._within = addresses, index, log, within
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        """Starts the process if it does not run; does not wait for it."""
        if self.process is not None and self.process.poll() is None:
            return
        environment = os.environ | {"TF_CONFIG": tf_config(self.addresses, self._index)}
        with open(self.log, "ab") as log:
            command = [*self._within, sys.executable, "-m", "trainer.cli", "worker"]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextlib.contextmanager
def workers(
    number: int, directory: pathlib.Path, hosts: Network | None = None
) -> Iterator[list[WorkerProcess]]:
    """The workers of a cluster of `number` hosts, of this one or of a network."""
    addresses = free_addresses(number) if hosts is None else hosts.addresses
    found: list[WorkerProcess] = []
    try:
        for i in range(1, number):
            within = () if hosts is None else hosts.within(i)
            found.append(WorkerProcess(addresses, i, directory / f"host-{i}.log", within))
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


def driven(*documents: dict, within: Sequence[str] = ()) -> None:
    """Trains runs one after the other in one driver process, which must succeed; see WorkerProcess."""
    command = _driver(documents, within)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def started(log: pathlib.Path, *documents: dict, within: Sequence[str] = ()) -> subprocess.Popen:
    """The same in the background."""
    with open(log, "wb") as file:
        return subprocess.Popen(_driver(documents, within), stdout=file, stderr=file)


def _driver(documents: Iterable[dict], within: Sequence[str]) -> list[str]:
    return [*within, sys.executable, "-m", "tests.support.cluster_hosts", *map(written, documents)]


def wait_for(text: str, log: pathlib.Path, process: subprocess.Popen, times: int = 1) -> None:
    """Waits until a process has logged a text so many times."""
    deadline = time.monotonic() + SECONDS
    while log.read_text(errors="replace").count(text) < times:
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


def main(paths: list[str]) -> int:
    """Runs `lazytower train` for config files, until one fails; returns its exit code."""
    for path in paths:
        if code := cli.run(cli.parse(["lazytower", "train", "--config", path])):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Clusters whose hosts are network namespaces: what one machine computes, and hosts that are killed, cut off
or hang at random moments of a run, which ends with the same bytes as an undisturbed one."""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import numpy as np
import pytest

from configs.load import parse_config
from tests.support.cluster_hosts import (
    SECONDS,
    WorkerProcess,
    driven,
    moved,
    on_cluster,
    started,
    state,
    wait_for,
    workers,
)
from tests.support.network_hosts import Network, network
from tests.support.ranking_dataset import EVERYTHING, click_log, ranking_document
from tests.support.tiny_run import planted_document, write_planted
from trainer.training.run import train

pytestmark = pytest.mark.torture

STEPS = 50
FAULTS = {
    "kill": int(os.environ.get("CLUSTER_KILLS", 50)),
    "cut": int(os.environ.get("CLUSTER_CUTS", 10)),
    "stop": int(os.environ.get("CLUSTER_STOPS", 10)),
}
LIMITS = {"kill": 5.0, "early kill": 60.0, "cut": 60.0, "stop": 120.0}
"""Seconds until the driver must have ended; early: before its first checkpoint, where 10 s were seen."""


@contextlib.contextmanager
def hosts(number: int):
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(network(number))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces are not permitted here: {error}")
        yield made


def with_optimizer(document: dict, optimizer: dict) -> dict:
    """A run of STEPS steps in which all weights have an optimizer, with default options if it is empty."""
    document = document | {"evaluate": {"every_steps": 0}, "checkpoint": {"every_steps": STEPS}}
    document["train"] = document["train"] | {"num_steps": STEPS, "steps_per_loop": 10}
    for holder in (document, *document.get("tables", {}).values()):
        holder["optimizer"] = {"learning_rate": 0.01} | optimizer
    return document


MAGNIFIED = {"towers-adam": {"dense/003", "average/003"}}
"""The item tower's last bias, which nothing but rounding moves: Adam's default epsilon magnifies it."""
SETTLED, SGD = {"epsilon": 1e-3}, {"kind": "sgd"}


def documents(directory: pathlib.Path) -> dict[str, dict]:
    """Runs by name."""

    def towers(optimizer: dict) -> dict:
        document = with_optimizer(planted_document(str(directory)), optimizer)
        document["model"] = document["model"] | {"loss": {"extra_negatives": 16}}
        document["train"]["clip_norm"] = 0.5
        return document

    pointwise = planted_document(str(directory))
    pointwise["model"] = {"kind": "dot_bias", "negatives": 3}
    clicks = ranking_document(str(directory / "clicks"), EVERYTHING, owners=True, tables={"*": {}})
    return {
        "towers": towers(SETTLED),
        "again": towers(SETTLED),
        "towers-adam": towers({}),
        "towers-sgd": towers(SGD),
        "dot_bias": with_optimizer(pointwise, SETTLED),
        "dot_bias-adam": with_optimizer(pointwise, {}),
        "ranking": with_optimizer(clicks, SETTLED),
    }


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("network")
    write_planted(str(path))
    (path / "clicks").mkdir()
    click_log(str(path / "clicks"), 1500, owners=True, model=EVERYTHING)
    return path


@pytest.fixture(scope="module")
def alone(directory) -> dict[str, dict]:
    """What one machine makes of each run."""
    found = {}
    for name, document in documents(directory).items():
        if name != "again":
            run = directory / f"alone-{name}"
            train(parse_config(moved(document, run), name))
            found[name] = state(run, STEPS)
    return found


def apart(found: dict, expected: dict, tables: bool, but: frozenset | set = frozenset()) -> float:
    """The largest difference of table records, or of dense weights and what belongs to them, `but` some."""
    assert set(found) == set(expected)
    return max(
        float(np.max(np.abs(found[name].astype(np.float64) - value), initial=0))
        for name, value in expected.items()
        if name.startswith("table/") == tables and name not in but
    )


@pytest.mark.parametrize("number", [2, 4])
def test_networks_compute_what_one_machine_does(number, directory, alone, capsys):
    runs, root = documents(directory), directory / f"hosts-{number}"
    if number > 2:  # rounding is the same
        runs = {name: document for name, document in runs.items() if "-" not in name}
    root.mkdir()
    with hosts(number) as made, workers(number, root, made):
        train_on = [on_cluster(document, made.addresses, root / name) for name, document in runs.items()]
        driven(*train_on, within=made.within(0))
    found = {name: state(root / name, STEPS) for name in runs}
    again = found.pop("again")
    assert [name for name, value in again.items() if value.tobytes() != found["towers"][name].tobytes()] == []
    differences = {
        name: [
            apart(found[name], alone[name], tables, MAGNIFIED.get(name, set())) for tables in (True, False)
        ]
        for name in found
    }
    with capsys.disabled():
        for name, (tables, dense) in differences.items():
            print(f"\n{number} hosts, {name}: tables {tables:.1e}, dense {dense:.1e}", end="")
    for name, (tables, dense) in differences.items():
        assert tables < 2e-7, name
        assert dense < 1e-6, name


class Disturbed:
    """A run on hosts of a network that is ended by faults and begun again.

    Args:
      document: of the run.
      made: the network.
      found: its workers.
      log: file of the driver's output.
    """

    def __init__(self, document: dict, made: Network, found: list[WorkerProcess], log: pathlib.Path):
        self._document, self._made, self._workers, self._log = document, made, found, log
        self.driver: subprocess.Popen | None = None
        self.seconds: dict[str, list[float]] = {name: [] for name in LIMITS}
        """From each fault of a worker until the driver had ended."""

    def start(self) -> subprocess.Popen:
        """Starts the driver and waits until it has connected."""
        for worker in self._workers:
            worker.start()
        self.driver = started(self._log, self._document, within=self._made.within(0))
        wait_for("connected to", self._log, self.driver)
        return self.driver

    def disturb(self, kind: str, draw: random.Random) -> bool:
        """One fault of the running driver and what must follow it; False: the run ended before."""
        driver = self.driver
        assert driver is not None
        index = draw.randrange(1, len(self._made.addresses))
        process = self._workers[index - 1].process
        assert process is not None
        faults: dict[str, tuple[Callable, Callable]] = {
            "kill": (lambda: self._workers[index - 1].end(signal.SIGKILL), lambda: None),
            "cut": (lambda: self._made.cut(index), lambda: self._made.plug_in(index)),
            "stop": (
                lambda: process.send_signal(signal.SIGSTOP),
                lambda: process.send_signal(signal.SIGCONT),
            ),
        }
        if kind == "kill" and draw.random() < 0.5:
            driver.kill()
            assert driver.wait(SECONDS) == -signal.SIGKILL
            return True
        begin, end = faults[kind]
        early = "checkpoint of step" not in self._log.read_text(errors="replace")
        begin()
        began = time.monotonic()
        try:
            code = driver.wait(SECONDS)
        finally:
            end()
        if code == 0:
            return False
        self.seconds["early kill" if early and kind == "kill" else kind].append(time.monotonic() - began)
        log = self._log.read_text(errors="replace")
        assert code == 75, log[-4000:]
        assert f"host {index} at {self._made.addresses[index]}" in log, log[-4000:]
        return True

    def close(self) -> None:
        """Ends the driver."""
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait(SECONDS)


def test_faults_at_random_moments(directory, capsys):
    steps = int(os.environ.get("CLUSTER_STEPS", 3000))
    document = planted_document(str(directory))
    document["train"] |= {"num_steps": steps, "steps_per_loop": 10}
    document["checkpoint"] = {"every_steps": 50, "keep": 3}
    document["evaluate"] = {"every_steps": 0}
    draw, root = random.Random(7), directory / "faults"
    root.mkdir()
    left = [kind for kind, number in FAULTS.items() for _ in range(number)]
    draw.shuffle(left)
    with hosts(2) as made, workers(2, root, made) as found:
        whole, run = root / "whole", root / "disturbed"
        began = time.monotonic()
        driven(on_cluster(document, made.addresses, whole), within=made.within(0))
        longest, ended = 0.5 * (time.monotonic() - began), 0
        wanted = state(whole, steps)
        disturbed = Disturbed(on_cluster(document, made.addresses, run), made, found, root / "driver.log")
        with contextlib.closing(disturbed):
            while left or not ended:
                driver = disturbed.start()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    assert driver.wait(draw.uniform(0, longest) if left else SECONDS) == 0
                if driver.poll() is None:
                    if disturbed.disturb(left[-1], draw):
                        left.pop()
                    continue
                same = state(run, steps)
                assert [
                    name for name, value in wanted.items() if same[name].tobytes() != value.tobytes()
                ] == []
                shutil.rmtree(run)
                ended += 1
    with capsys.disabled():
        for kind, seconds in disturbed.seconds.items():
            most = max(seconds, default=0)
            print(f"\n{len(seconds)} x {kind} of a worker: noticed after {most:.1f} s at most", end="")
        print(f"\n{ended} runs ended with the bytes of the undisturbed one", end="")
    for kind, most in LIMITS.items():
        assert max(disturbed.seconds[kind], default=0) < most, (kind, disturbed.seconds[kind])

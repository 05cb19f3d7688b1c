"""A cluster rehearsed on one machine: who is started, restarted, stopped, and what is left."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.fake_tpu import wait_until

# Plays `lazytower train` and `lazytower worker`: notes its TF_CONFIG, and does what files in the scene say.
PLAYER = """
import json, os, pathlib, signal, sys, time
scene, role = pathlib.Path(os.environ["SCENE"]), sys.argv[2]
config = json.loads(os.environ["TF_CONFIG"])
index, hosts = config["task"]["index"], len(config["cluster"]["worker"])
def notes(): return [name for name in os.listdir(scene) if name.startswith("note-")]
def alive():
    pids = [json.loads((scene / name).read_text())["pid"] for name in notes() if "worker" in name]
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
def save(*_):
    time.sleep(0.3)
    (scene / "saved").write_text(str(len(alive())))
    sys.exit(75)
if role == "train":
    signal.signal(signal.SIGTERM, save)
note = {"pid": os.getpid(), "role": role, "words": sys.argv[2:], **config}
(scene / "tmp").mkdir(exist_ok=True)
(scene / "tmp" / str(os.getpid())).write_text(json.dumps(note))
os.replace(scene / "tmp" / str(os.getpid()), scene / f"note-{role}-{os.getpid()}")
print(f"{role} {index} plays", flush=True)
if role == "worker":
    if (scene / "fail").exists():
        sys.exit(3)
    time.sleep(600)
while len(alive()) < hosts - 1 and not (scene / "fail").exists():
    time.sleep(0.02)
if (scene / "again").exists():
    (scene / "again").unlink()
    sys.exit(75)
if (scene / "stay").exists() or (scene / "fail").exists():
    time.sleep(600)
"""


class Scene:
    """A machine with three hosts that PLAYER plays."""

    def __init__(self, directory: pathlib.Path, *files: str):
        self.directory, self.job = directory, directory / "job"
        (directory / "scene").mkdir()
        self.job.mkdir()
        for name in files:
            (directory / "scene" / name).touch()
        (directory / "player.py").write_text(PLAYER)
        work = str(directory / "work")
        spec = {
            **{"job": str(self.job), "attempt": 1, "work": work, "directory": str(directory)},
            **{"python": None, "install": None, "slice": None, "hosts": 3, "max_seconds": 900},
            **{"heartbeat_seconds": 0.2, "log_seconds": 0.2, "start": [str(directory / "player.py")]},
            **{"train": ["train", "--config", "x"], "work_as": ["worker", "--config", "x"]},
        }
        self.machine = subprocess.Popen(
            [sys.executable, "-m", "trainer.vm", json.dumps(spec)],
            env={**os.environ, "SCENE": str(directory / "scene")},
        )

    def notes(self, role: str) -> list[dict]:
        paths = sorted((self.directory / "scene").glob(f"note-{role}-*"))
        return [json.loads(path.read_text()) for path in paths]

    def final(self) -> dict:
        return json.loads((self.job / "attempts" / "001" / "final.json").read_text())

    def log(self) -> str:
        return (self.directory / "work" / "log.txt").read_text()

    def left(self) -> list[int]:
        return [
            n["pid"] for role in ("train", "worker") for n in self.notes(role) if psutil.pid_exists(n["pid"])
        ]


@pytest.fixture
def scene(tmp_path):
    made = []

    def make(*files: str) -> Scene:
        made.append(Scene(tmp_path, *files))
        return made[-1]

    yield make
    for each in made:
        each.machine.kill()
        for pid in each.left():
            os.kill(pid, signal.SIGKILL)


def test_all_hosts_know_each_other_and_restart_together(scene):
    played = scene("again")
    assert played.machine.wait(120) == 0 and played.final()["state"] == "succeeded"
    drivers, workers = played.notes("train"), played.notes("worker")
    assert len(drivers) == 2 and len(workers) == 4, "each round has workers of its own"
    for driver in drivers:
        addresses = driver["cluster"]["worker"]
        of_round = [worker for worker in workers if worker["cluster"] == driver["cluster"]]
        assert len(set(addresses)) == 3 and all(each.startswith("127.0.0.1:") for each in addresses)
        assert sorted(worker["task"]["index"] for worker in of_round) == [1, 2]
        assert driver["task"] == {"type": "worker", "index": 0}
    assert workers[0]["words"] == ["worker", "--config", "x"]
    assert played.left() == [] and "[host 2] worker 2 plays" in played.log()
    assert "\ntrain 0 plays" in played.log() and "restart 1" in played.log()


def test_a_worker_that_fails_ends_the_job(scene):
    played = scene("fail")
    assert played.machine.wait(120) == 3
    final = played.final()
    assert final["state"] == "failed" and final["reason"].endswith("ended with exit code 3")
    assert final["reason"].startswith("host ") and played.left() == []


def test_the_trainer_saves_before_its_workers_are_stopped(scene):
    played = scene("stay")
    wait_until(lambda: len(played.notes("worker")) == 2 and played.notes("train"), what="for all hosts")
    played.machine.send_signal(signal.SIGTERM)
    assert played.machine.wait(120) == 128 + signal.SIGTERM
    assert (played.directory / "scene" / "saved").read_text() == "2" and played.left() == []


def test_nothing_outlives_a_machine_that_is_killed(scene):
    played = scene("stay")
    wait_until(lambda: len(played.notes("worker")) == 2 and played.notes("train"), what="for all hosts")
    played.machine.kill()
    played.machine.wait()
    wait_until(lambda: played.left() == [], what="for all hosts to end")

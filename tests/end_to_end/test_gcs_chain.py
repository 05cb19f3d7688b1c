"""From raw interactions to recommendations with every path in a bucket: equals a local disk, bit for bit."""

import functools
import gzip
import itertools
import json
import os
import pathlib
import random
import signal

import pytest
import yaml

from tests.support.fake_tpu import wait_until
from tests.support.gcs_bucket import Bucket
from tests.support.gcs_gate import gate

USERS, ITEMS, NUM_STEPS = 60, 40, 300

# What a checkpoint holds, whatever files it consists of.
_DIGESTS = """
import hashlib, json, sys
import numpy as np
from configs.load import load_config
from trainer.evaluation.trained import open_trained
trained = open_trained(load_config(sys.argv[1], []))
tables = trained.recommender.storages
values = {name: [t.read_records(np.arange(a, b)) for a, b in t.chunks()] for name, t in tables.items()}
values |= {name: [v.numpy()] for name, v in trained.recommender.dense_state.items()}
def digest(arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array) for array in arrays)).hexdigest()
print(json.dumps([trained.step, {name: digest(arrays) for name, arrays in values.items()}]))
"""


def interactions() -> bytes:
    """A compressed CSV of users who prefer the items near their own number."""
    draw, lines = random.Random(3), ["user,item,time"]
    for place in range(3000):
        user = draw.randrange(USERS)
        item = (user + round(draw.gauss(0, 4))) % ITEMS
        lines.append(f"u{user},i{item},{1_600_000_000 + 60 * place}")
    return gzip.compress("\n".join([*lines, ""]).encode(), mtime=0)


def document(root: str) -> dict:
    """A run with every path under `root`."""
    return {
        "name": "chain",
        "source": {
            "kind": "delimited",
            "paths": [f"{root}/raw/*.csv.gz"],
            "roles": {"user": "user", "item": "item", "timestamp": "time"},
        },
        "dataset": {
            "path": f"{root}/dataset",
            "split": {"kind": "leave_last_out"},
            "history_length": 3,
            "num_shards": 2,
        },
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["user", "history"], "layers": [8]},
            "item_tower": {"inputs": ["item"], "layers": [8]},
        },
        "tables": {name: {"dim": 8, "optimizer": {"learning_rate": 0.02}} for name in ("user", "item")},
        "polyak": {"decay": 0.9},
        "train": {"batch_size": 64, "num_steps": NUM_STEPS, "steps_per_loop": 5},
        "checkpoint": {"every_steps": 30, "keep": 2},
        "evaluate": {"every_steps": 150, "k": [5]},
        "output": {"path": f"{root}/run"},
    }


class Place:
    """Where one chain runs: its config and its files, in the bucket or on a disk.

    Args:
      directory: local; holds the config.
      root: of all paths of the config.
      runner: starts the commands.
      read: an object's or file's content by its path under the root.
    """

    def __init__(self, directory: pathlib.Path, root: str, runner: Bucket, read):
        self.config, self.runner, self.read = str(directory / "run.yaml"), runner, read
        self._digests: list | None = None
        pathlib.Path(self.config).write_text(yaml.safe_dump(document(root)))

    def run(self, command: str, *flags: str) -> str:
        """Output of a sub-command that must succeed."""
        return self.runner.lazytower(command, "--config", self.config, *flags)

    def digests(self) -> list:
        """[step, digest of every table and dense variable] of the newest checkpoint; found once."""
        if self._digests is None:
            self._digests = self._read_digests()
        return self._digests

    def _read_digests(self) -> list:
        process = self.runner.start("-c", _DIGESTS, self.config)
        output, log = process.communicate(timeout=900)
        assert process.returncode == 0, log
        return json.loads(output)

    def losses(self) -> list[tuple[int, float]]:
        """(step, loss) of all train lines."""
        lines = [json.loads(line) for line in self.read("run/metrics.jsonl").splitlines()]
        return [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]

    def figures(self) -> list[dict]:
        """The output of evaluate, without its duration."""
        results = json.loads(self.read("run/evaluate-test.json"))["results"]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in results]

    def answers(self) -> list[dict]:
        """Recommendations for a known and a cold user."""
        found = self.run("recommend", "--users", "u3,nobody", "--k", "5", "--format", "jsonl")
        return [json.loads(line) for line in found.splitlines()]


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Place:
    """The chain on a local disk, up to the trained run."""
    root = tmp_path_factory.mktemp("local")
    (root / "raw").mkdir()
    (root / "raw" / "part-0.csv.gz").write_bytes(interactions())
    place = Place(root, str(root), Bucket(None, dict(os.environ)), lambda name: (root / name).read_bytes())
    place.run("prepare")
    place.run("train")
    return place


@pytest.fixture
def remote(tmp_path, bucket) -> Place:
    """The bucket with the raw interactions."""
    bucket.write("raw/part-0.csv.gz", interactions())
    return Place(tmp_path, bucket.url, bucket, bucket.read)


@pytest.mark.slow
def test_the_whole_chain_equals_the_local_one(local, remote, bucket):
    for place in (remote, local):
        if place is remote:
            place.run("prepare")
            place.run("train")
        place.run("evaluate")
        place.run("export")
    files = [name for name in bucket.names("dataset/") if name != "dataset/dataset.json"]
    assert len(files) >= 6 and {remote.read(name) == local.read(name) for name in files} == {True}
    assert remote.digests() == local.digests()
    assert local.digests()[0] == NUM_STEPS
    assert remote.losses() == local.losses()
    assert remote.figures() == local.figures()
    assert remote.answers() == local.answers()
    tops = {name.split("/")[1] for name in bucket.names("run/")}
    assert tops >= {"config.yaml", "metrics.jsonl", "report.html", "checkpoints", "tensorboard", "export"}
    assert {name.split("/")[2] for name in bucket.names("run/export/")} == {"1"}, "no lock, nothing torn"
    assert not [name for name in bucket.names() if ".lock" in name or ".prepare" in name]


def kill(bucket: Bucket, command: list[str], condition, requests: int = 0) -> None:
    """Starts a command and kills it during a request, the n-th after `condition()` holds."""
    left = itertools.count(-requests)
    with gate(bucket.store, lambda request: condition() and next(left) >= 0) as closed:
        process = bucket.start("-m", "trainer.cli", *command)
        wait_until(lambda: closed.reached.is_set() or process.poll() is not None, what="for the moment")
        process.kill()
        _, log = process.communicate()
    assert process.returncode == -signal.SIGKILL, log


def is_new(bucket: Bucket, before: set[str]) -> bool:
    """Whether a new checkpoint has been started."""
    return not before.issuperset(bucket.names("run/checkpoints/"))


def has(bucket: Bucket, sign: str) -> bool:
    """Whether an object's name holds `sign`."""
    return any(sign in name for name in bucket.names())


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(local, remote, bucket):
    """Killed after each new checkpoint; the next start takes over the dead process's lock at once."""
    remote.run("prepare")
    draw = random.Random(5)
    for _ in range(3):
        before = set(bucket.names("run/checkpoints/"))
        new = functools.partial(is_new, bucket, before)
        kill(bucket, ["train", "--config", remote.config], new, draw.randrange(40))
    assert bucket.names("run/.lock")
    process = bucket.start("-m", "trainer.cli", "train", "--config", remote.config)
    _, log = process.communicate(timeout=900)
    assert process.returncode == 0 and "resuming from step" in log and "which has ended" in log, log
    assert "waiting to see whether that process is alive" not in log, (
        "no waiting for a dead process of this machine"
    )
    assert remote.digests() == local.digests()
    assert dict(remote.losses()) == dict(local.losses())


@pytest.mark.slow
def test_killed_prepare_and_export_leave_nothing_behind(remote, bucket):
    kill(bucket, ["prepare", "--config", remote.config], lambda: has(bucket, "dataset/.prepare-"))
    assert "dataset/.prepare.lock" in bucket.names() and "dataset/dataset.json" not in bucket.names()
    remote.run("prepare")
    assert not [name for name in bucket.names() if "/.prepare" in name]
    remote.run("train")
    command = ["export", "--config", f"{bucket.url}/run/config.yaml"]
    kill(bucket, command, lambda: has(bucket, "export/incomplete-1/"))
    assert bucket.names("run/export/.lock")
    remote.run("export")
    versions = {name.split("/")[2] for name in bucket.names("run/export/")}
    assert versions and versions == {
        name.split("/")[2] for name in bucket.names() if "saved_model.pb" in name
    }
    assert remote.answers()[0]["known"]


@pytest.mark.slow
def test_a_store_that_fails_now_and_then(local, remote, bucket):
    """Every 29th request gets status 503, half of them after they took effect."""
    bucket.store.fail_every = 29
    for command in ("prepare", "train", "evaluate", "export"):
        remote.run(command)
    assert remote.digests() == local.digests()
    answers = remote.answers()
    assert answers[0]["known"] and len(answers[0]["items"]) == 5

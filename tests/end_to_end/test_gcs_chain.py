"""From raw interactions to recommendations with every path in a bucket: equals a local disk, bit for bit."""

import contextlib
import functools
import gzip
import io
import itertools
import json
import pathlib
import random
import signal

import pytest
import yaml

from tests.support.checkpoint_state import newest_state
from tests.support.fake_tpu import wait_until
from tests.support.gcs_bucket import Bucket
from tests.support.gcs_gate import gate
from trainer import cli

USERS, ITEMS, NUM_STEPS = 60, 40, 150


def interactions() -> bytes:
    """A compressed CSV of users who prefer the items near their own number."""
    draw, lines = random.Random(3), ["user,item,time"]
    for place in range(1500):
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
        "evaluate": {"every_steps": 75, "k": [5]},
        "output": {"path": f"{root}/run"},
    }


class Here:
    """Runs the command line in this process."""

    def lazytower(self, *arguments: str) -> str:
        """As Bucket.lazytower."""
        with contextlib.redirect_stdout(io.StringIO()) as output:
            assert cli.run(cli.parse(["lazytower", *arguments])) == 0
        return output.getvalue()


class Place:
    """Where one chain runs: its config and its files, in the bucket or on a disk.

    Args:
      directory: local; holds the config.
      root: of all paths of the config.
      runner: runs the commands.
      read: an object's or file's content by its path under the root.
    """

    def __init__(self, directory: pathlib.Path, root: str, runner: Bucket | Here, read):
        self.config, self.runner, self.read = str(directory / "run.yaml"), runner, read
        pathlib.Path(self.config).write_text(yaml.safe_dump(document(root)))

    def run(self, command: str, *flags: str) -> str:
        """Output of a sub-command that must succeed."""
        return self.runner.lazytower(command, "--config", self.config, *flags)

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
    """The whole chain on a local disk."""
    root = tmp_path_factory.mktemp("local")
    (root / "raw").mkdir()
    (root / "raw" / "part-0.csv.gz").write_bytes(interactions())
    place = Place(root, str(root), Here(), lambda name: (root / name).read_bytes())
    for command in ("prepare", "train", "evaluate", "export"):
        place.run(command)
    assert len(place.losses()) > 0
    return place


@pytest.fixture
def remote(tmp_path, bucket) -> Place:
    """The bucket with the raw interactions."""
    bucket.write("raw/part-0.csv.gz", interactions())
    return Place(tmp_path, bucket.url, bucket, bucket.read)


def assert_equal(remote: Place, local: Place, bucket: Bucket, directory: pathlib.Path) -> None:
    """The datasets' bytes, the newest checkpoints, the losses and the answers.

    Args:
      directory: for a copy of the bucket's checkpoints.
    """
    files = [name for name in bucket.names("dataset/") if name != "dataset/dataset.json"]
    assert len(files) >= 6 and {remote.read(name) == local.read(name) for name in files} == {True}
    for name in bucket.names("run/checkpoints/"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(bucket.read(name))
    assert (directory / "run" / "checkpoints" / f"step-{NUM_STEPS:09d}" / "COMMITTED").exists()
    found = newest_state(directory / "run")
    wanted = newest_state(pathlib.Path(local.config).parent / "run")
    assert found.keys() == wanted.keys() and "tables/user" in wanted
    assert [name for name, value in wanted.items() if found[name].tobytes() != value.tobytes()] == []
    assert dict(remote.losses()) == dict(local.losses())
    assert remote.answers() == local.answers()
    assert local.answers()[0]["known"] and len(local.answers()[0]["items"]) == 5


@pytest.mark.slow
def test_the_whole_chain_equals_the_local_one(local, remote, bucket, tmp_path):
    """Although the store fails now and then: every 29th request gets status 503, half of them after they took
    effect."""
    bucket.store.fail_every = 29
    for command in ("prepare", "train", "evaluate", "export"):
        remote.run(command)
    assert_equal(remote, local, bucket, tmp_path / "copy")
    assert remote.losses() == local.losses()
    assert remote.figures() == local.figures()
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
def test_killed_at_every_stage_and_started_again_equals_undisturbed(local, remote, bucket, tmp_path):
    kill(bucket, ["prepare", "--config", remote.config], lambda: has(bucket, "dataset/.prepare-"))
    assert "dataset/.prepare.lock" in bucket.names() and "dataset/dataset.json" not in bucket.names()
    remote.run("prepare")
    assert not [name for name in bucket.names() if "/.prepare" in name]

    # Each time after a new checkpoint; the next start takes over the dead process's lock at once.
    draw = random.Random(5)
    for _ in range(2):
        before = set(bucket.names("run/checkpoints/"))
        new = functools.partial(is_new, bucket, before)
        kill(bucket, ["train", "--config", remote.config], new, draw.randrange(20))
    assert bucket.names("run/.lock")
    process = bucket.start("-m", "trainer.cli", "train", "--config", remote.config)
    _, log = process.communicate(timeout=900)
    assert process.returncode == 0 and "resuming from step" in log and "which has ended" in log, log
    assert "waiting to see whether that process is alive" not in log, (
        "no waiting for a dead process of this machine"
    )

    command = ["export", "--config", f"{bucket.url}/run/config.yaml"]
    kill(bucket, command, lambda: has(bucket, "export/incomplete-1/"))
    assert bucket.names("run/export/.lock")
    remote.run("export")
    versions = {name.split("/")[2] for name in bucket.names("run/export/")}
    assert versions and versions == {
        name.split("/")[2] for name in bucket.names() if "saved_model.pb" in name
    }
    assert_equal(remote, local, bucket, tmp_path / "copy")

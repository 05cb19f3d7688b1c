"""kill -9 a hundred times, then damage of every kind: no restore is ever torn or silently wrong.

An undisturbed run that keeps all its checkpoints gives the state of every step, read by NumPy alone. Another
run is killed at random moments and started again. After each kill its checkpoints are restored in this
process, and what was restored must be the undisturbed run's state of that very step.
"""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from configs.errors import CheckpointError
from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.checkpoint_state import newest_state
from tests.support.tiny_run import planted_document, write_planted
from trainer.checkpoints import listing
from trainer.checkpoints.identity import checkpoint_identity
from trainer.checkpoints.store import CheckpointStore
from trainer.commands import checkpoints
from trainer.data.catalog import Items
from trainer.models.recommender import Recommender
from trainer.training.step import TrainStep

KILLS = int(os.environ.get("TORTURE_KILLS", 100))
DAMAGES = int(os.environ.get("TORTURE_DAMAGES", 200))
NUM_STEPS, EVERY, KEEP = 2000, 5, 6
# So many users that a few steps touch few of them: most checkpoints are increments, some are full.
SOURCE = {"users": 1500, "items": 300}
START_SECONDS = 12


def document(directory: pathlib.Path, output: str, keep: int) -> dict:
    found = planted_document(str(directory), **SOURCE)
    found["train"] |= {"num_steps": NUM_STEPS, "steps_per_loop": EVERY, "batch_size": 16}
    found["checkpoint"] = {"every_steps": EVERY, "keep": keep, "compact_at": 1.5}
    found["evaluate"] = {"every_steps": 0, "k": [5], "max_users": 20}
    found["device"] = {"kind": "cpu", "threads": 1}
    found["output"]["path"] = str(directory / output)
    return found


def start(directory: pathlib.Path, output: str, keep: int) -> subprocess.Popen:
    path = directory / f"{output}.yaml"
    path.write_text(yaml.safe_dump(document(directory, output, keep)))
    command = [sys.executable, "-m", "trainer.cli", "train", "--config", str(path)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(directory: pathlib.Path, output: str, keep: int) -> str:
    process = start(directory, output, keep)
    log = process.communicate(timeout=900)[1]
    assert process.returncode == 0, log
    return log


def digest(state: dict[str, np.ndarray]) -> str:
    """Digest of names and bits of all arrays."""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode() + np.ascontiguousarray(state[name]).tobytes())
    return found.hexdigest()


def digests(directory: pathlib.Path) -> dict[int, str]:
    """Digests of every step that a run kept, computed by applying each increment to the state before it."""
    state, found = {}, {}
    for path in sorted(directory.glob("checkpoints/step-*")):
        manifest = json.loads((path / "COMMITTED").read_text())
        for name in manifest["tables"]:
            files = sorted(p for p in path.glob(f"tables/{name}/*.npy") if not p.stem.endswith(".ids"))
            if manifest["kind"] == "full":
                state[name] = np.concatenate([np.load(p) for p in files])
            for file in files if manifest["kind"] == "increment" else []:
                state[name][np.load(file.with_suffix(".ids.npy"))] = np.load(file)
        tables = {f"tables/{name}": state[name] for name in manifest["tables"]}
        found[manifest["step"]] = digest(tables | dict(np.load(path / "dense.npz")))
    return found


class Reader:
    """Restores a run's checkpoints through the store, into the variables of a real model."""

    def __init__(self, directory: pathlib.Path):
        config = parse_config(document(directory, "reader", KEEP), "torture")
        dataset = load_dataset(config.dataset.path)
        self.recommender = Recommender(config, dataset, Items.load(dataset).counts, NUM_STEPS)
        self.step = TrainStep(config, self.recommender, NUM_STEPS)
        self.identity = checkpoint_identity(config, dataset.fingerprint, NUM_STEPS)

    def restore(self, path) -> tuple[int | None, str]:
        """(step, digest of all variables)."""
        store = CheckpointStore(str(path), KEEP, self.identity)
        storages = self.recommender.storages
        step = store.restore_newest(storages, self.step.dense_state)
        state = {f"tables/{n}": t.read_records(np.arange(t.rows)).numpy() for n, t in storages.items()}
        return step, digest(state | {n: v.numpy() for n, v in self.step.dense_state.items()})


def kill(process: subprocess.Popen, run: pathlib.Path, draw: random.Random) -> bool:
    """Kills a run at a random moment, mostly around its checkpoints; False if it had ended before."""
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, START_SECONDS))  # while it starts and restores
    else:
        before = set(run.glob("checkpoints/*"))
        while process.poll() is None and not set(run.glob("checkpoints/*")) - before:
            time.sleep(0.001)
        time.sleep(draw.choice([0, draw.uniform(0, 0.02), draw.uniform(0, 0.5)]))
    process.kill()
    log = process.communicate()[1]
    assert process.returncode in (-signal.SIGKILL, 0), log
    return process.returncode != 0


def check_leftovers(run: pathlib.Path) -> None:
    """At most a directory being written and one being deleted, and one temporary file."""
    torn = [p for p in run.glob("checkpoints/*") if not (p / "COMMITTED").exists()]
    assert len(torn) <= 2, torn
    assert len(list(run.rglob("*.tmp"))) <= 1


def survive(directory: pathlib.Path, reader: Reader, wanted: dict[int, str], say) -> pathlib.Path:
    """Kills KILLS times, then runs to the end; returns the last run."""
    draw, kills, generation, kinds = random.Random(17), 0, 0, {"full": 0, "increment": 0}
    output = "killed-0"
    while kills < KILLS:
        run = directory / output
        if not kill(start(directory, output, KEEP), run, draw):
            assert digest(newest_state(run)) == wanted[NUM_STEPS]
            generation += 1
            output = f"killed-{generation}"
            continue
        kills += 1
        check_leftovers(run)
        step, found = reader.restore(run / "checkpoints")
        assert step is None or found == wanted[step], f"after kill {kills} step {step} is not as it was"
        for name in run.glob("checkpoints/step-*/COMMITTED"):
            kinds["increment" if "increment" in str(name) else "full"] += 1
        if kills % 10 == 0:
            say(f"{kills} kills survived, step {step}")
    finish(directory, output, KEEP)
    say(f"kills survived: {kills}; checkpoints seen after them: {kinds}")
    assert min(kinds.values()) > 0
    return directory / output


def damaged(content: bytes, kind: str, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ draw.randrange(1, 256)]) + content[at + 1 :]
    return {
        "truncate": content[:at],
        "zeros": content[:at] + bytes(len(content) - at),
        "append": content + b"x",
    }[kind]


def damage(path: pathlib.Path, draw: random.Random) -> bool:
    """Damages one file; False if that does not change its meaning (a space in JSON became a tab)."""
    kind = draw.choice(["flip", "flip", "truncate", "truncate", "delete", "zeros", "append"])
    if kind == "delete":
        path.unlink()
        return True
    before = path.read_bytes()
    after = damaged(before, kind, draw)
    path.write_bytes(after)
    if path.name == "COMMITTED":
        try:
            return json.loads(before) != json.loads(after)
        except ValueError:
            return True
    return before != after


def needed(checkpoints_path: pathlib.Path) -> dict[int, set[str]]:
    """Relative files that restoring each step reads, by the manifests before any damage."""
    manifests = {}
    for path in checkpoints_path.glob("*/COMMITTED"):
        manifest = json.loads(path.read_text())
        manifests[manifest["step"]] = (path.parent.name, manifest)
    found = {}
    for step in manifests:
        name, manifest = manifests[step]
        files = {f"{name}/dense.npz"}
        while True:
            files |= {f"{name}/{file}" for file in manifest["files"] if file != "dense.npz"} | {
                f"{name}/COMMITTED"
            }
            if manifest["kind"] == "full":
                break
            name, manifest = manifests[manifest["base"]["step"]]
        found[step] = files
    return found


def corrupt(run: pathlib.Path, reader: Reader, wanted: dict[int, str], say) -> None:
    """Damages copies of a run's checkpoints, one to three files at a time, and restores each copy."""
    draw, injected, detected, fallen_back, refused = random.Random(23), 0, 0, 0, 0
    source, copy = run / "checkpoints", run.parent / "copy"
    of_step = needed(source)
    while injected < DAMAGES:
        shutil.copytree(source, copy)
        files = sorted(p for p in copy.rglob("*") if p.is_file())
        chosen = draw.sample(files, draw.choice([1, 1, 2, 3]))
        hit = {str(p.relative_to(copy)) for p in chosen if damage(p, draw)}
        injected += len(hit)
        detected += sum(found_by_the_command(copy, name) for name in hit)
        good = [step for step, names in of_step.items() if not names & hit]
        if good:
            step, found = reader.restore(copy)
            assert step == max(good), f"{hit}: restored {step}, {max(good)} is good"
            assert found == wanted[step], f"{hit}: step {step} is not as it was"
            fallen_back += step != max(of_step)
        else:
            with pytest.raises(CheckpointError):
                reader.restore(copy)
            refused += 1
        shutil.rmtree(copy)
    say(f"damaged files: {injected}, detected: {detected}; {fallen_back} fall-backs, {refused} refusals")
    assert detected == injected and fallen_back and refused


def found_by_the_command(copy: pathlib.Path, name: str) -> bool:
    """Whether the checkpoint of this file, taken alone, is not listed as verified."""
    directory = name.partition("/")[0]
    rows = listing.listed(str(copy))
    step, kind = int(directory[5:14]), "increment" if directory.endswith(".increment") else "full"
    [status] = [row["status"] for row in rows if (row["step"], row["kind"]) == (step, kind)]
    return status != "verified"


@pytest.mark.torture
def test_kills_and_damage(tmp_path, capsys):
    def say(text):
        with capsys.disabled():
            print(f"\n{time.strftime('%H:%M:%S')} {text}", end="", flush=True)

    write_planted(str(tmp_path), **SOURCE)
    finish(tmp_path, "whole", 10**6)
    wanted = digests(tmp_path / "whole")
    assert len(wanted) == NUM_STEPS // EVERY == len(set(wanted.values()))
    reader = Reader(tmp_path)
    run = survive(tmp_path, reader, wanted, say)
    assert digest(newest_state(run)) == wanted[NUM_STEPS] == digest(newest_state(tmp_path / "whole"))
    assert not list(run.rglob("*.tmp")) and all((p / "COMMITTED").exists() for p in run.glob("checkpoints/*"))
    assert checkpoints.run(type("Args", (), {"run": str(run), "compact": False})) == 0
    corrupt(run, reader, wanted, say)

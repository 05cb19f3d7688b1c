"""Two planted days through the real `lazytower day`, killed on the way: in the end nothing shows it."""

import json
import os
import pathlib
import random
import shutil
import subprocess
import time

import numpy as np
import pytest
import yaml

from configs.planted.interactions import Planted, item_key, user_key
from configs.sections.source_kinds.synthetic import SyntheticSourceConfig
from configs.system.processes import module_command
from tests.support.checkpoint_state import newest_state
from trainer.serving.versions import versions

DAYS, ROWS = 2, 1000
KILLS = int(os.environ.get("DAY_KILLS", 50))
NAMES = ["2023-11-14", "2023-11-15"]


def write_days(root: pathlib.Path) -> None:
    """A file for each day, in which new users and items come, and the config."""
    (root / "events").mkdir()
    for day in range(DAYS):
        source = SyntheticSourceConfig(
            kind="synthetic", rows=ROWS, users=100 + 20 * day, items=60 + 10 * day, clusters=4, seed=7
        )
        users, items, _ = Planted(source).rows(0, ROWS)
        start = 1_699_920_000 + day * 86_400
        rows = [
            f"{bytes(user).decode()},{bytes(item).decode()},{start + i * 86_400 // ROWS}"
            for i, (user, item) in enumerate(zip(user_key(users), item_key(items), strict=True))
        ]
        (root / "events" / f"{day}.csv").write_text("\n".join(["user,item,time", *rows, ""]))
    document = {
        "name": "shop",
        "source": {
            "kind": "delimited",
            "paths": ["events/*.csv"],
            "roles": {"user": "user", "item": "item", "timestamp": "time"},
        },
        "dataset": {"path": "datasets/shop"},
        "tables": {"*": {"dim": 8}},
        "train": {"batch_size": 128, "num_epochs": 1},
        "checkpoint": {"every_steps": 3},
        "evaluate": {"k": [10]},
        "device": {"kind": "cpu", "threads": 1},
        "day": {"keep": 2, "tolerance": 0.9},
        "output": {"path": "runs/shop"},
    }
    (root / "shop.yaml").write_text(yaml.safe_dump(document))


def start(root: pathlib.Path, day: int) -> subprocess.Popen:
    arguments = ["day", "--config", "shop.yaml", "--new", f"events/{day}.csv"]
    return subprocess.Popen(
        module_command("trainer.cli", *arguments),
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(root: pathlib.Path, day: int) -> None:
    process = start(root, day)
    log = process.communicate(timeout=900)[1]
    assert process.returncode == 0, log[-4000:]


def content(root: pathlib.Path) -> dict:
    """All that days leave, less times: bytes of datasets and records, states of runs, figures, versions."""
    days = root / "datasets" / "days"
    found: dict = {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(days.rglob("*"))
        if path.is_file() and (path.name in ("day.json", "config.yaml") or "dataset" in path.parts[-3:])
    }
    for name in [name for name in found if name.endswith("dataset.json")]:
        document = json.loads(found[name])
        for file in document["source_files"]:
            del file["version"]  # times and inode of a copied source
        found[name] = document
    found["days"] = sorted(path.name for path in days.iterdir() if not path.name.startswith("."))
    for run in sorted(days.glob("*/run")):
        state = newest_state(run)
        found[str(run.relative_to(root))] = {name: np.asarray(v).tobytes() for name, v in state.items()}
        for path in sorted(run.glob("evaluate-*.json")):
            lines = json.loads(path.read_text())["results"]
            text = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
            found[str(path.relative_to(root))] = text
    for number in versions(str(root / "runs" / "shop" / "export")):
        version = root / "runs" / "shop" / "export" / str(number)
        facts = json.loads((version / "assets.extra" / "lazytower.json").read_text())
        found[f"version {number}"] = facts["name"], facts["step"], facts["dataset_fingerprint"]
    return found


@pytest.fixture(scope="module")
def days(tmp_path_factory) -> tuple[pathlib.Path, dict]:
    """The directory as it is before the first day, and what undisturbed days make of it."""
    root = tmp_path_factory.mktemp("days") / "shop"
    root.mkdir()
    write_days(root)
    shutil.copytree(root, root.with_name("before"))
    for day in range(DAYS):
        finish(root, day)
    wanted = content(root)
    shutil.rmtree(root)
    return root, wanted


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate(timeout=60)  # until the last of its commands has ended


def line_of(process: subprocess.Popen, wanted: str) -> bool:
    """Reads the log up to a line; False: the process ended before."""
    return any(wanted in line for line in process.stderr)


@pytest.mark.slow
def test_two_days_and_deaths_between_stages(days):
    """What is deleted after more days, and a death at every single moment: trainer/daily/test_job.py."""
    root, wanted = days
    shutil.copytree(root.with_name("before"), root)
    for day, stages in enumerate((["trained", "exported"], ["evaluated", "decided"])):
        for stage in stages:
            process = start(root, day)
            assert line_of(process, f"to be {stage}")
            kill(process)
            assert len(versions(str(root / "runs" / "shop" / "export"))) == day
        finish(root, day)
    found = content(root)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    records = [json.loads(found[f"datasets/days/{name}/day.json"]) for name in NAMES]
    assert [record["accepted"] for record in records] == [True] * DAYS
    assert all(record["new"]["user"] > 0 for record in records)
    shutil.rmtree(root)


@pytest.mark.torture
def test_deaths_at_random_moments(days, capsys):
    root, wanted = days
    draw, kills, rounds, seconds = random.Random(3), 0, 0, 60.0
    while kills < KILLS:
        shutil.copytree(root.with_name("before"), root)
        rounds += 1
        for day in range(DAYS):
            done = False
            while kills < KILLS and not done:
                served = versions(str(root / "runs" / "shop" / "export"))[-1:]
                process, began = start(root, day), time.monotonic()
                try:
                    log = process.communicate(timeout=draw.uniform(0, seconds))[1]
                    seconds = max(5.0, 2 * (time.monotonic() - began) / 3)
                    assert process.returncode == 0, log[-4000:]
                    done = True
                except subprocess.TimeoutExpired:
                    kill(process)
                    kills += 1
                assert set(versions(str(root / "runs" / "shop" / "export"))) >= set(served)
            if not done:
                finish(root, day)
        found = content(root)
        assert [name for name in wanted if found.get(name) != wanted[name]] == []
        assert found.keys() == wanted.keys()
        shutil.rmtree(root)
    with capsys.disabled():
        print(f"\n{kills} kills survived in {rounds} rounds", end="")

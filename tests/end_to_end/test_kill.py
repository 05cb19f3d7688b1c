"""kill -9 at random moments: the finished run holds the same bits as an undisturbed one."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from tests.support.checkpoint_state import newest_state
from tests.support.tiny_run import planted_document, write_planted

NUM_STEPS, KILLS = 1500, 4


@pytest.fixture
def config(tmp_path) -> str:
    write_planted(str(tmp_path))
    document = planted_document(str(tmp_path))
    document["train"] |= {"num_steps": NUM_STEPS, "steps_per_loop": 5}
    document["checkpoint"] = {"every_steps": 25, "keep": 3}
    document["evaluate"] = {"every_steps": 250, "k": [5]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    return str(tmp_path / "run.yaml")


def start(config: str, output: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "trainer.cli",
        "train",
        "--config",
        config,
        "--set",
        f"output.path={output}",
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(config: str, output: str) -> str:
    process = start(config, output)
    log = process.communicate(timeout=900)[1]
    assert process.returncode == 0, log
    return log


def paths_below(directory: pathlib.Path) -> set[str]:
    """All files and directories; os.walk, unlike rglob, tolerates that some vanish during the walk."""
    found = os.walk(directory)
    return {os.path.join(folder, name) for folder, *both in found for names in both for name in names}


def kill_some_time_after_the_first_checkpoint(config: str, output: pathlib.Path, wait: float) -> None:
    """Kills a run `wait` seconds after its directory changed, unless it has ended."""
    before = paths_below(output)
    process = start(config, str(output))
    while process.poll() is None and not any("step-" in path for path in paths_below(output) - before):
        time.sleep(0.002)
    time.sleep(wait)
    process.kill()
    process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0)


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(config, tmp_path):
    finish(config, str(tmp_path / "whole"))
    draw, killed = random.Random(1), tmp_path / "killed"
    for _ in range(KILLS):
        kill_some_time_after_the_first_checkpoint(config, killed, draw.uniform(0, 0.4))
    log = finish(config, str(killed))
    assert "resuming from step" in log
    whole, resumed = newest_state(tmp_path / "whole"), newest_state(killed)
    assert int(whole["step"]) == NUM_STEPS and set(whole) == set(resumed)
    for name, value in whole.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    kept = sorted(path.name for path in (killed / "checkpoints").iterdir())
    assert kept == sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()), "no orphans"
    steps = [int(name[5:14]) for name in kept]
    assert steps[-3:] == [NUM_STEPS - back for back in (50, 25, 0)]
    assert not list(killed.rglob("*.tmp"))

"""kill -9 at random moments: the run that ends after them holds the same bits as one never disturbed."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from tests.tiny_run import planted_document, write_planted

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
    log = process.communicate(timeout=300)[1]
    assert process.returncode == 0, log
    return log


def kill_some_time_after_the_first_checkpoint(config: str, output: pathlib.Path, wait: float) -> None:
    """Kills a run, if it has not ended before, `wait` seconds after its directory changed."""
    before = set(output.rglob("*"))
    process = start(config, str(output))
    while process.poll() is None and not any("step-" in str(p) for p in set(output.rglob("*")) - before):
        time.sleep(0.002)
    time.sleep(wait)
    process.kill()
    process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_and_resumed_equals_undisturbed(config, tmp_path, seed):
    finish(config, str(tmp_path / "whole"))
    draw, killed = random.Random(seed), tmp_path / "killed"
    for _ in range(KILLS):
        kill_some_time_after_the_first_checkpoint(config, killed, draw.uniform(0, 0.4))
    log = finish(config, str(killed))
    assert "resuming from step" in log
    last = f"checkpoints/step-{NUM_STEPS:09d}"
    whole, resumed = (
        {p.relative_to(d): p for p in d.rglob("*.np*")} for d in (tmp_path / "whole" / last, killed / last)
    )
    assert set(whole) == set(resumed) and len(whole) == 3
    for name, path in whole.items():
        if path.suffix == ".npy":
            assert path.read_bytes() == resumed[name].read_bytes()
    with np.load(tmp_path / "whole" / last / "dense.npz") as one, np.load(killed / last / "dense.npz") as two:
        assert one.files == two.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    kept = sorted(path.name for path in (killed / "checkpoints").iterdir())
    assert kept == [f"step-{NUM_STEPS - back:09d}" for back in (50, 25, 0)], "no orphans"

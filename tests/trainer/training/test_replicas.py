"""A run resumed with other inner loops, threads or replicas ends with the same weights."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from configs.errors import ConfigError
from configs.load import load_config, parse_config
from tests.support.ranking_dataset import EVERYTHING, click_log, ranking_document
from tests.support.tiny_run import planted_document, write_planted
from trainer.evaluation.trained import open_trained

RESUMED_AT, NUM_STEPS = 10, 30
TOWER = {"layers": [16, 8], "dropout": 0.2}


def document(directory: str, model: dict) -> dict:
    made = planted_document(directory)
    made["model"] = model
    return settled(made)


def settled(made: dict) -> dict:
    made["train"] |= {"num_steps": NUM_STEPS, "steps_per_loop": 7, "batch_size": 64, "clip_norm": 0.5}
    made["checkpoint"] = {"every_steps": RESUMED_AT, "keep": NUM_STEPS}
    made["evaluate"] = {"every_steps": 0}
    return made


def train(path: pathlib.Path, output: pathlib.Path, **overrides) -> None:
    settings = {"output.path": output, **{key.replace("__", "."): v for key, v in overrides.items()}}
    flags = [f"--set={key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "trainer.cli", "train", "--config", str(path), *flags]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


def weights(path: pathlib.Path, output: pathlib.Path) -> dict[str, np.ndarray]:
    """All records and dense values of the end of a run."""
    trained = open_trained(load_config(str(path), [f"output.path={output}"]))
    assert trained.step == NUM_STEPS
    found = {name: v.numpy() for name, v in trained.recommender.dense_state.items()}
    for name, table in trained.recommender.storages.items():
        found[name] = np.asarray(table.read_records(np.arange(table.rows)))
    return found


def ranking(directory: str) -> dict:
    """A config with all that a ranking model can read and do, and its dataset."""
    click_log(directory, 1500, owners=True, model=EVERYTHING)
    return settled(ranking_document(directory, EVERYTHING, owners=True))


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory):
    """(config file, directory of the undisturbed run, copy of it as of RESUMED_AT steps, its weights)."""
    root = tmp_path_factory.mktemp(request.param)
    path = root / "run.yaml"
    if request.param == "ranking":
        path.write_text(yaml.safe_dump(ranking(str(root))))
        return run(path, root)
    write_planted(str(root))
    model = {"kind": "dot_bias", "negatives": 3}
    if request.param == "sequence":
        tower = {"inputs": ["history"], "sequence": {"heads": 2, "dropout": 0.2}}
        model = {"kind": "two_tower", "user_tower": tower, "loss": {"kind": "gbce", "negatives": 8}}
        made = document(str(root), model)
        del made["tables"]["user"]
        path.write_text(yaml.safe_dump(made))
        return run(path, root)
    if request.param in ("two_tower", "groups"):
        towers = {
            side: {"inputs": [side.partition("_")[0]], **TOWER} for side in ("user_tower", "item_tower")
        }
        # Normalized, because a softmax does not see a vector that is added to all items: the gradient of the
        # item tower's last bias would be rounding alone, which Adam turns into steps of full size.
        model = {
            "kind": "two_tower",
            **towers,
            "normalize": True,
            "loss": {"temperature": 0.2, "extra_negatives": 32},
        }
        if request.param == "groups":  # each of four replicas has half of one, each of two a whole one
            model["loss"] |= {"group": 32}
    path.write_text(yaml.safe_dump(document(str(root), model)))
    return run(path, root)


def run(path: pathlib.Path, root: pathlib.Path) -> tuple:
    """As `whole`, of a config file."""
    train(path, root / "whole")
    half = root / "half"
    shutil.copytree(root / "whole", half)
    for later in (half / "checkpoints").iterdir():
        if int(later.name.removeprefix("step-")[:9]) > RESUMED_AT:
            shutil.rmtree(later)
    return path, half, weights(path, root / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    "whole, overrides, exact",
    [
        ("two_tower", {"train__steps_per_loop": 3, "device__threads": 1}, True),
        ("two_tower", {"device__replicas": 4}, False),
        ("groups", {"train__steps_per_loop": 3, "device__threads": 1}, True),
        ("groups", {"device__replicas": 4}, False),
        ("dot_bias", {"device__replicas": 2}, False),
        ("sequence", {"train__steps_per_loop": 3, "device__threads": 1}, True),
        ("sequence", {"device__replicas": 2}, False),
        ("ranking", {"train__steps_per_loop": 3, "device__threads": 1}, True),
        ("ranking", {"device__replicas": 2}, False),
    ],
    indirect=["whole"],
    ids=str,
)
def test_resumed_otherwise(whole, tmp_path, overrides, exact):
    path, half, expected = whole
    shutil.copytree(half, tmp_path / "run")
    train(path, tmp_path / "run", **overrides)
    found = weights(path, tmp_path / "run")
    assert set(found) == set(expected)
    for name, value in found.items():
        if exact:
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
        else:  # the sums have another order
            np.testing.assert_allclose(value, expected[name], rtol=2e-4, atol=2e-5, err_msg=name)


def test_batches_must_divide(tmp_path):
    made = document(str(tmp_path), {"kind": "two_tower"}) | {"device": {"replicas": 3}}
    with pytest.raises(ConfigError, match="batch_size: 64 is not divisible by device.replicas 3"):
        parse_config(made, "test")
    made["device"]["replicas"] = 2
    made["model"]["loss"] = {"extra_negatives": 5}
    with pytest.raises(ConfigError, match="loss.extra_negatives: 5 is not divisible by device.replicas 2"):
        parse_config(made, "test")

"""Whole runs with tables in an emulated TPU: checkpoints, resuming elsewhere, evaluation, export."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from configs.errors import UserError
from configs.load import parse_config
from configs.sections import devices
from tests.support.checkpoint_state import newest_state
from tests.support.feature_dataset import write_features
from tests.support.feature_worlds import every_kind, raw_world
from tests.support.ranking_dataset import click_log, ranking_document
from tests.support.tiny_run import planted_document, write_planted
from tests.support.tpu_emulator import emulated_tpu
from trainer.evaluation.scorer import evaluate_recommender
from trainer.evaluation.trained import open_trained
from trainer.serving import export
from trainer.training.run import train

# On a TPU, graphs are optimized by others.
pytestmark = [pytest.mark.any_python, pytest.mark.usefixtures("plain_graphs")]

MODELS = {
    "two_tower": {
        "kind": "two_tower",
        "user_tower": {"inputs": ["user", "history"], "layers": [12, 8]},
        "item_tower": {"inputs": ["item"], "layers": [12, 8]},
        "normalize": True,
        "loss": {"temperature": 0.2},
    },
    "dot_bias": {"kind": "dot_bias", "negatives": 2},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    made = str(tmp_path_factory.mktemp("tpu"))
    write_planted(made)
    return made


def document(root: str, run: str, device: dict, model: str = "two_tower", **sections) -> dict:
    made = planted_document(root)
    made["model"] = MODELS[model]
    made["output"]["path"] = f"{root}/{run}"
    made["device"] = device
    for name, keys in sections.items():
        made[name] = made.get(name, {}) | keys
    return made


def run(root, name, slice_=None, **sections):
    """Trains or resumes; returns the config. `slice_` None: on the CPU."""
    device = {} if slice_ is None else {"kind": "tpu", "slice": slice_}
    config = parse_config(document(root, name, device, **sections), name)
    with emulated_tpu():
        train(config)
    return config


def assert_close(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=3e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("slice_", ["v4-32", "v6e-4"])
def test_a_run_is_that_of_the_cpu_and_its_checkpoints_serve(root, slice_, monkeypatch):
    cpu = run(root, "cpu")
    tpu = run(root, f"run-{slice_}", slice_, checkpoint={"every_steps": 20, "keep": 9})
    assert_close(newest_state(tpu.output.path), newest_state(cpu.output.path))
    kinds = {path.parent.name for path in pathlib.Path(tpu.output.path).glob("checkpoints/*/COMMITTED")}
    assert len(kinds) == 3
    # Evaluation while it trained, from the emulated chips' rows, and afterwards on the CPU, from the files.
    lines = [
        json.loads(line) for line in pathlib.Path(tpu.output.path, "metrics.jsonl").read_text().splitlines()
    ]
    during = [e for e in lines if e["kind"] == "evaluate" and e["step"] == 60 and e["scorer"] == "model"]
    trained = open_trained(tpu)
    after = evaluate_recommender(trained.recommender, trained.dataset, trained.items, 60, "valid")[0]
    assert during[0]["ndcg@5"] == pytest.approx(after["ndcg@5"], abs=1e-6)
    assert during[0]["weights"] == "average"
    monkeypatch.setattr(export, "replay_golden", lambda model, golden: None)  # files are files
    assert pathlib.Path(export.export(tpu), "saved_model.pb").exists()


@pytest.mark.slow
def test_a_run_moves_from_slice_to_slice_and_to_the_cpu(root):
    expected = newest_state(run(root, "cpu").output.path)
    for number, place in zip((20, 40, 60), ("v4-32", "v5p-8", None), strict=True):
        stops = {"train": {"num_steps": 60}, "checkpoint": {"every_steps": 20, "keep": 1}}
        with pytest.MonkeyPatch.context() as patch:
            _stop_after(patch, number)
            try:
                run(root, "moving", place, **stops)
            except _Enough:
                assert number < 60
    assert_close(newest_state(f"{root}/moving"), expected)


@pytest.fixture(scope="module")
def with_features(tmp_path_factory):
    """(function from an output and a device to a config, an undisturbed run on a CPU)."""
    root = str(tmp_path_factory.mktemp("features"))
    made = every_kind(root)
    made["polyak"] = {"decay": 0.9, "start_fraction": 0.1}
    # A softmax does not see what is added to all items: rounding alone would move a bias.
    made["model"] |= {"item_bias": False}
    made["model"]["user_tower"] |= {"id_dropout": 0.3}
    made["model"]["item_tower"] |= {"id_dropout": 0.3, "activation": "tanh", "layers": [12, 8]}
    made |= {"checkpoint": {"every_steps": 10, "keep": 2}, "evaluate": {"every_steps": 0}}

    def config_of(name: str, slice_: str | None):
        device = {} if slice_ is None else {"device": {"kind": "tpu", "slice": slice_}}
        return parse_config(made | {"output": {"path": f"{root}/{name}"}} | device, name)

    cpu = config_of("cpu", None)
    write_features(cpu, raw_world())
    train(cpu)
    return config_of, pathlib.Path(cpu.output.path)


@pytest.mark.slow
@pytest.mark.parametrize("place", [None, "v6e-4"])
def test_features_and_dropped_ids_survive_a_stop(with_features, place):
    """What a machine without a TPU began ends alike there and on a TPU."""
    config_of, whole = with_features
    config = config_of(f"cut-{place}", place)
    shutil.copytree(whole, config.output.path)
    for checkpoint in pathlib.Path(config.output.path).glob("checkpoints/step-000000020*"):
        shutil.rmtree(checkpoint)
    with emulated_tpu():
        train(config)
    assert_close(newest_state(config.output.path), newest_state(whole))


class _Enough(BaseException):
    """The machine has disappeared."""


def _stop_after(patch, step: int) -> None:
    """Ends a run right after the checkpoint of a step, like a pre-emption."""
    from trainer.training.session import TrainSession

    save = TrainSession._save

    def stop(self, at):
        save(self, at)
        if at == step and at < self.num_steps:
            self._wait_for_checkpoint()
            raise _Enough

    patch.setattr(TrainSession, "_save", stop)


def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_step(root):
    sections = {"optimizer": {"learning_rate": 1e38}, "tables": {"user": {"dim": 8}, "item": {"dim": 8}}}
    with pytest.raises(
        UserError, match=r"^step \d+: not finite: .*learning rates \(in another output.path\)$"
    ):
        run(root, "wild", "v4-8", **sections)


def test_tables_that_do_not_fit_are_refused_before_anything_is_connected(root):
    wide = {"tables": {"user": {"dim": 4096}, "item": {"dim": 4096}}}
    model = {
        "user_tower": {"inputs": ["user"], "layers": [8]},
        "item_tower": {"inputs": ["item"], "layers": [8]},
    }
    made = document(root, "wide", {"kind": "tpu", "slice": "v6e-4"}, **wide)
    made["model"] = {"kind": "two_tower", **model}
    config = parse_config(made, "wide")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "tpu_slice", lambda name: _tiny(name))
        with pytest.raises(UserError, match="device.slice: v6e-4 has 0.0 GB per chip, but the tables need"):
            train(config)


def _tiny(name):
    from configs.system.tpu import tpu_slice

    return tpu_slice(name)._replace(bytes_per_chip=1000)


@pytest.mark.slow
@pytest.mark.parametrize("model, slice_", [("dot_bias", "v3-8"), ("two_tower", "v6e-4")])
def test_four_replicas_are_one(root, tmp_path, model, slice_):
    """Global negatives, sums over replicas and averages: losses and weights agree up to float32 rounding."""
    expected = newest_state(run(root, f"one-{model}", model=model).output.path)
    made = document(root, f"four-{model}-{slice_}", {"kind": "tpu", "slice": slice_}, model)
    made["tables"] = {name: table | {"placement": "engine"} for name, table in made["tables"].items()}
    train_on_four(made, tmp_path)
    assert_close(newest_state(made["output"]["path"]), expected)


def train_on_four(made: dict, directory: pathlib.Path) -> None:
    """Trains on four replicas, in a process of its own."""
    path = directory / "run.yaml"
    path.write_text(json.dumps(made))
    command = [sys.executable, "-m", "tests.support.tpu_emulator", "4", "train", "--config", str(path)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_four_replicas_sum_the_gradients_of_small_tables(tmp_path):
    """A ranking model whose tables are on the TensorCores, but for one; sm3 has state that rows share."""
    model = {"tasks": [{"name": "click"}, {"name": "buy", "label": "buy", "where": "label"}], "top": [12, 8]}
    tables = {"c1": {"optimizer": {"kind": "sm3"}}}
    config = click_log(str(tmp_path), model=model, tables=tables)
    train(config)
    expected = newest_state(config.output.path)
    made = ranking_document(str(tmp_path), model)
    made["tables"] = {"c0": {"placement": "engine"}, "c1": tables["c1"] | {"placement": "tensorcore"}}
    made["device"], made["output"]["path"] = {"kind": "tpu", "slice": "v4-8"}, str(tmp_path / "four")
    train_on_four(made, tmp_path)
    assert_close(newest_state(made["output"]["path"]), expected)

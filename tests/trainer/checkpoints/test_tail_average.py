"""Averages of the newest checkpoints, against NumPy's mean of what each of them holds."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from absl import logging

from configs.errors import ConfigError
from configs.load import parse_config
from tests.support.checkpoint_state import state_of
from tests.support.documents import document as smallest
from tests.support.replays import export_here
from tests.support.tiny_run import SMALL_MODEL, planted_document, write_planted
from tests.support.tpu_emulator import emulated_tpu
from trainer.evaluation.scorer import evaluate_recommender
from trainer.evaluation.trained import open_trained
from trainer.training.run import train

pytestmark = pytest.mark.any_python


def document(root, **sections):
    made = planted_document(str(root))
    made["model"] = SMALL_MODEL
    made["polyak"] = {"kind": "tail_average", "checkpoints": 3}
    # Increments are small beside full checkpoints, so that the chain of each differs.
    made["checkpoint"] = {"every_steps": 10, "keep": 4, "compact_at": 9.0}
    made["train"]["batch_size"] = 8
    return made | sections


@pytest.fixture(scope="module", params=["cpu", "v6e-4"])
def trained_run(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    write_planted(str(root))
    device = {} if request.param == "cpu" else {"kind": "tpu", "slice": request.param}
    config = parse_config(document(root, device=device), "test")
    with emulated_tpu():
        train(config)
    return config


def states(config) -> dict[int, dict]:
    """What NumPy finds in the complete checkpoints of a run, by step."""

    manifests = {}
    for path in pathlib.Path(config.output.path).glob("checkpoints/*/COMMITTED"):
        manifest = json.loads(path.read_text())
        manifests.setdefault(manifest["step"], {})[manifest["kind"]] = (path.parent, manifest)
    return {step: state_of(manifests, step) for step in manifests}


def test_the_mean_of_the_last_three(trained_run):
    found = states(trained_run)
    steps = sorted(found)[-3:]
    assert steps == [40, 50, 60]
    trained = open_trained(trained_run)
    recommender = trained.recommender
    assert recommender.has_averages and recommender.average is None
    for name, table in recommender.storages.items():
        ids = np.random.default_rng(0).permutation(table.rows)
        expected = np.mean([found[s][f"tables/{name}"][ids, : table.dim] for s in steps], axis=0)
        np.testing.assert_allclose(table.read_weights(ids, True, 60.0), expected, rtol=1e-6, atol=1e-7)
        raw = found[60][f"tables/{name}"][ids, : table.dim]
        np.testing.assert_array_equal(table.read_weights(ids, False, 60.0), raw)
    with recommender.averaged_dense():
        for i, variable in enumerate(recommender.dense_variables):
            expected = np.mean([found[s][f"dense/{i:03d}"] for s in steps], axis=0)
            np.testing.assert_allclose(variable, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(recommender.dense_variables[0], found[60]["dense/000"])


@pytest.mark.parametrize("trained_run", ["cpu"], indirect=True)  # both have the same files
def test_they_are_evaluated_and_served(trained_run):
    trained = open_trained(trained_run)
    averaged = evaluate_recommender(trained.recommender, trained.dataset, trained.items, 60, "valid")[0]
    assert averaged["weights"] == "average"
    version = export_here(trained_run)
    assert pathlib.Path(version, "saved_model.pb").exists()


def test_damaged_ones_are_passed_over(trained_run, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(trained_run.output.path, copy)
    # The towers of step 50, which no later step builds on.
    [dense] = copy.glob("checkpoints/step-000000050*/dense.npz")
    dense.write_bytes(b"torn")
    output = trained_run.output.model_copy(update={"path": str(copy)})
    warned = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: warned.append(text % values))
    trained = open_trained(trained_run.model_copy(update={"output": output}))
    assert any("step 50 is left out of the average" in text for text in warned)
    assert len(trained.recommender.dense_tail) == len(trained.recommender.dense_variables)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"polyak": {"kind": "tail_average"}},
            "checkpoint.keep: 3 is less than the 5 checkpoints of polyak.kind tail_average; "
            "raise it, or lower",
        ),
        ({"polyak": {"checkpoints": 2}}, "checkpoints requires kind: tail_average, found exponential"),
        (
            {"polyak": {"kind": "tail_average", "checkpoints": 2, "start_fraction": 0.1}},
            "start_fraction requires kind: exponential or uniform",
        ),
    ],
)
def test_keys_of_other_kinds_are_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(smallest(**sections), "test")

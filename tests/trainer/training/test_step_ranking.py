"""Training steps of ranking models: engines, kinds of tables and optimizers, thinned labels, learning."""

import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf

from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.addons import needs_addons
from tests.support.ranking_dataset import click_log, click_rows, ranking_document
from trainer.data.catalog import Items
from trainer.data.lookups import catalog_lookups
from trainer.data.split_rows import split_rows
from trainer.evaluation.trained import open_trained
from trainer.models.recommender import Recommender
from trainer.training.build import train_data
from trainer.training.run import train
from trainer.training.step import TrainStep

pytestmark = pytest.mark.any_python

STEPS = 12
EVERYTHING = {
    "inputs": ["user", "item", "history", "c0", "c1", "c2", "tags", "n0", "n1"],
    "bottom": [8],
    "interaction": {"kind": "cross", "layers": 2, "rank": 4},
    "top": [16, 8],
    "tasks": [{"name": "click"}, {"name": "buy", "label": "buy", "where": "label"}],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("clicks"))
    click_log(directory, owners=True, model=EVERYTHING)
    return directory


def run(root: str, engine="auto", tables=None, steps=STEPS, **sections) -> tuple[list[float], dict, list]:
    """(losses, rows by table, dense weights) after some steps; `tables`: keys of some of them."""
    document = ranking_document(root, EVERYTHING, owners=True, **sections)
    config = parse_config(document, "test")
    document["tables"] = dict.fromkeys(config.tables, {"engine": engine}) | (tables or {})
    config = parse_config(document, "test")
    dataset = load_dataset(config.dataset.path)
    items = Items.load(dataset)
    recommender = Recommender(config, dataset, items.table_counts, STEPS)
    step = TrainStep(config, recommender, STEPS)
    recommender.initialize()
    function, losses = tf.function(step), []
    for batch in itertools.islice(step.batches(train_data(config, dataset, items), 0), steps):
        losses.append(float(function(batch)[0]))
    rows = {
        name: table.read_weights(np.arange(table.rows), True, float(steps)).numpy()
        for name, table in recommender.tables.items()
    }
    return losses, rows, [variable.numpy() for variable in recommender.dense_variables]


@pytest.fixture(scope="module")
def native(root):
    return run(root)


def assert_equal(one: tuple, other: tuple):
    np.testing.assert_allclose(one[0], other[0], rtol=2e-5)
    for name, rows in one[1].items():
        np.testing.assert_allclose(rows, other[1][name], atol=2e-5, err_msg=name)
    for own, others in zip(one[2], other[2], strict=True):
        np.testing.assert_allclose(own, others, atol=2e-5)


def test_rows_engine_trains_as_the_kernels(root, native):
    assert_equal(run(root, "rows"), native)


@needs_addons
def test_addons_train_as_the_kernels(root, native):
    assert_equal(run(root, "tfa"), native)


def test_clipping_above_the_norm_changes_nothing(root, native):
    """It fetches distinct rows instead of one for each id."""
    batch = {"batch_size": 64, "num_steps": 40, "steps_per_loop": 10}
    assert_equal(run(root, train=batch | {"clip_norm": 1e4}), native)


# Each table of a run has an optimizer, or is of a kind, of its own.
TABLES = [
    {
        "user": {"optimizer": {"kind": "adagrad"}},
        "item": {"optimizer": {"kind": "rowwise_adagrad"}},
        "c0": {"optimizer": {"kind": "sgd", "learning_rate": 0.5}},
        "tags": {"optimizer": {"kind": "ftrl"}},
    },
    {
        "item": {"optimizer": {"kind": "momentum"}},
        "c0": {"kind": "robe_z", "size": 512, "block": 8},
        "c1": {"optimizer": {"kind": "sm3"}},
        "tags": {"optimizer": {"kind": "adam"}},
    },
]


@pytest.mark.parametrize("tables", TABLES, ids=["adagrad to ftrl", "momentum to adam"])
def test_all_kinds_and_optimizers_train(root, native, tables):
    losses, rows, _ = run(root, tables=tables)
    assert np.isfinite(losses).all() and np.mean(losses[-4:]) < losses[0]
    before = run(root, tables=tables, steps=0)[1]
    assert set(rows) == set(before) == set(native[1])
    for name in tables:
        assert np.isfinite(rows[name]).all() and np.abs(rows[name] - before[name]).max() > 1e-4, name


@pytest.mark.slow
def test_a_run_resumes_and_opens_with_its_averages(tmp_path):
    """Resumed from its middle it ends with the same weights; predictions use them."""
    config = click_log(str(tmp_path), owners=True, model=EVERYTHING)
    train(config)
    whole = open_trained(config)
    expected = {name: v.numpy() for name, v in whole.recommender.dense_state.items()}
    before = predicted(whole)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{40:09d}", ignore_errors=True)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if "40" in path.name:
            shutil.rmtree(path)
    train(config)
    again = open_trained(config)
    assert again.step == 40
    for name, variable in again.recommender.dense_state.items():
        np.testing.assert_array_equal(variable.numpy(), expected[name], err_msg=name)
    after = predicted(again)
    for task in ("click", "buy"):
        np.testing.assert_array_equal(before[True][task], after[True][task])
        assert np.abs(before[True][task] - before[False][task]).max() > 1e-4, "averages are other weights"


def predicted(trained) -> dict[bool, dict[str, np.ndarray]]:
    """Predictions of the test rows by task, with averaged weights or not."""
    found, names = {}, trained.config.model.inputs
    lookups = catalog_lookups(trained.dataset, names, trained.items)
    for averaged in (True, False):
        parts = []
        with trained.recommender.averaged_dense(averaged):
            for rows in split_rows(trained.dataset, "test", names, lookups, 64):
                parts.append(trained.recommender.predictions(rows, averaged, float(trained.step)))
        found[averaged] = {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
    return found


def test_a_planted_click_log_is_learnt(tmp_path):
    """Predictions of test rows come near the planted probabilities, with averages of the weights."""
    changes = {
        "model": {"bottom": [8], "top": [16]},
        "train": {"batch_size": 128, "num_steps": 250},
        "polyak": {"decay": 0.98},
    }
    config = click_log(str(tmp_path), 8000, **changes)
    train(config)
    trained = open_trained(config)
    truth = np.array([row["probability"] for row in click_rows(8000)[7200:]])
    # split_rows reads file by file; row i of a split is in file i mod 3.
    order = np.concatenate([np.arange(800)[part::3] for part in range(3)])
    found = predicted(trained)[True]["click"]
    assert np.corrcoef(found, truth[order])[0, 1] > 0.9
    assert found.mean() == pytest.approx(truth.mean(), rel=0.05)


def test_a_batch_that_is_not_finite_is_skipped_and_not_blamed_on_labels(tmp_path, caplog):
    config = click_log(str(tmp_path), model={"tasks": [{"name": "click"}]}, train={"skip_nonfinite": 50})
    from tests.support.ranking_dataset import write_clicks

    records = click_rows(1000)
    records[0]["n1"] = 3e38  # beyond float32 in the first layer
    write_clicks(config, records)
    with caplog.at_level("WARNING"):
        train(config)
    assert "not finite:" in caplog.text
    assert "its data is finite" in caplog.text, "a label that is not known is no fault"
    assert np.isfinite(predicted(open_trained(config))[True]["click"]).all()

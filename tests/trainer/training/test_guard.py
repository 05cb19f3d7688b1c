"""Batches that are not finite: nothing of them reaches the state, and they are named."""

import math
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import UserError
from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.addons import skipping_tfa
from tests.support.tiny_dataset import Row, write_dataset
from tests.support.tiny_run import _sign
from trainer.data.batches import TrainData
from trainer.data.catalog import Items
from trainer.models.recommender import Recommender
from trainer.optimizers.clipping import half_square
from trainer.report.metrics_file import read_metrics
from trainer.training.blame import blame
from trainer.training.guard import Guard
from trainer.training.run import train
from trainer.training.step import TrainStep

pytestmark = pytest.mark.any_python

ROWS, BATCH, STEPS = 640, 32, 18
BAD = {"two_tower": {"weight": math.inf}, "dot_bias": {"label": math.nan}}
MODELS = {
    "two_tower": {
        "kind": "two_tower",
        "user_tower": {"inputs": ["user"], "layers": [6, 4]},
        "item_tower": {"inputs": ["item"], "layers": [4]},
    },
    "dot_bias": {"kind": "dot_bias", "negatives": 1},
}
TABLES = {
    "rows": {},
    "tfa": {"engine": "tfa"},
    "dense adam": {"optimizer": {"kind": "adam"}},
    "sm3": {"optimizer": {"kind": "sm3"}},
    "robe dense": {"kind": "robe_z", "size": 64, "block": 4, "gradient": "dense"},
    "robe sparse": {"kind": "robe_z", "size": 64, "block": 4, "gradient": "sparse"},
}


def config_of(directory, model, tables="rows", output="run", **train_keys):
    document = {
        "source": {"kind": "delimited", "paths": ["none.csv"], "roles": {"label": "rating"}},
        "dataset": {"path": str(directory / model), "split": {"kind": "leave_last_out"}},
        "model": MODELS[model],
        "tables": {name: {"dim": 8, **TABLES[tables]} for name in ("user", "item")},
        "polyak": {"decay": 0.8, "start_fraction": 0.0},
        "train": {"batch_size": BATCH, "num_steps": STEPS, "steps_per_loop": 7, "seed": 3, **train_keys},
        "checkpoint": {"every_steps": 2, "keep": 20},
        "output": {"path": str(directory / output)},
    }
    return parse_config(document, "test")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset per model, each with two rows that are not finite, in batches far apart."""
    directory = tmp_path_factory.mktemp("guard")
    for model, bad in BAD.items():
        config = config_of(directory, model)
        labels = [i % 2 if model == "dot_bias" else 1 for i in range(ROWS)]
        rows = [Row(b"u%d" % (i * 7 % 29), b"i%d" % (i * 5 % 23), "train", labels[i]) for i in range(ROWS)]
        for number in two_in_distinct_batches(directory, config, rows):
            rows[number] = rows[number]._replace(**bad)
        write_dataset(config.dataset.path, rows, block_rows=16, num_files=3)
        _sign(config)
    return directory


def two_in_distinct_batches(directory, config, rows) -> list[int]:
    """Numbers of rows that come in steps 5 and 10: the order does not depend on what rows hold."""
    dataset = write_dataset(str(directory / "probe"), rows, block_rows=16, num_files=3)
    batches = TrainData(dataset, BATCH, config.train.seed).batches(0).take(10).as_numpy_iterator()
    times = [batch["timestamp"] for batch in batches]
    return [int(times[step - 1][11]) - 1_600_000_000_000_000_000 for step in (5, 10)]


def parts(config):
    dataset = load_dataset(config.dataset.path)
    recommender = Recommender(config, dataset, Items.load(dataset).counts, STEPS)
    recommender.initialize()
    return TrainData(dataset, BATCH, config.train.seed), recommender, TrainStep(config, recommender, STEPS)


def state_of(recommender, train_step) -> dict[str, np.ndarray]:
    state = {name: variable.numpy() for name, variable in train_step.dense_state.items()}
    for name, table in recommender.storages.items():
        state[name] = table.read_records(np.arange(table.rows)).numpy()
    return state


# dot_bias is clipped, by the norm of gradients of each kind.
CASES = [("two_tower", tables) for tables in TABLES]
CASES += [("dot_bias", tables) for tables in ("rows", "tfa", "robe dense", "robe sparse")]


@pytest.mark.parametrize("case", skipping_tfa(CASES), ids=", ".join)
def test_a_bad_batch_changes_nothing(place, case):
    model, tables = case
    clip_norm = 0.5 if model == "dot_bias" else None
    data, recommender, train_step = parts(config_of(place, model, tables, clip_norm=clip_norm))
    compiled = tf.function(train_step, reduce_retracing=True)
    fine = []
    for step, batch in enumerate(data.batches(0).take(STEPS), start=1):
        before = state_of(recommender, train_step)
        loss, applied = compiled(batch)
        after = state_of(recommender, train_step)
        fine.append(bool(applied))
        assert np.isfinite(loss) == bool(applied)
        assert after.pop("step") == before.pop("step") + 1 == step
        assert after.pop("skipped") == before.pop("skipped") + (not applied)
        for name, value in before.items():
            assert np.isfinite(after[name]).all()
            if not applied and name.startswith("average/"):
                weight = before[name.replace("average", "dense")]
                np.testing.assert_allclose(after[name], value + np.float32(0.2) * (weight - value), rtol=1e-6)
            elif not applied:
                np.testing.assert_array_equal(after[name], value, err_msg=name)
        if applied:
            assert any(not np.array_equal(after[name], before[name]) for name in ("user", "item"))
    assert [step for step, ok in enumerate(fine, 1) if not ok] == [5, 10]


def test_rows_average_a_skipped_step_like_any_other(place):
    """The lazy averages of a row equal those of a table that is averaged whole at every step."""
    data, recommender, train_step = parts(config_of(place, "two_tower"))
    table = recommender.tables["user"]
    ids = np.arange(table.rows)
    expected = table.read_weights(ids, False, 0.0).numpy()
    for step, batch in enumerate(data.batches(0).take(STEPS), start=1):
        train_step(batch)
        expected = 0.8 * expected + 0.2 * table.read_weights(ids, False, 0.0).numpy()
        np.testing.assert_allclose(table.read_weights(ids, True, float(step)), expected, atol=1e-6)


def poisoned(dataset_path, kind) -> list[str]:
    """Where the rows that are not finite really are, found in the files themselves."""
    found = []
    for path in sorted(pathlib.Path(dataset_path, "train").iterdir()):
        for block, record in enumerate(tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()):
            values = tf.train.Example.FromString(record).features.feature[kind].float_list.value
            found += [
                f"row {row} of block {block} of train/{path.name} ({kind} is {value})"
                for row, value in enumerate(values)
                if not math.isfinite(value)
            ]
    return found


@pytest.mark.parametrize("model", MODELS)
def test_the_first_bad_batch_ends_a_run_and_its_row_is_named(place, model, tmp_path):
    [kind] = BAD[model]
    with pytest.raises(UserError) as caught:
        train(config_of(place, model, output=tmp_path / "run"))
    message = str(caught.value)
    assert message.startswith("step 5: not finite: the loss and ") and "\n" not in message
    assert "the checkpoint of step 4 is intact" in message and "train.skip_nonfinite allows 0" in message
    named = [place for place in poisoned(config_of(place, model).dataset.path, kind) if place in message]
    assert len(named) == 1 and message.count("row ") == 1
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())[-1][:14] == "step-000000004"


@pytest.mark.slow
def test_the_allowance_holds_for_the_whole_run_and_survives_resuming(place, tmp_path):
    def run(output, allowed, **keys):
        train(config_of(place, "two_tower", output=tmp_path / output, skip_nonfinite=allowed, **keys))
        return tmp_path / output

    whole = run("whole", 2)
    events = [line for line in read_metrics(str(whole)) if line.get("event") == "skip"]
    assert [(line["step"], line["skipped_batches"]) for line in events] == [(5, 1), (10, 2)]
    assert (
        "2 batches were skipped because the loss or a gradient was not finite, first at step 5"
        in (whole / "report.html").read_text()
    )
    with pytest.raises(UserError, match="^step 10: .* of step 8 is intact.* allows 1 "):
        run("one", 1)
    # Run again as it is: the skip of step 5 is remembered from the checkpoint.
    with pytest.raises(UserError, match="^step 10: .* of step 8 is intact.* allows 1 "):
        run("one", 1)
    resumed = run("one", 2)
    for name in ("dense.npz", "tables/user/00000.npy", "tables/item/00000.npy"):
        one, two = (np.load(r / f"checkpoints/step-{STEPS:09d}" / name) for r in (whole, resumed))
        for key in one.files if name == "dense.npz" else [...]:
            np.testing.assert_array_equal(one[key], two[key])
    with np.load(whole / f"checkpoints/step-{STEPS:09d}/dense.npz") as dense:
        assert dense["skipped"] == 2
    shutil.rmtree(whole)


def test_mean_losses_leave_skipped_batches_out(place, tmp_path):
    train(config_of(place, "dot_bias", output=tmp_path / "run", skip_nonfinite=2, steps_per_loop=1))
    losses = {line["step"]: line["loss"] for line in read_metrics(str(tmp_path / "run")) if "loss" in line}
    assert set(losses) == set(range(1, STEPS + 1)) - {5, 10} and None not in losses.values()


def test_the_blocks_of_a_batch_are_those_that_hold_its_rows(tmp_path):
    """More than one group of files and more than one window; times tell rows apart."""
    rows = [Row(b"u%d" % (i % 97), b"i%d" % (i % 53), "train") for i in range(3001)]
    dataset = write_dataset(str(tmp_path), rows, block_rows=16, num_files=11)
    data = TrainData(dataset, 50, 9)
    times = {}
    for file, path in enumerate(sorted((tmp_path / "train").iterdir())):
        for block, record in enumerate(tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()):
            stamps = tf.train.Example.FromString(record).features.feature["timestamp"].int64_list.value
            times |= {(file, block, row): stamp for row, stamp in enumerate(stamps)}
    for step, batch in enumerate(data.batches(0).take(2 * data.steps_per_epoch + 1).as_numpy_iterator()):
        assert [times[tuple(place)] for place in data.origin(step)] == batch["timestamp"].tolist()
    assert "its data is finite; it holds rows of block" in blame(data, 61)


def test_what_is_not_finite_is_named():
    guard = Guard(["table a", "tower"])
    small, huge, bad = tf.ones([3]), tf.fill([3], 1e30), tf.constant([1.0, math.nan, 0.0])

    def check(loss, *gradients):
        return bool(guard.check(tf.constant(loss), list(gradients), half_square(list(gradients))))

    assert check(1.0, small, small) and guard.skipped == 0
    assert not check(1.0, huge, small) and guard.latest == "the sum of the gradients' squares"
    assert not check(1.0, small, bad) and guard.latest == "the gradient of tower"
    assert not check(math.inf, small, small) and guard.latest == "the loss"
    assert not check(-math.inf, huge, bad) and guard.latest == "the loss and the gradient of tower"
    assert not check(math.nan, bad, bad) and guard.latest == "the loss and every gradient"
    assert guard.skipped == 5

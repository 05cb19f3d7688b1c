"""`lazytower train` end to end: what a run leaves behind, resuming, and every way in which it is refused."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
from unittest import mock

import numpy as np
import pytest
import yaml

from configs.errors import CheckpointError, ConfigError, DataError, UserError
from configs.load import load_config, parse_config
from configs.system import storage
from tests.support.addons import needs_addons
from tests.support.checkpoint_state import newest_state
from tests.support.tiny_run import SMALL_MODEL, planted_document, write_planted
from trainer.data.train_rows import DAY
from trainer.evaluation.trained import open_trained
from trainer.preflight.plan import make_plan
from trainer.report import document
from trainer.report.metrics_file import read_metrics
from trainer.training.run import train
from trainer.training.run_directory import lock_run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("planted")
    write_planted(str(directory))
    return directory


@pytest.fixture(scope="module")
def trained(place):
    """The directory of an undisturbed run."""
    return pathlib.Path(train(configured(place))).parent


def configured(place, output="run", **sections):
    """The run's config with some sections' keys changed."""
    document = planted_document(str(place))
    document["output"]["path"] = str(place / output)
    for name, keys in sections.items():
        document[name] = {**document.get(name, {}), **keys}
    return parse_config(document, "test")


def lines(run, kind) -> list[dict]:
    return [line for line in read_metrics(str(run)) if line["kind"] == kind]


def test_the_loss_falls_and_the_model_beats_popularity(trained):
    losses = [line["loss"] for line in lines(trained, "train")]
    assert len(losses) == 6 and losses[-1] < losses[0] - 0.05
    last = [line for line in lines(trained, "evaluate") if line["step"] == 60]
    assert [(line["scorer"], line["weights"]) for line in last[:2]] == [
        ("model", "average"),
        ("model", "raw"),
    ]
    final = {line["scorer"]: line for line in reversed(last)}
    assert set(final) == {"model", "popularity", "best_reachable"}
    scores = {name: line["ndcg@5"] for name, line in final.items()}
    assert scores["popularity"] < scores["model"] <= 1.05 * scores["best_reachable"]
    assert all(line["weights"] == "average" and line["split"] == "valid" for line in final.values())


def test_what_a_run_leaves_behind(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "tensorboard", "report.html", "checkpoints", ".lock"}
    assert any("tfevents" in path.name for path in (trained / "tensorboard").iterdir())
    kept = sorted(path.name for path in (trained / "checkpoints").iterdir())
    assert kept == ["step-000000040", "step-000000060"]
    assert {line["step"] for line in lines(trained, "evaluate")} == {30, 60}
    first = lines(trained, "train")[0]
    assert {"loss", "learning_rate", "examples_per_second", "peak_rss_bytes"} <= set(first)


def test_the_saved_config_reproduces_the_run(place, trained):
    saved = load_config(str(trained / "config.yaml"), [f"output.path={place}/again"])
    train(saved)
    assert_equal(newest_state(place / "again"), newest_state(trained))
    figures = [
        [{k: v for k, v in line.items() if k not in ("time", "seconds")} for line in lines(run, "evaluate")]
        for run in (place / "again", trained)
    ]
    assert figures[0] == figures[1]


def assert_equal(got: dict, wanted: dict) -> None:
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_a_resumed_run_equals_an_undisturbed_one(place, trained):
    """As if killed after step 40's checkpoint, with later figures already written."""
    run = place / "resumed"
    shutil.copytree(trained, run)
    shutil.rmtree(run / "checkpoints" / "step-000000060")
    train(configured(place, "resumed"))
    assert_equal(newest_state(run), newest_state(trained))
    assert [line["step"] for line in lines(run, "train")] == [10, 20, 30, 40, 50, 60]
    events = [line for line in lines(run, "run") if line["event"] != "checkpoint"]
    assert [line["event"] for line in events] == ["start", "resume", "end"]
    assert events[1]["bytes"] > 0 and events[1]["restore_seconds"] > 0
    saved = [line for line in lines(run, "run") if line["event"] == "checkpoint"]
    assert [line["step"] for line in saved] == [20, 40, 60]
    assert all(line["mode"] == "async" and line["bytes"] > 0 for line in saved)


OTHERS = {
    "tables": {
        "user": {"dim": 8, "optimizer": {"bias_correction": "per_row", "weight_decay": 0.01}},
        "item": {"dim": 8, "optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.05}},
    },
    "optimizer": {"kind": "momentum", "learning_rate": 0.01, "clip_value": 0.5},
    "schedule": {"decay": "cosine", "cooldown_fraction": 0.1},
    "train": {"clip_norm": 0.5},
}
DENSE = {
    "tables": {name: {"dim": 8, "optimizer": {"kind": "adam"}} for name in ("user", "item")},
    "train": {"window_days": 2000 / DAY, "half_life_days": 1000 / DAY},
}


@pytest.mark.slow
@pytest.mark.parametrize("sections", [OTHERS, DENSE], ids=["others", "dense adam, window"])
def test_other_runs_resume_too(place, sections, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(configured(place, whole, **sections, checkpoint={"keep": 9}))
    losses = [line["loss"] for line in lines(whole, "train")]
    assert losses[-1] < losses[0]
    shutil.copytree(whole, cut)
    for step in (40, 60):
        shutil.rmtree(cut / "checkpoints" / f"step-{step:09d}")
    train(configured(place, cut, **sections))
    assert_equal(newest_state(cut), newest_state(whole))


def test_a_finished_run_is_left_alone_and_its_report_may_fail(place, trained, monkeypatch, caplog):
    run, full = place / "finished", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(document, "write_bytes", mock.Mock(side_effect=full))
    shutil.copytree(trained, run)
    before = {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*")}
    train(configured(place, "finished"))
    assert "report.html: cannot be written (No space left on device)" in caplog.text
    assert before == {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*")}
    assert lines(run, "train") == lines(trained, "train")
    assert lines(run, "evaluate") == lines(trained, "evaluate")


@pytest.mark.any_python
def test_an_evaluation_that_was_cut_off_is_made_up_for(place, trained):
    run = place / "cut"
    shutil.copytree(trained, run)
    kept = [line for line in read_metrics(str(run)) if (line["kind"], line["step"]) != ("evaluate", 60)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    train(configured(place, "cut"))
    names = ("step", "scorer", "hr@5", "ndcg@5", "mrr")
    made, wanted = ([[x[n] for n in names] for x in lines(r, "evaluate")] for r in (run, trained))
    assert made == wanted


@pytest.mark.any_python
def test_steps_per_loop_and_engine_change_nothing_but_the_pace(place, trained):
    fine = configured(place, "fine", train={"steps_per_loop": 7})
    train(fine)
    assert_equal(newest_state(place / "fine"), newest_state(trained))


@needs_addons
@pytest.mark.any_python
def test_the_two_engines_train_alike_in_closed_loop(place):
    # No layers for items: the softmax does not see their last bias, and Adam makes steps of its rounding.
    states, model = {}, {"item_tower": {"inputs": ["item"]}}
    for engine in ("rows", "tfa"):
        tables = {name: {"dim": 8, "engine": engine} for name in ("user", "item")}
        train(configured(place, engine, train={"num_steps": 20}, tables=tables, model=model))
        states[engine] = newest_state(place / engine)
    assert set(states["rows"]) == set(states["tfa"])
    for name, value in states["rows"].items():
        np.testing.assert_allclose(states["tfa"][name], value, rtol=1e-4, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"train": {"num_steps": 70}}, "number of steps = 60, but this run has 70"),
        ({"train": {"seed": 1}}, "train.seed = 0, but this run has 1"),
        ({"train": {"window_days": 7.0}}, "train.window_days = None, but this run has 7.0"),
        ({"train": {"half_life_days": 2.0}}, "train.half_life_days = None, but this run has 2.0"),
        ({"train": {"clip_norm": 1.0}}, "train.clip_norm = None, but this run has 1.0"),
        ({"train": {"batch_size": 32}}, "train.batch_size = 64, but this run has 32"),
        ({"optimizer": {"learning_rate": 0.5}}, "optimizer.learning_rate = 0.01, but this run has 0.5;"),
        (
            {"polyak": {"kind": "uniform", "decay": None}},
            "polyak.kind = exponential, but this run has uniform",
        ),
    ],
)
def test_another_run_in_the_same_directory_is_refused(place, trained, sections, key):
    before = (trained / "config.yaml").read_text()
    with pytest.raises(CheckpointError) as caught:
        train(configured(place, **sections))
    assert f"saved with {key}" in str(caught.value) and "use another output.path" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (trained / "config.yaml").read_text() == before, "the config that could resume is gone"


@pytest.fixture
def copy(place, tmp_path):
    """A copy of the dataset, to be damaged, and a config for it."""
    shutil.copytree(place / "dataset", tmp_path / "dataset")
    document = planted_document(str(tmp_path))
    return tmp_path / "dataset", lambda: parse_config(document, "test")


def change_manifest(place: pathlib.Path, **keys) -> None:
    manifest = json.loads((place / "dataset.json").read_text())
    (place / "dataset.json").write_text(json.dumps(manifest | keys))


def test_another_dataset_under_the_same_path_is_refused(copy, trained):
    dataset, config = copy
    shutil.copytree(trained, dataset.parent / "run")
    change_manifest(dataset, fingerprint="another")
    with pytest.raises(
        CheckpointError, match="trained on another dataset .dataset.fingerprint .*, this one has another"
    ):
        train(config())


@pytest.mark.parametrize(
    ("key", "value"),
    [("split", {"kind": "random", "valid_fraction": 0.1, "test_fraction": 0.1}), ("history_length", 9)],
)
def test_a_dataset_prepared_otherwise_names_the_key(copy, key, value):
    dataset, config = copy
    prepared = config().dataset.model_dump(mode="json") | {key: value}
    change_manifest(dataset, dataset=prepared)
    with pytest.raises(DataError, match=f"prepared with dataset.{key} .*lazytower prepare --overwrite"):
        train(config())


def test_a_dataset_with_other_histories_names_the_key(copy):
    dataset, config = copy
    change_manifest(dataset, history_of="others")
    message = "prepared with dataset.history_of others, but the config has earlier; run `lazytower prepare"
    with pytest.raises(DataError, match=message):
        train(config())


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_shard_is_found_before_training(copy, damage):
    dataset, config = copy
    shard = sorted((dataset / "train").iterdir())[3]
    content = bytearray(shard.read_bytes())
    if damage == "gone":
        shard.unlink()
    else:
        content[len(content) // 2] ^= 1
        shard.write_bytes(content[:-3] if damage == "cut" else content)
    with pytest.raises(DataError) as caught:
        train(config())
    assert str(caught.value).startswith(f"{shard}: ") and "run `lazytower prepare` again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (dataset.parent / "run").exists()


def test_a_missing_manifest(copy):
    dataset, config = copy
    (dataset / "dataset.json").unlink()
    with pytest.raises(DataError, match="no dataset here .*Run `lazytower prepare` with this config first"):
        train(config())


def test_a_torn_user_catalog_costs_the_evaluation_not_the_training(copy):
    dataset, config = copy
    shard = sorted((dataset / "users").iterdir())[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    report = pathlib.Path(train(config()))
    assert report.exists() and not lines(report.parent, "evaluate")


@pytest.mark.any_python
def test_a_diverged_run_stops_and_keeps_its_good_checkpoints(place):
    config = configured(
        place,
        "diverged",
        schedule={"warmup_fraction": 1, "warmup_power": 400},
        optimizer={"learning_rate": 1e38},
    )
    with pytest.raises(UserError, match=r"step 5\d: .*; its data is finite; .* of step 40 is intact"):
        train(config)
    state = newest_state(place / "diverged")
    assert state and all(np.isfinite(value).all() for value in state.values())


def test_too_many_epochs_and_places_that_cannot_be_written(place, tmp_path):
    with pytest.raises(
        ConfigError, match="train.num_epochs: makes 75,000,000 steps, more than the 16,777,216"
    ):
        train(configured(place, "long", train={"num_steps": None, "num_epochs": 1e6}))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output.path: .*file/run cannot be written"):
        train(configured(place, f"{tmp_path}/file/run"))


def test_two_trainers_cannot_share_a_run_directory(place):
    with contextlib.closing(lock_run(str(place / "shared"))):
        with pytest.raises(UserError, match="shared: another trainer is at work here"):
            train(configured(place, "shared"))
    lock_run(str(place / "shared")).close()


@pytest.mark.any_python
def test_epochs_of_a_window_are_counted_in_its_rows(place):
    """By training, by `plan`, and by whatever opens the run later."""
    keys = {"num_steps": None, "num_epochs": 0.5, "window_days": 1999 / DAY}
    config = configured(place, "window", train=keys, model=SMALL_MODEL)
    train(config)
    steps = round(0.5 * (1999 // 64))
    assert open_trained(config).step == make_plan(config, [], 0)["steps"] == steps


@pytest.mark.any_python
def test_epochs_are_counted_in_whole_batches(place):
    lengths = {"num_steps": None, "num_epochs": 0.2}
    polyak = {"kind": "none", "decay": None}
    report = train(configured(place, "epochs", train=lengths, polyak=polyak, model=SMALL_MODEL))
    assert {line["weights"] for line in lines(place / "epochs", "evaluate")} == {"raw"}, "there is no average"
    assert read_metrics(os.path.dirname(report))[-1]["step"] == round(0.2 * (4800 // 64))
    assert yaml.safe_load((place / "epochs" / "config.yaml").read_text())["train"]["num_epochs"] == 0.2


def sparse(place, output, **checkpoint):
    """A run in which few steps touch few users: most of its checkpoints are increments."""
    document = planted_document(str(place), users=1500)
    document["model"] = SMALL_MODEL
    document["train"] |= {"batch_size": 16, "num_steps": 40, "steps_per_loop": 5}
    document["checkpoint"] = {"every_steps": 5, "keep": 2} | checkpoint
    document["output"]["path"] = str(place / output)
    return parse_config(document, "test")


@pytest.mark.any_python
def test_increments_carry_a_run_and_its_evaluation(tmp_path):
    write_planted(str(tmp_path), users=1500)
    train(config := sparse(tmp_path, "run"))
    saved = [line for line in lines(tmp_path / "run", "run") if line["event"] == "checkpoint"]
    assert {line["checkpoint"] for line in saved} == {"full", "increment"} and len(saved) == 8
    train(sparse(tmp_path, "blocking", incremental=False, async_memory_mb=0))
    state = newest_state(tmp_path / "run")
    assert_equal(state, newest_state(tmp_path / "blocking"))
    trained = open_trained(config)
    for name, table in trained.recommender.storages.items():
        np.testing.assert_array_equal(table.read_records(np.arange(table.rows)), state[f"tables/{name}"])


@pytest.mark.any_python
def test_a_save_that_failed_in_the_background_is_made_up_for(place, trained, tmp_path, monkeypatch, caplog):
    writing, failures = storage.writing, []

    def shaky(path):
        if "step-000000040" in path and not failures:
            failures.append(path)
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path)
        return writing(path)

    monkeypatch.setattr(storage, "writing", shaky)
    train(configured(place, tmp_path / "run"))
    assert failures and "timed out" in caplog.text and "writing step 60 while training waits" in caplog.text
    assert_equal(newest_state(tmp_path / "run"), newest_state(trained))


@pytest.mark.parametrize("megabytes", [0, 512])
@pytest.mark.any_python
def test_a_full_disk_ends_the_run_and_a_restart_resumes(place, trained, tmp_path, monkeypatch, megabytes):
    writing, options = storage.writing, {"async_memory_mb": megabytes}

    def full(path):
        if "checkpoints" in path and "step-000000020" not in path and "/item/" in path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return writing(path)

    monkeypatch.setattr(storage, "writing", full)
    with pytest.raises(
        CheckpointError, match="No space left on device.*last good checkpoint: step 20; .*to resume"
    ):
        train(configured(place, tmp_path / "run", checkpoint=options))
    monkeypatch.undo()
    lock_run(str(tmp_path / "run")).close()
    train(configured(place, tmp_path / "run", checkpoint=options))
    assert_equal(newest_state(tmp_path / "run"), newest_state(trained))

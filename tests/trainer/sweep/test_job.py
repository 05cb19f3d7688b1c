"""Sweeps of trials that do not train: what becomes of them if they are killed, fail, or run at once."""

import csv
import pathlib
import random

import optuna
import pytest
import yaml

from configs.errors import ConfigError, UserError
from configs.load import load_config
from tests.support.fake_day import Killed
from tests.support.fake_trials import EVERY, STEPS, FakeTrials, quality, swept
from trainer import run_lock
from trainer.run_lock import lock_directory

pytestmark = pytest.mark.any_python


def rows(root: pathlib.Path) -> list[dict]:
    return list(csv.DictReader((root / "out" / "trials.csv").open()))


def kept(root: pathlib.Path) -> list:
    """All that a study holds of its trials, but times."""
    study = optuna.load_study(study_name="out", storage=f"sqlite:///{root}/out/study.db")
    return [
        (t.number, t.state, t.params, t.value, t.intermediate_values, t.system_attrs, t.user_attrs)
        for t in study.trials
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    trials = FakeTrials()
    return root, trials, swept(root, trials)


def test_a_sweep(undisturbed):
    root, trials, result = undisturbed
    found = rows(root)
    assert [row["trial"] for row in found] == [str(number) for number in range(8)]
    assert {row["state"] for row in found} == {"complete", "stopped"}
    for row in found:
        config = load_config(str(root / "out" / "trials" / row["trial"] / "config.yaml"))
        whole = quality(config)
        if row["state"] == "complete":
            assert float(row["ndcg@10"]) == pytest.approx(whole) and row["best_step"] == str(STEPS)
            assert trials.evaluated.count((int(row["trial"]), STEPS)) == 1
        else:  # at a rung: after a tenth of the run, three tenths or nine tenths
            assert (
                float(row["ndcg@10"]) / whole == pytest.approx(0.1)
                or float(row["ndcg@10"]) / whole == pytest.approx(0.3)
                or float(row["ndcg@10"]) / whole == pytest.approx(0.9)
            )
            assert row["best_step"] == ""
    assert len(trials.evaluated) < 0.7 * 8 * STEPS / EVERY
    assert result.outcomes[0].value == max(float(row["ndcg@10"]) for row in found)
    assert [command for command, _ in trials.done] == ["prepare", *["train"] * 8, "evaluate"]


def test_the_best_config(undisturbed):
    root, _, result = undisturbed
    best = root / "out" / "best.yaml"
    assert result.best_config == str(best)
    config, number = load_config(str(best)), result.outcomes[0].number
    assert config == load_config(str(root / "out" / "trials" / str(number) / "config.yaml"))
    assert config.output.path == str(root / "out" / "trials" / str(number))
    header = [line for line in best.read_text().splitlines() if line.startswith("#")]
    assert header[0].startswith("# The best of 8 trials (")
    assert f"number {number}." in header[0]
    assert header[2] == "# Test: ndcg@10 0.1250."
    assert "tables.*.optimizer.learning_rate" in result.text and "importance" in result.text


def test_killed_at_any_moment_it_makes_the_same_trials(undisturbed, tmp_path):
    """The killed process resumes where its trial was; none is lost or doubled."""
    before, undisturbed_trials, _ = undisturbed
    draw, trials = random.Random(4), FakeTrials()
    kills = 0
    for _ in range(200):
        trials.kill_at = draw.randint(3, 25)
        try:
            swept(tmp_path, trials)
            break
        except Killed:
            kills += 1
    assert kills > 5
    assert rows(tmp_path) == rows(before)
    assert kept(tmp_path) == kept(before)
    assert sorted(trials.evaluated) == sorted(undisturbed_trials.evaluated), "nothing was trained twice"


def test_a_sweep_that_is_done_only_says_so(undisturbed):
    root, _, result = undisturbed
    again = FakeTrials()
    assert swept(root, again).text == result.text
    assert again.done == []


def test_more_trials_later(undisturbed, tmp_path):
    trials = FakeTrials()
    swept(tmp_path, trials, sweep={"trials": 3})
    assert len(rows(tmp_path)) == 3
    swept(tmp_path, trials)
    assert rows(tmp_path) == rows(undisturbed[0])


def test_several_at_once(tmp_path):
    trials = FakeTrials()
    swept(tmp_path, trials, jobs=3)
    assert trials.most_at_once == 3
    assert len(rows(tmp_path)) == 8 and {row["state"] for row in rows(tmp_path)} == {"complete", "stopped"}


def test_trials_that_are_killed_alone_continue(tmp_path):
    trials = FakeTrials({0: [-9], 1: [-9, -9, -9]})
    swept(tmp_path, trials, sweep={"trials": 3, "pruner": {"kind": "none"}})
    states = [(row["state"], row["reason"]) for row in rows(tmp_path)]
    assert [state for state, _ in states] == ["complete", "failed", "complete", "complete"]
    assert states[1][1].startswith("was killed by SIGKILL; after SIGKILL, suspect a lack of memory")
    names = [name for command, name in trials.done if command == "train"]
    assert [names.count(f"shop-{number}") for number in range(4)] == [2, 3, 1, 1]


def test_failures(tmp_path):
    trials = FakeTrials({0: [2], 2: [2], 3: [2]})
    with pytest.raises(
        UserError, match="the last 2 trials failed, number 3: exit code 2, see .*/trials/3/log"
    ):
        swept(tmp_path, trials, sweep={"failures": 2, "pruner": {"kind": "none"}, "trials": 4})
    swept(tmp_path, trials, sweep={"failures": 2, "pruner": {"kind": "none"}, "trials": 4})
    assert [row["state"] for row in rows(tmp_path)] == [
        *("failed", "complete", "failed", "failed", "complete", "complete", "complete")
    ]


def test_a_trial_that_diverges_is_a_bad_one(tmp_path):
    swept(tmp_path, FakeTrials(diverged=(0, 1, 2)), sweep={"trials": 4})
    found = rows(tmp_path)
    assert [row["state"] for row in found] == ["stopped"] * 3 + ["complete"]
    assert found[0]["ndcg@10"] == ""


@pytest.mark.parametrize("kind", ["random", "grid"])
def test_a_small_space_is_tried_once(tmp_path, kind):
    space = {"tables.*.dim": [8, 16], "train.clip_norm": {"low": 1.0, "high": 2.0, "step": 0.5}}
    swept(
        tmp_path, FakeTrials(), sweep={"space": space, "sampler": {"kind": kind}, "pruner": {"kind": "none"}}
    )
    found = [(row["tables.*.dim"], row["train.clip_norm"]) for row in rows(tmp_path)]
    assert len(found) == len(set(found)) == 6


@pytest.mark.parametrize("pruner", [{"kind": "hyperband"}, {"kind": "median", "startup_trials": 1}])
def test_other_pruners_stop_trials(tmp_path, pruner):
    swept(tmp_path, FakeTrials(), sweep={"pruner": pruner, "trials": 5})
    assert {row["state"] for row in rows(tmp_path)} == {"complete", "stopped"}


def test_one_sweep_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_PATIENCE_SECONDS", 0.0)
    lock = lock_directory(str(tmp_path / "out"))
    try:
        with pytest.raises(UserError, match="out: a sweep is running .*; wait for it"):
            swept(tmp_path, FakeTrials())
    finally:
        lock.close()


def test_another_sweep_is_refused_in_its_directory(undisturbed, tmp_path):
    root = undisturbed[0]
    for change, message in (
        ({"sweep": {"seed": 4}}, "begun with sweep.seed 3, and now it is 4"),
        ({"sweep": {"space": {"tables.*.dim": [8]}}}, r"begun with sweep.space.tables.\*.dim"),
        ({"optimizer": {"learning_rate": 0.5}}, "begun with config.optimizer.learning_rate"),
    ):
        with pytest.raises(ConfigError, match=message):
            swept(root, FakeTrials(), **change)


def test_a_study_of_another_sweep_is_refused(tmp_path):
    storage = {"storage": f"sqlite:///{tmp_path}/shared.db", "study": "mine", "trials": 2}
    (tmp_path / "other").mkdir()
    swept(tmp_path, FakeTrials(), sweep=storage)
    with pytest.raises(
        ConfigError, match="study: mine in sqlite:///.* belongs to the sweep in .*/out; choose"
    ):
        swept(tmp_path / "other", FakeTrials(), sweep=storage)
    swept(tmp_path / "other", FakeTrials(), sweep=storage | {"study": "other"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate": {"best": None}}, "evaluate.best: missing"),
        ({"sweep": {"storage": "nothing://there"}}, "storage: nothing://there cannot be opened"),
        (
            {"sweep": {"space": {"tables.*.dim": [8, 0]}}},
            r"space.tables.\*.dim: 0: tables.* greater than or equal",
        ),
    ],
)
def test_refused_before_anything_starts(tmp_path, changes, message):
    trials = FakeTrials()
    with pytest.raises(ConfigError, match=message):
        swept(tmp_path, trials, **changes)
    assert trials.done == []


def test_configs_of_trials_are_those_of_the_space(undisturbed):
    root = undisturbed[0]
    for row in rows(root):
        document = yaml.safe_load((root / "out" / "trials" / row["trial"] / "config.yaml").read_text())
        for table in document["tables"].values():
            assert table["dim"] == int(row["tables.*.dim"])
            assert table["optimizer"]["learning_rate"] == float(row["tables.*.optimizer.learning_rate"])
        assert document["tables"]["user"]["init_stddev"] == 0.1

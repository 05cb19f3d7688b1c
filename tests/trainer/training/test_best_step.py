"""evaluate.best: the best checkpoint is kept, resumed, served and told apart, and patience ends a run."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from configs.errors import CheckpointError, DataError
from configs.load import parse_config
from tests.support.checkpoint_state import state_of
from tests.support.tiny_run import SMALL_MODEL, planted_document, write_planted
from trainer.checkpoints import store
from trainer.checkpoints.best import BestRecord, Evaluated, read_best, write_best
from trainer.checkpoints.compact import compact
from trainer.checkpoints.listing import listed
from trainer.checkpoints.store import CheckpointStore
from trainer.commands import checkpoints as command
from trainer.evaluation.trained import open_trained
from trainer.report.metrics_file import read_metrics
from trainer.serving.client import step_text
from trainer.serving.weights import averaged
from trainer.training import best_step
from trainer.training.best_step import figure_of_best
from trainer.training.run import train
from trainer.training.session import TrainSession

pytestmark = pytest.mark.any_python

# By step; the checkpoints of 30 and 50 are not on the grid of checkpoint.every_steps.
VALUES = {10: 0.1, 20: 0.3, 30: 0.2, 40: 0.25, 50: 0.28, 60: 0.29}
FULL = {"keep": 9, "incremental": False}
KILLED = {10: 0.1, 20: 0.2, 30: 0.3, 40: 0.25, 50: 0.21}
"""With a patience of 2, the best step is 30 and the last one 50."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("best")
    write_planted(str(root))
    return root


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    """A run with VALUES, to be copied."""
    return finished_run(place, tmp_path_factory)


@pytest.fixture(scope="module")
def finished_full(place, tmp_path_factory):
    """As `finished`, with all of its checkpoints, each of them full."""
    return finished_run(place, tmp_path_factory, checkpoint=FULL)


def finished_run(place, tmp_path_factory, **sections):
    with pytest.MonkeyPatch.context() as patch:
        script(patch, VALUES)
        train(configured(place, run := tmp_path_factory.mktemp("finished") / "run", **sections))
    return run


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations find these values; set some to change them."""
    return script(monkeypatch, dict(VALUES))


def script(monkeypatch, values: dict) -> dict:
    """Makes evaluations find `values` by step."""

    def lines(recommender, dataset, items, step, split, check, detail):
        line = {"scorer": "model", "split": split, "weights": "average", "protocol": "scripted"}
        return [line | {"ndcg@5": values[step], "recall@5": values[step], "mrr": 1 - values[step]}]

    monkeypatch.setattr("trainer.evaluation.scorer.evaluate_recommender", lines)
    return values


def configured(place, output, patience=None, metric="ndcg@5", **sections):
    document = planted_document(str(place))
    document["model"] = SMALL_MODEL
    document["train"] = document["train"] | {"steps_per_loop": 5}
    document["checkpoint"] = {"every_steps": 20, "keep": 1, "compact_at": 9.0}
    document["evaluate"] = {"every_steps": 10, "k": [5], "best": {"metric": metric, "patience": patience}}
    document["output"] = {"path": str(output)}
    for name, section in sections.items():
        document[name] = document.get(name, {}) | section
    return parse_config(document, "test")


def steps_of(run) -> set[int]:
    return {int(path.name[5:14]) for path in (pathlib.Path(run) / "checkpoints").glob("step-*")}


def manifests_of(run) -> dict:
    found = {}
    for path in pathlib.Path(run).glob("checkpoints/*/COMMITTED"):
        manifest = json.loads(path.read_text())
        found.setdefault(manifest["step"], {})[manifest["kind"]] = (path.parent, manifest)
    return found


def copied(place, run, tmp_path, **sections):
    """The config of a copy of a run in tmp_path."""
    shutil.copytree(run, tmp_path / "run")
    return configured(place, tmp_path / "run", **sections)


def test_the_best_is_kept_beside_the_newest(place, finished, tmp_path, capsys):
    config = copied(place, finished, tmp_path)
    assert steps_of(tmp_path / "run") >= {20, 60} and 40 not in steps_of(tmp_path / "run")
    record = read_best(str(tmp_path / "run" / "checkpoints"))
    assert record.best.step == 20 and record.waited == 4
    assert [(one.step, one.value) for one in record.evaluations] == list(VALUES.items())
    assert open_trained(config).step == 20
    assert open_trained(config).chosen == "best by ndcg@5 on valid, 0.3000"
    assert open_trained(config, "newest").step == open_trained(config, 60).step == 60
    with pytest.raises(CheckpointError, match="no checkpoint of step 40; steps there: .*20.*60"):
        open_trained(config, 40)
    assert [row["step"] for row in listed(f"{config.output.path}/checkpoints") if row["best"]] == [20]
    assert command.run(type("Args", (), {"run": config.output.path, "compact": False})) == 0
    printed = capsys.readouterr().out
    assert "20 *" in printed and "best: step 20, ndcg@5 0.3000 on valid" in printed
    assert "Best checkpoint: step 20" in (tmp_path / "run" / "report.html").read_text()


def test_a_step_between_two_checkpoints_can_be_the_best(place, scripted, tmp_path):
    scripted[30] = 0.9
    train(config := configured(place, tmp_path / "run"))
    assert open_trained(config).step == 30
    assert {30, 60} <= steps_of(tmp_path / "run")


def test_compaction_keeps_the_best(place, scripted, tmp_path):
    train(config := configured(place, tmp_path / "run", train={"batch_size": 8}))
    before = state_of(manifests_of(tmp_path / "run"), 20)
    compact(config.output.path, f"{config.output.path}/checkpoints")
    np.testing.assert_equal(state_of(manifests_of(tmp_path / "run"), 20), before)
    assert open_trained(config).step == 20


@pytest.mark.parametrize("metric", ["ndcg@5", "mrr"])
def test_patience_ends_a_run(place, scripted, tmp_path, metric, caplog):
    scripted[20] = 0.9
    train(config := configured(place, tmp_path / "run", patience=3, metric=metric))
    # The larger mrr is the first one here.
    assert open_trained(config).step == {"ndcg@5": 20, "mrr": 10}[metric]
    stop = max(steps_of(tmp_path / "run"))
    assert stop == {"ndcg@5": 50, "mrr": 40}[metric]
    last = read_metrics(config.output.path)[-1]
    assert last["event"] == "end" and last["step"] == stop
    assert last["best"].startswith(f"stopped early at step {stop} of 60: step")


def test_more_patience_goes_on(place, undisturbed, scripted, tmp_path):
    scripted |= KILLED | {60: 0.1}
    config = copied(place, undisturbed, tmp_path, patience=2)
    files = sorted((tmp_path / "run" / "checkpoints").rglob("*"))
    train(config)
    assert sorted((tmp_path / "run" / "checkpoints").rglob("*")) == files, "nothing is left to do"
    train(configured(place, tmp_path / "run", patience=9))
    assert max(steps_of(tmp_path / "run")) == 60


class Killed(BaseException):
    """Not an Exception: nothing cleans up after a kill."""


@pytest.fixture(scope="module")
def undisturbed(place, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        script(patch, KILLED)
        train(configured(place, run := tmp_path_factory.mktemp("whole") / "run", patience=2))
    return run


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (TrainSession, "_evaluate", 3),
        (TrainSession, "_saved_for_best", 2),
        (TrainSession, "_save", 3),
        (best_step, "write_best", 2),
        (best_step, "write_best", 4),
        (CheckpointStore, "prune", 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)).rpartition(".")[2],
)
def test_a_killed_run_ends_as_if_it_were_not(place, undisturbed, tmp_path, monkeypatch, owner, name, number):
    """Killed before the call of this number; then run again."""
    script(monkeypatch, KILLED)
    calls, original = [], getattr(owner, name)

    def killing(*args, **kwargs):
        calls.append(name)
        if len(calls) == number:
            raise Killed
        return original(*args, **kwargs)

    config = configured(place, run := tmp_path / "run", patience=2)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, killing)
        train(config)
    train(config)
    assert steps_of(run) == steps_of(undisturbed)
    assert read_best(f"{run}/checkpoints") == read_best(f"{undisturbed}/checkpoints")
    found, wanted = manifests_of(run), manifests_of(undisturbed)
    for step in (30, 50):
        np.testing.assert_equal(state_of(found, step), state_of(wanted, step))


def test_evaluations_after_the_step_of_a_restart_do_not_count(place, finished_full, scripted, tmp_path):
    """Checkpoints after the best are gone: patience, which was used up, begins there, and 30 is better."""
    run, config = tmp_path / "run", copied(place, finished_full, tmp_path, checkpoint=FULL, patience=4)
    assert read_best(f"{run}/checkpoints").waited == 4
    for step in (40, 60):
        for path in (run / "checkpoints").glob(f"step-{step:09d}*"):
            shutil.rmtree(path)
    scripted[30] = 0.9
    train(config)
    record = read_best(f"{run}/checkpoints")
    assert record.best.step == 30
    assert [(one.step, one.value) for one in record.evaluations] == list(scripted.items())


def test_a_damaged_best_falls_back_to_the_newest(place, finished_full, tmp_path, caplog):
    config = copied(place, finished_full, tmp_path, checkpoint=FULL)
    (tmp_path / "run" / "checkpoints" / "step-000000020" / "dense.npz").write_bytes(b"torn")
    trained = open_trained(config)
    assert trained.step == 60 and "in place of step 20" in trained.chosen
    with pytest.raises(CheckpointError, match="step 20 does not verify; choose another step"):
        open_trained(config, 20)


@pytest.mark.parametrize("polyak", [{}, {"kind": "none", "decay": None}])
def test_what_is_served_are_the_weights_of_the_best_step(place, finished, scripted, tmp_path, polyak):
    if polyak:
        train(config := configured(place, tmp_path / "run", polyak=polyak))
    else:
        config = copied(place, finished, tmp_path)
    state, trained = state_of(manifests_of(tmp_path / "run"), 20), open_trained(config)
    assert averaged(trained) == (not polyak)
    for name, table in trained.recommender.storages.items():
        records = table.read_records(np.arange(table.rows))
        np.testing.assert_array_equal(records, state[f"tables/{name}"])
    kind = "average" if not polyak else "dense"
    with trained.recommender.averaged_dense(averaged(trained)):
        for i, variable in enumerate(trained.recommender.dense_variables):
            np.testing.assert_array_equal(variable.numpy(), state[f"{kind}/{i:03d}"])


def test_a_tail_average_keeps_what_it_averages(place, scripted, tmp_path):
    scripted |= {40: 0.8, 50: 0.1, 60: 0.1}
    polyak = {"kind": "tail_average", "decay": None, "checkpoints": 2}
    checkpoint = {"every_steps": 10, "keep": 2}
    train(config := configured(place, tmp_path / "run", polyak=polyak, checkpoint=checkpoint))
    assert read_best(f"{config.output.path}/checkpoints").kept_steps == [30, 40]
    trained, found = open_trained(config), manifests_of(tmp_path / "run")
    assert trained.step == 40
    for name, table in trained.recommender.storages.items():
        means = [state_of(found, step)[f"tables/{name}"][:, : table.dim] for step in (30, 40)]
        read = table.read_weights(np.arange(table.rows), True, 40.0)
        np.testing.assert_allclose(read, np.mean(means, axis=0), rtol=1e-6)


def test_without_best_its_record_goes(place, finished, scripted, tmp_path):
    train(copied(place, finished, tmp_path, evaluate={"best": None}))
    assert read_best(f"{tmp_path}/run/checkpoints") is None


def test_values_that_are_not_finite_are_never_the_best():
    lines = [{"scorer": "model", "ndcg@5": value} for value in (float("nan"), float("inf"), None, 0.5)]
    found = [best_step.figure_of_best([line], "ndcg@5") for line in lines]
    assert found == [None, None, None, 0.5]


def test_a_failed_save_is_repeated_before_the_step_is_the_best(place, scripted, tmp_path, monkeypatch):
    """The save of the best step fails in the background; training waits for the second attempt."""
    write, failed = store.write_checkpoint, []

    def failing(path, head, *others):
        if head.step == 20 and not failed:
            failed.append(path)
            raise CheckpointError(f"{path}: cannot be written (No space left on device)")
        return write(path, head, *others)

    monkeypatch.setattr(store, "write_checkpoint", failing)
    train(config := configured(place, tmp_path / "run"))
    assert failed and open_trained(config).step == 20


def test_a_reader_meets_a_trainer_that_finds_a_better_one(place, finished_full, tmp_path, monkeypatch):
    """Between the reader's choice and its reading, another step becomes the best and the former one goes."""
    config = copied(place, finished_full, tmp_path, checkpoint=FULL)
    directory, opening = f"{config.output.path}/checkpoints", CheckpointStore.open_newest

    def meanwhile(self, *arguments):
        if (old := tmp_path / "run/checkpoints/step-000000020").exists():
            shutil.rmtree(old)
            write_best(directory, read_best(directory).having(Evaluated(step=40, value=0.9)))
        return opening(self, *arguments)

    monkeypatch.setattr(CheckpointStore, "open_newest", meanwhile)
    trained = open_trained(config)
    assert trained.step == 40 and trained.chosen == "best by ndcg@5 on valid, 0.9000"


def test_another_metric_begins_anew(place, finished, scripted, tmp_path, caplog):
    train(config := copied(place, finished, tmp_path, metric="mrr"))
    assert "evaluate.best.metric was ndcg@5" in caplog.text
    assert open_trained(config).step == 60, "only the last step is evaluated again"


def test_valid_must_have_rows(place, scripted, tmp_path):
    shutil.copytree(place / "dataset", tmp_path / "dataset")
    path = tmp_path / "dataset" / "dataset.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["valid"] |= {"rows": 0, "files": [], "positives": 0}
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="split valid has no rows, so evaluate.best has nothing to choose by"):
        train(configured(tmp_path, tmp_path / "run"))


def test_figures_of_tasks():
    """Of the first weights and the first task, unless the metric names one."""
    lines = [
        {"scorer": "constant", "weights": "average", "task": "click", "auc": 0.5},
        {"scorer": "model", "weights": "average", "task": "click", "auc": 0.7},
        {"scorer": "model", "weights": "raw", "task": "click", "auc": 0.6},
        {"scorer": "model", "weights": "average", "task": "buy", "auc": None, "log_loss": 0.2},
    ]
    assert figure_of_best(lines, "auc") == figure_of_best(lines, "click/auc") == 0.7
    assert figure_of_best(lines, "buy/log_loss") == 0.2
    assert figure_of_best(lines, "buy/auc") is None and figure_of_best(lines, "watch/auc") is None


def test_a_lower_loss_is_better():
    record = BestRecord(metric="buy/log_loss", protocol="p")
    for step, value in ((10, 0.5), (20, 0.4), (30, 0.4), (40, 0.6)):
        record = record.having(Evaluated(step=step, value=value))
    assert (record.best.step, record.waited) == (20, 2), "equal is no better"
    assert record.until(30).waited == 1 and record.until(5).best is None


def test_models_say_which_checkpoint_they_are():
    assert step_text({"step": 20, "chosen": "best by mrr on valid, 0.3000"}) == (
        "step 20 (best by mrr on valid, 0.3000)"
    )
    assert step_text({"step": 20}) == step_text({"step": 20, "chosen": "newest"}) == "step 20"

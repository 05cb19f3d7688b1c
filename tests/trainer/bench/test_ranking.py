"""`bench ranking` at tiny sizes: all libraries train the same model, and what is missing has a reason."""

import importlib.util

import numpy as np
import psutil
import pytest
import yaml

from configs.errors import UserError
from configs.system.pythons import missing_addons
from tests.support.fresh_processes import only_first_is_fresh
from tests.support.ranking_dataset import KEYS, click_log, ranking_document
from tests.trainer.bench.test_optimizers import bench_run, parsed
from trainer import cli
from trainer.bench import timing
from trainer.bench.cases.ranked_model import RankedModel, criteo_rows, ranked_batches, ranked_weights
from trainer.bench.parts import ranked_epoch, ranked_steps
from trainer.bench.parts.turns import compared
from trainer.bench.ranking import RANKING_PEERS

pytestmark = pytest.mark.any_python

TORCH = importlib.util.find_spec("torch") is not None
TORCHREC = TORCH and importlib.util.find_spec("torchrec") is not None
TINY = ["--rows", "400", "--dim", "4", "--numbers", "2", "--bottom", "6", "--top", "5", "--steps", "2"]


def lacking(peer: str, optimizer: str, crosses: int = 0) -> str | None:
    """Why a library is missing here."""
    if peer == "tfrs" and optimizer == "lazy_adam":
        return missing_addons()
    if peer.startswith("torch") and not TORCH:
        return "torch is not importable"
    if peer == "torchrec":
        if crosses:
            return "torchrec has no full-rank crosses"
        return None if TORCHREC else "torchrec is not importable: No module named 'torchrec'"
    return None


def small(optimizer: str, crosses: int = 0) -> RankedModel:
    return RankedModel({"a": 40, "b": 9, "c": 300}, ["x", "y"], 8, [12], [10, 6], crosses, optimizer)


def relu(values):
    return np.maximum(values, 0)


def first_loss(model: RankedModel) -> float:
    """In float64, by the formulas of the papers."""
    weights, batch = ranked_weights(model), next(ranked_batches(model, 64, 1))
    bottom = np.stack([batch[name] for name in model.numbers], 1).astype(float)
    for kernel in weights.bottom:
        bottom = relu(bottom @ kernel)
    vectors = [*(weights.tables[name][batch[name]] for name in model.rows), bottom]
    if model.crosses:
        first = found = np.concatenate(vectors, 1)
        for kernel in weights.crosses:
            found = first * (found @ kernel) + found
    else:
        number = range(len(vectors))
        found = np.stack([(vectors[i] * vectors[j]).sum(1) for i in number for j in range(i)], 1)
    hidden = np.concatenate([bottom, found], 1)
    *layers, last = weights.top
    for kernel in layers:
        hidden = relu(hidden @ kernel)
    logit = (hidden @ last)[:, 0]
    return float(np.mean(np.log1p(np.exp(logit)) - batch["label"] * logit))


@pytest.mark.slow
@pytest.mark.parametrize("crosses", [0, 2])
@pytest.mark.parametrize("optimizer", ["lazy_adam", "adagrad", "sgd"])
def test_all_train_the_same_model(optimizer, crosses):
    """The rows too; the first loss is NumPy's. Only torch's Adam adds epsilon elsewhere."""
    model = small(optimizer, crosses)
    weights = ranked_weights(model)
    losses, cases = {}, {}
    for peer in RANKING_PEERS:
        if reason := lacking(peer, optimizer, crosses):
            with pytest.raises(timing.NotMeasured, match=reason):
                ranked_steps.make_ranking(peer, model, weights, 0)
            continue
        cases[peer] = ranked_steps.make_ranking(peer, model, weights, 0)
        losses[peer] = [cases[peer].step(cases[peer].inputs(b)) for b in ranked_batches(model, 64, 6)]
    ours = losses["lazytower"]
    assert ours[0] == pytest.approx(first_loss(model), abs=1e-6)
    for peer, found in losses.items():
        exact = optimizer != "lazy_adam" or not peer.startswith("torch")
        np.testing.assert_allclose(found, ours, atol=2e-6 if exact else 2e-5, err_msg=peer)
    assert len(losses) > 1 or missing_addons()
    tables = cases.pop("lazytower").recommender.tables
    for name, table in tables.items():
        rows = np.asarray(table.read_weights(np.arange(model.rows[name]), False, 6.0))
        moved = np.abs(rows - weights.tables[name]).max()
        assert moved > 1e-4
        for peer, case in cases.items():
            away = np.abs(_rows(case, name) - rows)
            if optimizer == "lazy_adam" and peer.startswith("torch"):
                away = np.median(away)  # Adam makes large steps of the smallest gradients
            assert np.max(away) <= (1e-4 if optimizer == "lazy_adam" else 1e-3 * moved), f"{peer} {name}"


def _rows(case, name: str) -> np.ndarray:
    if hasattr(case, "embeddings"):
        return case.embeddings.layers_by_key[name].embeddings.numpy()
    return case.tables[name].weight.detach().numpy()


def test_tables_have_the_proportions_of_criteo():
    rows = criteo_rows(10_000_000)
    assert list(rows) == sorted(rows) and len(rows) == 26
    assert abs(sum(rows.values()) - 10_000_000) < 30 and min(rows.values()) == 2
    assert rows["c03"] / rows["c12"] == pytest.approx(10_131_227 / 8_351_593, rel=1e-5)


def test_batches_are_the_same_twice_and_have_popular_keys():
    model = small("sgd")
    [first], [again] = (list(ranked_batches(model, 4_000, 1)) for _ in range(2))
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
    assert np.bincount(first["c"]).max() > 400 and first["c"].max() < 300
    assert 0.1 < first["label"].mean() < 0.5


@pytest.mark.slow
def test_steps_have_a_row_for_each_library(tmp_path, capsys, monkeypatch):
    only_first_is_fresh(monkeypatch, ranked_steps)
    args = ["--batch", "32", "--optimizers", "adagrad", "--turns", "1", "--output", str(tmp_path)]
    assert bench_run("ranking", *TINY, *args) == 0
    rows = parsed(tmp_path / "ranking.csv")
    assert [row["by"] for row in rows] == list(RANKING_PEERS)
    for row in rows:
        assert (row["interaction"], row["optimizer"], row["batch"]) == ("dot", "adagrad", "32")
        if reason := lacking(row["by"], "adagrad"):
            assert row["reason"] == reason and row["ms"] == "-"
            continue
        assert row["reason"] == "" and row["equal"] == row["interleaved"] == "yes"
        assert float(row["ms"]) > 0 and len(row["losses"].split()) == 5
    assert rows[0]["x_lazytower"] == "1.0" and rows[0]["loss_gap"] == "0.0e+00"
    assert "written:" in capsys.readouterr().out
    assert "torchrec" in (tmp_path / "ranking.html").read_text(encoding="utf-8")


def test_what_does_not_fit_together_takes_turns_with_lazytower(monkeypatch):
    model = small("adagrad")._replace(rows={"a": 10_000_000})
    need = ranked_steps._gigabytes(["lazytower", "tfrs"], model, 8)
    for room, groups in ((100, [["lazytower", "tfrs", "torch"]]),
                         (need + 0.1, [["lazytower", "tfrs"], ["lazytower", "torch"]])):  # fmt: skip
        free = psutil.virtual_memory()._replace(available=int(room * timing.GIB))
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: free)
        monkeypatch.setattr(timing, "_rss_at_start", psutil.Process().memory_info().rss)
        assert ranked_steps._groups(["lazytower", "tfrs", "torch"], model, 8) == groups
    assert ranked_steps._groups(["lazytower"], model, 8) == []


def test_too_little_memory_is_said(monkeypatch):
    free = psutil.virtual_memory()._replace(available=timing.GIB // 2)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    args = cli.parse(["lazytower", "bench", "ranking"])
    model = small("sgd")._replace(rows={"a": 100_000_000})
    found = ranked_steps._measure(["lazytower"], model, 8, args)
    assert found["lazytower"]["reason"].startswith("needs ")


def test_losses_further_apart_are_called_so():
    ours = {"ms": [1.0] * 6, "losses": [0.7] * 6, "bytes": 10_000_000}
    other = ours | {"losses": [0.7, 0.7, 0.7002, 0.7, 0.7, 0.7]}
    row = compared("torch", {"lazytower": ours, "torch": other}, [], 1e-4)
    assert (row["equal"], row["loss_gap"]) == ("NO", "2.0e-04")


@pytest.fixture
def click_run(tmp_path) -> str:
    """A run on a prepared click log, as a file."""
    model = {"inputs": [*KEYS, "n0", "n1"]}
    click_log(str(tmp_path), 600, model=model)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(ranking_document(str(tmp_path), model)))
    return str(path)


def test_an_epoch_of_a_dataset(tmp_path, monkeypatch, click_run):
    monkeypatch.setattr(ranked_epoch, "in_fresh_process", lambda function, *args: function(*args))
    args = ["--config", click_run, "--optimizers", "adagrad", "--output", str(tmp_path / "out")]
    assert bench_run("ranking", *TINY, *args) == 0
    rows = parsed(tmp_path / "out/ranking_epoch.csv")
    assert [row["by"] for row in rows] == list(RANKING_PEERS)
    for row in rows:
        if reason := lacking(row["by"], "adagrad"):
            assert row["reason"] == reason
            continue
        assert (row["batch"], row["steps"], row["reason"]) == ("64", "7", "")  # of 480 train rows
        assert float(row["seconds"]) > 0 and float(row["rows_per_s"]) > 0
        assert float(row["loss"]) == pytest.approx(float(rows[0]["loss"]), abs=2e-6)
    assert rows[0]["x_lazytower"] == "1.0"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.inputs=[c0, tags, n0]"], "tags is a list or vector, .* leave it out"),
        (["model.inputs=[c0, c1]"], "needs a key and a number"),
        (["train.batch_size=200"], "an epoch has 2 steps, and more than 3 are needed"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(monkeypatch, click_run, overrides, message):
    monkeypatch.setattr(ranked_epoch, "in_fresh_process", lambda function, *args: function(*args))
    sets = [f"--set={override}" for override in overrides]
    with pytest.raises(UserError, match=message):
        bench_run("ranking", *TINY, "--peers", "lazytower", "--config", click_run, *sets)

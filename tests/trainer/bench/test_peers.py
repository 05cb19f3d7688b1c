"""`bench peers` at tiny sizes: the floor and all peers do the same work, and every part has its figures."""

import importlib.util

import numpy as np
import psutil
import pytest

from configs.errors import UserError
from configs.system.pythons import missing_addons
from tests.support.addons import skipping_tfa
from tests.support.fresh_processes import only_first_is_fresh
from tests.trainer.bench.test_optimizers import bench_run, parsed
from trainer import cli
from trainer.bench import timing
from trainer.bench.cases.rows import ROW_CASES, memory
from trainer.bench.parts import ml100k
from trainer.bench.parts import rows as bench_peer_rows
from trainer.bench.parts import towers as bench_peer_towers
from trainer.bench.parts.turns import compared

pytestmark = pytest.mark.any_python

TORCH = importlib.util.find_spec("torch") is not None
FBGEMM = importlib.util.find_spec("fbgemm_gpu") is not None
HERE = [name for name in ROW_CASES if not name.startswith(("torch", "fbgemm"))]
ROWS, DIM, BATCH, STEPS = 40, 8, 30, 4


def parsed_args(*args: str):
    return cli.parse(["lazytower", "bench", "peers", *args])


def stepped(name: str, ids: list[np.ndarray], gradients: list[np.ndarray]):
    """A case after steps."""
    case = ROW_CASES[name].make(ROWS, DIM, 0)
    for row_ids, gradient in zip(ids, gradients, strict=True):
        case.steps(case.inputs(row_ids[None], gradient))
    return case


@pytest.fixture
def batches() -> tuple[list, list]:
    """Ids that repeat within a batch, with gradients."""
    generator = np.random.default_rng(0)
    ids = [generator.integers(0, ROWS // 2, BATCH) for _ in range(STEPS)]
    return ids, [generator.standard_normal([BATCH, DIM]).astype(np.float32) for _ in range(STEPS)]


def lazy_adam(batches, summed: bool):
    """(weights, averages) [ROWS, DIM] in float64; the average is taken of the whole table at every step.

    `summed`: repeated ids take the sum of their gradients, or, as the floor does, the i-th gradient for the
    i-th distinct id.
    """
    weight, m, v, average = (np.zeros([ROWS, DIM]) for _ in range(4))
    for step, (ids, gradients) in enumerate(zip(*batches, strict=True), start=1):
        distinct = list(dict.fromkeys(ids.tolist()))
        for i, row in enumerate(distinct):
            g = gradients[ids == row].astype(float).sum(axis=0) if summed else gradients[i].astype(float)
            m[row] = 0.9 * m[row] + 0.1 * g
            v[row] = 0.999 * v[row] + 0.001 * g * g
            rate = 1e-3 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            weight[row] -= rate * m[row] / (np.sqrt(v[row]) + 1e-7)
        average = 0.999 * average + 0.001 * weight
    return weight, average


def test_the_floor_is_lazy_adam_with_averages(batches):
    case = stepped("floor", *batches)
    records = case.records().copy()
    case.close()
    weight, average = lazy_adam(batches, summed=False)
    last = records[:, -1].astype(int)
    kept = 0.999 ** (STEPS - last)[:, None]
    caught_up = records[:, :DIM] + kept * (records[:, 3 * DIM : -1] - records[:, :DIM])
    np.testing.assert_allclose(records[:, :DIM], weight, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(caught_up, average, rtol=1e-4, atol=1e-9)
    assert set(np.flatnonzero(last)) == set(np.concatenate(batches[0]))


def test_the_floor_looks_up_all_ids():
    case = ROW_CASES["floor"].make(50_000, 4, 2)  # enough for two threads
    ids = np.arange(50_000, dtype=np.int64)[::-1].copy()
    case.records()[:, :4] = np.arange(50_000)[:, None]
    case.steps(case.inputs(ids[None], np.zeros([50_000, 4], np.float32)))
    np.testing.assert_array_equal(case._output[:, 0], ids)
    with pytest.raises(ValueError, match="ids outside the 50000 rows"):
        case.inputs(np.array([[50_000]]), np.zeros([1, 4], np.float32))
    case.close()


LAZY = ["lazytower", "lazytower_no_average", "tfa_lazy_adam"]


@pytest.mark.parametrize("name", skipping_tfa([*LAZY, "torch_sparse_adam"]))
def test_peers_take_the_same_lazy_steps(name, batches):
    if name.startswith("torch") and not TORCH:
        pytest.skip("no torch")
    case = stepped(name, *batches)
    weight, average = lazy_adam(batches, summed=True)
    if name.startswith("lazytower"):
        table = case.table
        found = table.read_weights(np.arange(ROWS), False, float(STEPS))
        if table.average:
            averaged = table.read_weights(np.arange(ROWS), True, float(STEPS))
            np.testing.assert_allclose(averaged, average, rtol=1e-4, atol=1e-9)
    else:
        found = case.weight.detach() if name.startswith("torch") else case.weight
    np.testing.assert_allclose(np.asarray(found), weight, rtol=1e-4, atol=1e-8)


def test_the_fused_peers_take_their_steps(batches):
    if not FBGEMM:
        pytest.skip("no fbgemm_gpu")
    expected = np.zeros([ROWS, DIM])
    for ids, gradients in zip(*batches, strict=True):
        np.add.at(expected, ids, -1e-3 * gradients.astype(float))
    weight = np.asarray(stepped("fbgemm_sgd", *batches).weight)
    np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-7)
    rowwise = np.asarray(stepped("fbgemm_rowwise_adagrad", *batches).weight)
    ours = stepped("lazytower_rowwise_adagrad", *batches).table
    found = np.asarray(ours.read_weights(np.arange(ROWS), False, float(STEPS)))
    np.testing.assert_allclose(found, rowwise, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("exponent", [0.7, 1.05, 1.5])
def test_zipf_ids(exponent):
    rows, number = 50, 400_000
    ids = bench_peer_rows.draw("zipf", rows, number, exponent, np.random.default_rng(0))
    assert ids.dtype == np.int64
    counts = np.sort(np.bincount(ids, minlength=rows))[::-1] / number
    edges = np.arange(1, rows + 2.0) ** (1 - exponent)
    np.testing.assert_allclose(counts, np.diff(edges) / (edges[-1] - edges[0]), atol=0.003)
    first, second = np.bincount(ids).argsort()[::-1][:2]
    assert abs(first - second) > 1  # frequent ids are not neighbours in memory


@pytest.mark.slow
def test_rows(tmp_path, capsys, monkeypatch):
    only_first_is_fresh(monkeypatch, bench_peer_rows)
    args = ["--rows", "300", "600", "--batches", "16", "--dim", "4", "--steps", "2", "--turns", "2"]
    peers = ["--peers", "lazytower", "keras_adam", "torch_sparse_adam", "--ids", "zipf"]
    assert bench_run("peers", "--parts", "rows", *args, *peers, "--output", str(tmp_path)) == 0
    rows = parsed(tmp_path / "peers_rows.csv")
    names = ["floor", "lazytower", "keras_adam", "torch_sparse_adam"]
    assert [(row["rows"], row["by"]) for row in rows] == [(n, name) for n in ("300", "600") for name in names]
    for row in rows:
        if row["reason"]:
            assert not TORCH and row["by"] == "torch_sparse_adam" and row["ms"] == "-"
            continue
        assert float(row["ms"]) > 0 and 0 < int(row["distinct"]) <= 16
        ours = next(r for r in rows if r["by"] == "lazytower" and r["rows"] == row["rows"])
        wanted = float(row["x_floor"]) / float(ours["x_floor"])
        assert float(row["x_lazytower"]) == pytest.approx(wanted, abs=0.01)
        first = next(r for r in rows if r["by"] == row["by"])
        assert float(row["x_rows"]) == pytest.approx(float(row["ms"]) / float(first["ms"]), abs=0.01)
    assert "x_floor" in capsys.readouterr().out
    assert "Embedding step" in (tmp_path / "peers.html").read_text()


@pytest.mark.parametrize("room", [100, 1.9])
def test_tables_that_do_not_fit_together_are_measured_one_by_one(monkeypatch, room):
    free = psutil.virtual_memory()._replace(available=int(room * timing.GIB))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    alive, most, closed = set(), [], []
    make = bench_peer_rows._make

    def watched(names, *args, **kwargs):
        alive.update(names)
        most.append(len(alive))
        cases, reasons = make(names, *args, **kwargs)
        for name, case in cases.items():
            case.close = lambda name=name, close=case.close: (
                alive.discard(name),
                closed.append(name),
                close(),
            )
        return cases, reasons

    monkeypatch.setattr(bench_peer_rows, "_make", watched)
    args = parsed_args("--batches", "16", "--ids", "uniform", "--dim", "4", "--steps", "2")
    peer = "keras_adam" if missing_addons() else "tfa_lazy_adam"
    names = ("lazytower", peer, "fbgemm_sgd")
    results = bench_peer_rows._measure(names, 100, args, 0)
    assert max(most) == (4 if room == 100 else 1)
    for name in ("floor", "lazytower", peer):
        result = results["uniform", 16, name]
        assert len(result["ms"]) == 2 and result["floor"] == results["uniform", 16, "floor"]["ms"]
    assert ("reason" in results["uniform", 16, "fbgemm_sgd"]) == (not FBGEMM)
    assert {"floor", "lazytower", peer} <= set(closed)


def test_our_floor_works_on_our_records_where_two_tables_do_not_fit(monkeypatch):
    free = psutil.virtual_memory()._replace(available=timing.GIB + 9_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    touched, make = [], bench_peer_rows._make

    def watched(*args, **kwargs):
        cases, reasons = make(*args, **kwargs)
        table, floor = cases["lazytower"].table, cases["floor"]
        before = table.read_records(np.arange(100)).numpy()
        floor.steps(floor.inputs(np.array([[7, 7, 3]]), np.ones([3, 4], np.float32)))
        touched.append((table.read_records(np.arange(100)).numpy() != before).any(axis=1))
        return cases, reasons

    monkeypatch.setattr(bench_peer_rows, "_make", watched)
    args = parsed_args("--batches", "16", "--ids", "uniform", "--dim", "4", "--steps", "2")
    results = bench_peer_rows._measure(("lazytower",), 100, args, 0)
    [rows] = touched
    assert np.flatnonzero(rows).tolist() == [3, 7]
    assert all(len(results["uniform", 16, name]["ms"]) == 2 for name in ("lazytower", "floor"))


def test_groups_fill_the_memory(monkeypatch):
    free = psutil.virtual_memory()._replace(available=23 * timing.GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    args = parsed_args()
    assert bench_peer_rows._groups(1_000_000, args) == [tuple(name for name in ROW_CASES if name != "floor")]
    groups = bench_peer_rows._groups(25_000_000, args)
    assert groups[0] == ("lazytower",) and ("keras_adam",) in groups
    for group in groups:
        need = sum(memory(name, 25_000_000, 32) for name in ("floor", *group))
        assert len(group) == 1 or need < 23


def towers(names, corrected: bool):
    from trainer.bench.cases.towers import TOWERS, initial_weights

    weights = initial_weights({"user": 60, "item": 30}, 8, [12, 4])
    counts = np.arange(1, 31)
    return {name: TOWERS[name](weights, corrected, counts, 0) for name in names}


@pytest.mark.parametrize("corrected", [False, True])
def test_all_train_the_same_model(corrected):
    """The weights too, and the loss is that of NumPy on the initial ones."""
    from trainer.bench.cases.towers import initial_weights

    tfrs = [] if missing_addons() else ["tfrs_tfa"]
    names = ["lazytower", *tfrs, *(["torch"] if TORCH else [])]
    cases = towers(names, corrected)
    generator = np.random.default_rng(0)
    steps = [(generator.integers(0, 60, 32), generator.integers(0, 30, 32)) for _ in range(5)]
    losses = {name: [case.step(*step) for step in steps] for name, case in cases.items()}
    user, item = (forward(initial_weights({"user": 60, "item": 30}, 8, [12, 4])[side], ids)
                  for side, ids in zip(("user", "item"), steps[0], strict=True))  # fmt: skip
    logits = user @ item.T
    if corrected:
        items = steps[0][1]
        logits = logits - np.log((items + 1) / np.arange(1, 31).sum())
        logits[(items[:, None] == items) & ~np.eye(32, dtype=bool)] = -np.inf
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
    for name in names:
        assert losses[name][0] == pytest.approx(expected, abs=1e-5)
        np.testing.assert_allclose(losses[name], losses["lazytower"], atol=2e-5)
    assert losses["lazytower"][0] != losses["lazytower"][-1]
    table = cases["lazytower"].recommender.tables["user"].read_weights(np.arange(60), False, 5.0)
    for name in tfrs:
        np.testing.assert_allclose(table, cases[name].model.user.layers[0].embeddings, atol=1e-4)


def test_our_softmax_may_have_groups_and_another_precision():
    """The mean of what batches of a group each would lose."""
    from trainer.bench.cases.towers import OurTowers, initial_weights

    weights, counts = initial_weights({"user": 60, "item": 30}, 8, [12, 4]), np.arange(1, 31)
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 60, 32), generator.integers(0, 30, 32)
    apart = [
        OurTowers(weights, True, counts, 0).step(users[i : i + 8], items[i : i + 8]) for i in (0, 8, 16, 24)
    ]
    found = OurTowers(weights, True, counts, 0, "bfloat16", 8).step(users, items)
    assert found == pytest.approx(np.mean(apart), rel=1e-3) and found != np.mean(apart)


def test_bfloat16_differs_little_in_each_library():
    names = ["lazytower", *(["torch"] if TORCH else [])]
    cases = towers([each for name in names for each in (name, f"{name}_bfloat16")], True)
    generator = np.random.default_rng(0)
    step = generator.integers(0, 60, 32), generator.integers(0, 30, 32)
    losses = {name: case.step(*step) for name, case in cases.items()}
    for name in names:
        assert losses[f"{name}_bfloat16"] == pytest.approx(losses[name], rel=1e-2)
        assert losses[f"{name}_bfloat16"] != losses[name]


def forward(arrays: list[np.ndarray], ids: np.ndarray) -> np.ndarray:
    table, *kernels = arrays
    vector = table[ids].astype(float)
    for i, kernel in enumerate(kernels):
        vector = vector @ kernel
        vector = vector if i == len(kernels) - 1 else np.maximum(vector, 0)
    return vector


@pytest.mark.slow
def test_towers(tmp_path, monkeypatch):
    only_first_is_fresh(monkeypatch, bench_peer_towers)
    args = ["--users", "500", "--items", "80", "--tower_dim", "4", "--layers", "6", "--tower_batches", "32"]
    assert bench_run("peers", "--parts", "towers", *args, "--turns", "1", "--output", str(tmp_path)) == 0
    rows = parsed(tmp_path / "peers_towers.csv")
    assert [row["by"] for row in rows] == ["lazytower", "tfrs_tfa", "torch"]
    lacking = {"tfrs_tfa": missing_addons(), "torch": None if TORCH else "torch is not importable"}
    for row in rows:
        if reason := lacking.get(row["by"]):
            assert row["reason"] == reason
            continue
        assert row["reason"] == "" and row["equal"] == row["interleaved"] == "yes"
        assert float(row["ms"]) > 0 and len(row["losses"].split()) == 5
        # The tests' own process has had its peak already.
        assert float(row["memory_mb"]) >= (1 if row["by"] == "lazytower" else 0)


def test_other_losses_are_called_so():
    ours = {"ms": [1.0] * 6, "losses": [5.0] * 6, "bytes": 10_000_000}
    other = {"ms": [3.0] * 6, "losses": [5.0, 5.0, 5.002, 5.0, 5.0, 5.0], "bytes": 30_000_000}
    row = compared("torch", {"lazytower": ours, "torch": other}, [])
    assert (row["equal"], row["loss_gap"], row["interleaved"]) == ("NO", "2.0e-03", "no")
    assert (row["x_lazytower"], row["x_memory"]) == (3.0, 3.0)


def test_too_little_memory_for_the_scores_is_said(monkeypatch):
    free = psutil.virtual_memory()._replace(available=2 * timing.GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    args = parsed_args("--users", "50", "--items", "20")
    result = bench_peer_towers._measure(["tfrs_tfa"], 32_768, args)
    assert result["tfrs_tfa"]["reason"].startswith("needs 43.0 GiB of memory, ")


@pytest.mark.slow
def test_prepare(tmp_path):
    args = ["--parts", "prepare", "--prepare_rows", "2000", "--turns", "1", "--output", str(tmp_path)]
    assert bench_run("peers", *args) == 0
    rows = parsed(tmp_path / "peers_prepare.csv")
    assert [row["case"].split(",")[0] for row in rows] == ["lazytower prepare", "lazytower prepare", "polars"]
    assert rows[1]["x_lazytower"] == "1.00" and float(rows[2]["x_lazytower"]) > 0


@pytest.mark.slow
def test_ml100k(tmp_path, monkeypatch):
    """On planted rows in MovieLens's form; their tutorial model is slow to learn, so the first try passes.

    `train`, whose seconds count, runs in a process of its own; the rest runs here.
    """
    in_process = ml100k._Line.run

    def run(line, command, *overrides):
        if command == "train":
            return in_process(line, command, *overrides)
        sets = [f"--set={override}" for override in (*line.overrides, *overrides)]
        assert cli.run(cli.parse(["lazytower", command, "--config", ml100k._config_path(), *sets])) == 0
        return None

    monkeypatch.setattr(ml100k._Line, "run", run)
    monkeypatch.setattr(ml100k, "in_fresh_process", lambda function, *args: function(*args))
    generator = np.random.default_rng(0)
    lines = [f"{u}\t{(u % 5) * 10 + generator.integers(10)}\t5\t{t}" for t in range(40) for u in range(100)]
    (tmp_path / "u.data").write_text("\n".join(lines) + "\n")
    args = ["--ml100k", str(tmp_path / "u.data"), "--turns", "1", "--output", str(tmp_path)]
    assert bench_run("peers", "--parts", "ml100k", *args) == 0
    ours, tutorial = parsed(tmp_path / "peers_ml100k.csv")
    assert ours["by"] == "lazytower" and ours["x_lazytower"] == "1.0"
    assert float(ours["recall@20"]) >= float(tutorial["recall@20"]) > 0
    wanted = float(tutorial["seconds"]) / float(ours["seconds"])
    assert float(tutorial["x_lazytower"]) == pytest.approx(wanted, abs=0.02)


def test_ml100k_is_skipped_or_missed(tmp_path):
    assert ml100k.measure(parsed_args()) == []
    with pytest.raises(UserError, match="u.data does not exist; set it to"):
        ml100k.measure(parsed_args("--ml100k", str(tmp_path / "u.data")))


def test_the_page_has_parts_of_earlier_calls(tmp_path):
    (tmp_path / "peers_prepare.csv").write_text("case,rows\nolder part,5\n")
    assert bench_run("peers", "--parts", "ml100k", "--output", str(tmp_path)) == 0
    assert "older part" in (tmp_path / "peers.html").read_text()


def test_help_answers_without_tensorflow():
    from tests.trainer.test_cli import run

    done = run("bench", "peers", "--help", before=("-X", "importtime"))
    assert done.returncode == 0 and done.stdout.startswith("usage: lazytower bench peers")
    assert not [name for name in ("tensorflow", "torch", "pydantic") if f" {name}\n" in done.stderr]

"""`bench retrieval` at a tiny size: every case is asked, and recall is against the true lists."""

import importlib.util

import numpy as np
import pytest

from configs.errors import UserError
from tests.trainer.bench.test_optimizers import bench_run, parsed
from trainer.bench import retrieval
from trainer.bench.cases.retrieval import RETRIEVAL_CASES, Data

pytestmark = pytest.mark.any_python

TINY = ["--items", "3000", "--dim", "8", "--centres", "40", "--k", "7", "--queries", "2"]
HAS_SCANN = importlib.util.find_spec("scann") is not None
EXACT = [name for name in RETRIEVAL_CASES if not name.startswith("scann")]


@pytest.fixture(scope="module")
def data():
    return Data(3000, 8, 40)


@pytest.mark.slow
def test_every_batch_and_case_has_a_row(tmp_path, capsys):
    assert bench_run("retrieval", *TINY, "--batches", "1", "5", "--output", str(tmp_path)) == 0
    rows = parsed(tmp_path / "retrieval.csv")
    assert [(row["batch"], row["by"]) for row in rows] == [
        (b, name) for b in ("1", "5") for name in RETRIEVAL_CASES
    ]
    for row in rows:
        if row["by"].startswith("scann") and not HAS_SCANN:
            assert "scann" in row["reason"] and row["p50_ms"] == "-"
            continue
        assert row["reason"] == "" and row["timed"] == "2"
        assert 0 < float(row["p50_ms"]) <= float(row["p99_ms"]) and float(row["queries_per_s"]) > 0
        if row["by"] in EXACT:
            assert float(row["recall"]) == 1
        elif row["by"] in ("scann", "scann_20%"):  # searching less of a small tree gives random results
            assert float(row["recall"]) > 0.8
        if row["by"] == "brute_force":
            assert row["x_ours"] == "1.00"
    assert "written:" in capsys.readouterr().out
    assert "tfrs_streaming" in (tmp_path / "retrieval.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("unseen", "where"), [(False, ""), (True, ""), (False, "10%")])
def test_true_lists_are_those_of_a_sort(data, unseen, where):
    for user in range(0, 256, 50):
        scores = data.items @ data.users[user]
        if unseen:
            scores[data.seen[user]] = -np.inf
        if where:
            scores[~data.having[where]] = -np.inf
        assert data.exact(9, unseen, where)[user] == set(np.argsort(-scores)[:9].tolist())


def test_a_key_leads_to_its_user(data):
    served = RETRIEVAL_CASES["brute_force"](data)
    request = data.request(3, 100, 1)
    np.testing.assert_array_equal(request.users, np.arange(300, 400) % 256)
    found = served._model.user_embedding(request.keys)["embedding"].numpy()
    np.testing.assert_array_equal(found, data.users[request.users])


def test_recall_counts_what_is_missing():
    assert retrieval._shares(np.array([[1, 2], [3, -1]]), [{1, 2}, {3, 4}]) == [1.0, 0.5]


def test_a_case_that_has_used_its_seconds_stops(tmp_path):
    args = [*TINY, "--batches", "1", "--seconds", "0", "--cases", "numpy", "--output", str(tmp_path)]
    assert bench_run("retrieval", *args) == 0
    [row] = parsed(tmp_path / "retrieval.csv")
    assert row["timed"] == "1" and row["x_ours"] == "-"


def test_what_cannot_be_measured_is_said_before(tmp_path):
    with pytest.raises(UserError, match="--k 4000: exceeds the 3000 items"):
        bench_run("retrieval", *TINY, "--k", "4000", "--output", str(tmp_path))
    with pytest.raises(UserError, match="GiB of memory, .* lower --items"):
        bench_run("retrieval", "--items", str(10**11), "--output", str(tmp_path))


def test_help_answers_without_tensorflow():
    from tests.trainer.test_cli import run

    done = run("bench", "retrieval", "--help", before=("-X", "importtime"))
    assert done.returncode == 0 and done.stdout.startswith("usage: lazytower bench retrieval")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"tensorflow", "apache_beam", "pydantic"}

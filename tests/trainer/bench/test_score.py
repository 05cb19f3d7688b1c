"""`bench score` at a tiny size: every case returns the same items, or has a reason."""

import importlib.util

import pytest

from configs.errors import UserError
from tests.trainer.bench.test_optimizers import bench_run, parsed
from trainer.bench import score
from trainer.bench.cases.scored import SCORING_CASES
from trainer.cli import parse

pytestmark = pytest.mark.any_python


def test_every_case_returns_the_same_items(tmp_path):
    flags = ["--users", "50", "--turn", "30", "--items", "700", "--dim", "8", "--centres", "40", "--k", "7"]
    assert bench_run("score", *flags, "--output", str(tmp_path)) == 0
    rows = {row["by"]: row for row in parsed(tmp_path / "score.csv")}
    assert list(rows) == list(SCORING_CASES)
    for name, row in rows.items():
        if name in ("implicit", "faiss") and importlib.util.find_spec(name) is None:
            assert row["reason"] == f"{name} is not installed" and row["users"] == "-"
            continue
        assert row["reason"] == "" and row["users"] == "50" and float(row["x_ours"]) > 0
        assert row["same"] == ("-" if name == "product" else "1.00000")
    assert rows["lazytower"]["x_ours"] == "1.00" and rows["product"]["of_product"] == "1.00"


def test_more_items_than_there_are_is_refused():
    with pytest.raises(UserError, match="--k 9: exceeds the 8 items; lower --k"):
        score.measure_scoring(parse(["lazytower", "bench", "score", "--items", "8", "--k", "9"]))

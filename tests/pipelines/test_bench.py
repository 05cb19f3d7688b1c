"""The benchmark runs and compares the same job."""

import argparse
import csv

import pytest

from pipelines import bench


@pytest.mark.slow
def test_all_cases_run(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    figures = tmp_path / "prepare.csv"
    size = ["--rows", "5000", "--users", "100", "--items", "50"]
    bench.run(parser.parse_args([*size, "--csv", str(figures)]))
    table = capsys.readouterr().out
    assert "5,000 rows" in table
    with open(figures, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(bench._CASES)
    for name in bench._CASES.values():
        assert name in table

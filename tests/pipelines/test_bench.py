"""The benchmark runs and compares the same job."""

import argparse

from pipelines import bench


def test_all_cases_run(capsys):
    bench.run(argparse.Namespace(rows=5000, users=100, items=50, repeats=1))
    table = capsys.readouterr().out
    assert "5,000 rows" in table
    for name in bench._CASES.values():
        assert name in table

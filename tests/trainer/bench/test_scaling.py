"""`bench scaling` at tiny sizes: every measurement has a row; what does not fit in memory says so."""

import functools
import re

import psutil
import pytest

from configs.system.pythons import missing_addons
from tests.support.addons import skipping_tfa
from tests.trainer.bench.test_optimizers import assert_stands_alone, bench_run, parsed
from trainer import cli
from trainer.bench import scaling, timing
from trainer.bench.scaling import _OPTIMIZERS, AVERAGING, plan

TINY = ["--max_rows", "400", "--rows", "300", "--max_batch", "512", "--dim", "4", "--batch", "64"]


@pytest.mark.slow
def test_every_measurement_has_a_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "in_fresh_process", lambda function, *args: function(*args))
    assert bench_run("scaling", *TINY, "--steps", "2", "--output", str(tmp_path)) == 0
    rows = parsed(tmp_path / "scaling.csv")
    keys = [(row["part"], row["rows"], row["batch"], row["optimizer"]) for row in rows]
    averaging = ("rows + exact average", "tfa + MovingAverage", "tfa")
    expected = [("averaging", "400", "64", name) for name in averaging]
    expected += [("rows", "400", "64", name) for name in ("rows", "tfa", "adam")]
    expected += [("batch", "300", n, name) for n in ("256", "512") for name in ("rows", "tfa", "adam")]
    assert keys == expected
    measured = [row for row in rows if row["reason"] == ""]
    left_out = {(row["optimizer"].split()[0], row["reason"]) for row in rows if row["reason"]}
    assert left_out == ({("tfa", missing_addons())} if missing_addons() else set())
    assert all(float(row["update_ms"]) > 0 for row in measured)
    # Slots, average and, on records, the last step; MovingAverage's inner slots count too.
    states = {"rows + exact average": 13, "tfa + MovingAverage": 12, "tfa": 8}
    for row in [row for row in measured if row["part"] == "averaging"]:
        assert int(row["state_bytes"]) == 400 * 4 * states[row["optimizer"]]
    assert capsys.readouterr().out.count("±") == 4 * len(measured) + 1
    assert_stands_alone(tmp_path / "scaling.html")


@pytest.mark.parametrize("name", skipping_tfa(["tfa + MovingAverage", "rows + exact average"]))
def test_the_averages_are_taken(name):
    """MovingAverage's shadow moves, and so does the record's: neither is timed without doing its work."""
    from trainer.bench.scaling import _case

    case = _case(name, 20, 4, 8)
    ids, labels = next(timing.random_ids(20, 8))
    for _ in range(2):
        case.update(case.gradient(case.forward(*case.inputs(ids, labels))))
    if name.startswith("tfa"):
        average, weight = case.optimizer.get_slot(case.weight, "average").numpy(), case.weight.numpy()
    else:
        records = case.table.read_records(range(20)).numpy()
        average, weight = records[:, -5:-1], records[:, :4]
    moved = (average != weight).any(axis=1)
    assert moved[ids.ravel()].all() and abs(average - weight).max() < 0.01


def test_too_little_memory_is_said(monkeypatch):
    from trainer.bench.scaling import _case

    free = psutil.virtual_memory()._replace(available=3 << 29)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(timing, "_rss_at_start", 1 << 60)  # nothing is given back
    for name in (*_OPTIMIZERS, *AVERAGING):
        result = timing.measured(functools.partial(_case, name, 1_000_000, 4, 8), 1_000_000, 8, 1)
        if name.startswith("tfa") and missing_addons():
            assert result["reason"] == missing_addons()
            continue
        assert re.fullmatch(r"needs [23]\.\d GiB of memory, 1\.5 are free", result["reason"])


def test_memory_that_tables_gave_back_counts_as_free(monkeypatch):
    free = psutil.virtual_memory()._replace(available=0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    rss = psutil.Process().memory_info().rss
    monkeypatch.setattr(timing, "_rss_at_start", rss - (2 << 30))
    timing.need_memory(1.5)
    with pytest.raises(timing.NotMeasured, match="needs 2.5 GiB of memory"):
        timing.need_memory(2.5)


def test_the_largest_table_is_always_measured():
    args = cli.parse(["lazytower", "bench", "scaling", "--max_rows", "3000000"])
    sizes = sorted({rows for part, rows, _, _ in plan(args) if part == "rows"})
    assert sizes == [1_000_000, 2_000_000, 3_000_000]


@pytest.mark.parametrize("bench", ["optimizers", "scaling"])
def test_help_answers_without_tensorflow(bench):
    from tests.trainer.test_cli import run

    done = run("bench", bench, "--help", before=("-X", "importtime"))
    assert done.returncode == 0 and done.stdout.startswith(f"usage: lazytower bench {bench}")
    assert "tensorflow" not in done.stderr and "--output" in done.stdout


@pytest.mark.slow
def test_one_thread_in_a_fresh_process(tmp_path, monkeypatch):
    """Only a process without TensorFlow can still choose its threads, so each measurement needs its own."""
    monkeypatch.setattr(scaling, "plan", lambda args: [("rows", 400, 64, "rows")])
    args = [*TINY, "--steps", "1", "--threads", "1", "--output", str(tmp_path)]
    assert bench_run("scaling", *args) == 0
    [row] = parsed(tmp_path / "scaling.csv")
    assert row["reason"] == "" and float(row["total_ms"]) > 0

"""`lazytower bench cluster`: its arithmetic, what it refuses, and a real measurement."""

import csv
import types

import pytest

from configs.errors import UserError
from trainer.bench import cluster


def arguments(tmp_path, **changed):
    given = {"hosts": [2], "batch": 64, "steps": 1, "turns": 2, "output": str(tmp_path)}
    given |= {"users": [1000], "only_hosts": False}
    return types.SimpleNamespace(**given | changed)


@pytest.mark.parametrize("hosts", [1, 3])
def test_hosts_that_do_not_divide_the_batch(tmp_path, hosts):
    with pytest.raises(UserError, match=f"--hosts: {hosts} hosts"):
        cluster.run(arguments(tmp_path, hosts=[hosts]))


@pytest.mark.slow
def test_programs_take_turns(tmp_path, capsys):
    assert cluster.run(arguments(tmp_path)) == 0
    with open(tmp_path / "cluster.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["program"] for row in rows][::2] == ["one process", "2 hosts"][: len(rows[::2])]
    assert float(rows[0]["x_first"]) == 1.0 and {row["users"] for row in rows} == {"1000"}
    assert float(rows[-1]["mb_a_step"]) > 0 and "2 hosts" in capsys.readouterr().out


@pytest.mark.slow
def test_tables_of_two_sizes(tmp_path):
    assert cluster.run(arguments(tmp_path, users=[1000, 2000], only_hosts=True)) == 0
    with open(tmp_path / "cluster.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["program"], row["users"]) for row in rows] == [("2 hosts", "1000"), ("2 hosts", "2000")]

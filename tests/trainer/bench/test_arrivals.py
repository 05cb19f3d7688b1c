"""`bench arrivals` on a few rows: who comes and goes, what each way prepares; without training."""

import csv
import json
import pathlib

import numpy as np
import pytest

from configs.load import load_config
from trainer import cli
from trainer.bench import arrivals

pytestmark = pytest.mark.any_python

WORDS = ["lazytower", "bench", "arrivals", "--days", "6", "--users", "50", "--items", "80", "--rows", "400"]


def test_users_come_and_go():
    days = arrivals.planted_days(cli.parse([*WORDS, "--leave", "0.2"]))
    assert len(days) == 6
    seen: list[set[int]] = [set(day[:, 0].tolist()) for day in days]
    assert max(map(max, seen)) < 50 + 5 * 10
    for earlier, later in zip(seen, seen[1:], strict=False):
        assert len(later) <= 50 and max(later) > max(earlier)
    gone = seen[0] - seen[1] - seen[2]
    assert len(gone) >= 10
    assert not gone & set().union(*seen[3:])
    for number, day in enumerate(days):
        assert (np.diff(day[:, 2]) >= 0).all()
        assert set(day[:, 2] // 86_400) == {1_764_028_800 // 86_400 + number}


def test_a_user_likes_two_groups_of_items():
    rows = np.concatenate(arrivals.planted_days(cli.parse([*WORDS, "--leave", "0"])))
    for user in range(50):
        assert len(set(rows[rows[:, 0] == user, 1] // 2)) <= 2


def test_each_way_stands_on_its_own_days(tmp_path, monkeypatch, capsys):
    trained = {}

    def command(name, path, options):
        config = load_config(path, options)
        if name == "prepare":
            lines = list(csv.reader(pathlib.Path(config.source.paths[0]).open()))
            assert lines[0] == ["user", "item", "time"] and len(lines) == 401
            pathlib.Path(config.dataset.path).mkdir(parents=True)
            text = json.dumps({"tables": {"user": {"rows": 30}}})
            pathlib.Path(config.dataset.path, "dataset.json").write_text(text)
        if name == "train":
            where = pathlib.Path(config.output.path)
            trained[where.parent.name, where.name] = config
        if name == "evaluate":
            place = pathlib.Path(config.output.path)
            figure = {"unbounded": 0.2, "bounded": 0.3, "hashed": 0.1}[place.parent.name]
            place.mkdir()
            results = [{"scorer": "model", "ndcg@10": figure}, {"scorer": "popularity", "ndcg@10": 0.05}]
            (place / "evaluate-test.json").write_text(json.dumps({"results": results}))

    monkeypatch.setattr(arrivals, "_command", command)
    assert cli.run(cli.parse([*WORDS, "--max_rows", "30", "--output", str(tmp_path)])) == 0
    assert len(trained) == 18
    bounded, hashed = (trained[way, "run-3"] for way in ("bounded", "hashed"))
    assert (bounded.dataset.user_ids.max_rows, bounded.dataset.user_ids.expire_days) == (30, 2)
    assert (hashed.dataset.user_ids.kind, hashed.dataset.user_ids.rows) == ("hash", 30)
    assert trained["unbounded", "run-3"].dataset.user_ids.max_rows is None
    assert bounded.dataset.base.endswith("bounded/data-2") and bounded.init.from_.endswith("bounded/run-2")
    assert trained["bounded", "run-1"].dataset.base is None
    with open(tmp_path / "arrivals.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 18
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in table[1:]] == ["unbounded", "bounded", "hashed"]
    assert [line[-1] for line in table[1:]] == ["1.000", "1.500", "0.500"]

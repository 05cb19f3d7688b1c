"""`bench days` on a few ratings: which rows each way trains on, and the table, without training."""

import csv
import json
import pathlib

import numpy as np
import pytest

from configs.errors import UserError
from configs.load import load_config
from trainer import cli
from trainer.bench import days

pytestmark = pytest.mark.any_python


def ratings(number: int = 700) -> np.ndarray:
    places = np.arange(number)[::-1]
    return np.stack([places % 9, places % 7, 1 + places % 5, 1000 + places * 10], axis=1)


def test_slices_have_equal_times():
    found = days.sliced(ratings(), 7)
    assert [len(part) for part in found] == [100] * 7
    assert [part[0, 3] for part in found] == [1000 + 1000 * number for number in range(7)]
    gap = np.concatenate([ratings()[:10], ratings()[690:]])
    assert [len(part) for part in days.sliced(gap, 7)] == [10, 0, 0, 0, 0, 0, 10]


def test_each_way_trains_on_the_same_rows_in_the_end(tmp_path, monkeypatch, capsys):
    source = tmp_path / "u.data"
    np.savetxt(source, ratings(300), fmt="%d", delimiter="\t")
    trained, chain, users, prepared = {}, {}, {"all": 5, "warm": 5}, []

    def command(way, name, options):
        config = load_config(days._config_file(), [*way._overrides, *options])
        assert config.dataset.split.kind == "given"
        lines = list(csv.DictReader(pathlib.Path(config.source.paths[0]).open()))
        trained[config.output.path] = len([line for line in lines if line["split"] == "train"])
        chain[config.output.path] = config.dataset.base, config.init and config.init.from_
        if name == "prepare":
            prepared.append(pathlib.Path(config.dataset.path).name)
            pathlib.Path(config.dataset.path).mkdir()
        if name == "evaluate":
            kind = pathlib.Path(config.output.path).name.partition("-")[0]
            assert config.output.path.endswith(f"run{config.train.seed}")
            figure = 0.2 if kind == "all" else 0.2 + 0.02 * (config.train.seed - 5)
            line = {"scorer": "model", "users": users[kind], "targets": 7, "ndcg@10": figure}
            results = [line, {"scorer": "popularity", "ndcg@10": 0.1}]
            steps = 100 if kind == "all" else 20
            pathlib.Path(config.output.path).mkdir()
            text = json.dumps({"step": steps, "results": results})
            pathlib.Path(config.output.path, "evaluate-test.json").write_text(text)

    monkeypatch.setattr(days._Way, "_command", command)
    words = ["lazytower", "bench", "days", "--ml100k", str(source), "--slices", "3", "--seeds", "2"]
    words += ["--set", "train.seed=5"]
    assert cli.run(cli.parse([*words, "--output", str(tmp_path)])) == 0
    with open(tmp_path / "days.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["slice"], row["rows"], row["share"]) for row in rows] == [
        ("2", "100", "1.0"),
        ("3", "200", "0.2"),
    ]
    assert "ndcg" not in capsys.readouterr().err
    named = {pathlib.Path(path).name: number for path, number in trained.items()}
    assert named == {
        f"{name}-run{seed}": number
        for name, number in (("all-1", 101), ("all-2", 201), ("warm-2", 1))
        for seed in (5, 6)
    }
    assert prepared == ["all-1-data", "all-2-data", "warm-2-data"]  # which both seeds share
    sources = [value for path, value in chain.items() if "warm" in path]
    assert all(base.endswith("all-1-data") for base, _ in sources)
    assert [run.rpartition("/")[2] for _, run in sources] == ["all-1-run5", "all-1-run6"]
    # Ratios 1 and 1.1: half their distance is the mean's standard error.
    assert [float(row["ratio"]) for row in rows] == pytest.approx([1, 1.05])
    assert [float(row["error"]) for row in rows] == pytest.approx([0, 0.05])
    users["warm"] = 4
    with pytest.raises(UserError, match="slice 3: the ways ranked 5 and 4 users"):
        days.run(cli.parse(words))


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match="--ml100k: none does not exist"):
        days.run(cli.parse(["lazytower", "bench", "days", "--ml100k", "none"]))

"""`bench users25m` on a small planted run: every stage really runs and has its figures."""

import csv

import pytest
import yaml

from tests.support.tiny_run import planted_document
from trainer import cli


def bench(*args) -> int:
    return cli.run(cli.parse(["lazytower", "bench", "users25m", *args]))


@pytest.fixture
def config(tmp_path) -> str:
    document = planted_document(str(tmp_path))
    document["train"] |= {"num_steps": 30, "steps_per_loop": 5}
    document["checkpoint"] = {"every_steps": 10}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    return str(tmp_path / "run.yaml")


@pytest.mark.slow
def test_all_stages(config, tmp_path, capsys):
    args = ["--config", config, "--few_rows", "7", "--steps", "2", "--turns", "1", "--output", str(tmp_path)]
    assert bench(*args) == 0
    with open(tmp_path / "users25m.csv", newline="", encoding="utf-8") as file:
        rows = {(row["stage"], row["figure"]): row["value"] for row in csv.DictReader(file)}
    for stage in ("prepare", "train", "restore", "evaluate", "export", "recommend"):
        assert float(rows[stage, "seconds"]) > 0.1
        assert 0.05 < float(rows[stage, "peak memory GB"]) < 8
    assert float(rows["train", "median steps/s"].replace(",", "")) > 0
    assert rows["train", "full checkpoint"].endswith(("async", "blocking"))
    assert " s, " in rows["restore", "restore"]
    assert float(rows["steps", "ratio"]) > 0
    assert "7 distinct users" in rows["steps", "7 user rows"]
    assert "written: " in capsys.readouterr().out

    assert bench(*args, "--stages", "prepare") == 0
    assert "the dataset is there" in capsys.readouterr().out


def test_a_stage_that_fails_ends_it(config, tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        bench("--config", config, "--stages", "evaluate", "--output", str(tmp_path))
    assert ended.value.code == 2
    assert "lazytower evaluate: error: " in capfd.readouterr().err

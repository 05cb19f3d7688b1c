"""`bench input` on a small planted run: figures of real batches and steps."""

import csv

import yaml

from tests.support.tiny_run import planted_document, write_planted
from trainer import cli


def test_figures_of_a_small_run(tmp_path, capsys):
    write_planted(str(tmp_path))
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(planted_document(str(tmp_path))))
    args = ["bench", "input", "--config", str(path), "--steps", "7", "--output", str(tmp_path / "out")]
    assert cli.run(cli.parse(["lazytower", *args])) == 0
    assert "reader_rows_per_second" in capsys.readouterr().out
    with open(tmp_path / "out/input.csv", newline="", encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert float(row["reader_rows_per_second"]) > 0 and float(row["step_ms"]) > 0
    assert 0 <= float(row["waiting_share"]) <= 1 and row["batch_size"] == "64"

"""`bench defaults` on a tiny run: a row of each config and try; what cannot be compared is refused."""

import pytest
import yaml

from configs.errors import UserError
from tests.support.tiny_run import planted_document, write_planted
from tests.trainer.bench.test_optimizers import bench_run, parsed
from trainer.bench.defaults import COLUMNS, parse_try

pytestmark = pytest.mark.any_python


@pytest.fixture
def config(tmp_path) -> str:
    write_planted(str(tmp_path))
    path = tmp_path / "planted.yaml"
    path.write_text(yaml.safe_dump(planted_document(str(tmp_path))))
    return str(path)


@pytest.mark.slow
def test_each_try_has_a_row(config, tmp_path, capsys):
    tries = ["--try", "raw only=polyak.kind=none polyak.decay=null", "--try", "short=train.num_steps=20"]
    assert bench_run("defaults", "--configs", config, *tries, "--output", str(tmp_path)) == 0
    rows = {row["try"]: row for row in parsed(tmp_path / "defaults.csv")}
    assert list(rows) == ["as_written", "raw only", "short"]
    written, raw = rows["as_written"], rows["raw only"]
    assert set(written) == set(COLUMNS) and written["metric"] == "recall@5" and written["steps"] == "60"
    for figure in ("average", "raw", "popularity"):
        assert 0 < float(written[figure]) <= 1
    assert float(written["last_loss"]) < float(written["first_loss"])
    assert raw["average"] in ("", "-") and raw["raw"] == written["raw"], "averages leave training alone"
    assert rows["short"]["steps"] == "20"
    assert "raw only" in capsys.readouterr().out
    assert not (tmp_path / "run").exists(), "neither checkpoints nor reports"


def test_figures_are_means_over_seeds(config, tmp_path):
    def figure(*flags):
        assert bench_run("defaults", "--configs", config, *flags, "--output", str(tmp_path)) == 0
        [row] = parsed(tmp_path / "defaults.csv")
        return float(row["last_loss"])

    first, both = figure(), figure("--seeds", "2")
    assert both != first and abs(both - first) < 0.5


def test_a_try_that_changes_what_prepare_writes_is_refused(config, tmp_path):
    with pytest.raises(UserError, match="history_length"):
        flags = ["--try", "longer=dataset.history_length=9", "--output", str(tmp_path)]
        bench_run("defaults", "--configs", config, *flags)


def test_tries_are_read():
    assert parse_try("a=b.c=1 d=2") == ("a", ["b.c=1", "d=2"])
    for text in ("a", "=b=1", "a=b", "a=b=1 c"):
        with pytest.raises(UserError, match="write NAME=key=value"):
            parse_try(text)

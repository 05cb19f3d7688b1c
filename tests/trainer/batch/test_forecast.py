"""The forecast of a batch output, beside the output itself."""

import json

import pytest

from tests.trainer.batch.test_score import config_of, rows_of, score
from trainer.batch import forecast
from trainer.cli import parse, run

pytestmark = pytest.mark.any_python


def plan(*flags: str) -> int:
    return run(parse(["lazytower", "plan", "--config", config_of("towers"), *flags]))


def test_of_few_users_it_is_what_was_written(tmp_path, capsys):
    assert plan("--what", "score", "--k", "7", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert score(tmp_path / "out", "--k", "7") == 0
    [file] = (tmp_path / "out").glob("topk-*")
    assert found["bytes"] == file.stat().st_size and found["files"] == 1
    assert found["users"] == len(rows_of(tmp_path / "out")) == 24
    assert found["seconds"] >= found["start_seconds"] > 0 and found["memory"]["peak_bytes"] > 1e8


def test_users_are_extrapolated_from_two_outputs(monkeypatch, capsys):
    seconds, sizes = {4: 1.0, 32: 1.9, 256: 3.8}, []

    def written(keys, *_):
        sizes.append(len(keys))
        first = len(sizes) == 1
        return forecast._Output(len(keys), 9.0 if first else seconds[len(keys)], 100 + 10 * len(keys))

    for name, value in (("_written", written), ("_FEW", 4), ("_ENOUGH_SECONDS", 2.0)):
        monkeypatch.setattr(forecast, name, value)
    monkeypatch.setattr(forecast, "_first_keys", lambda *_: range(1004))
    monkeypatch.setattr(forecast, "_count", lambda dataset: (1004, 0.5))
    assert plan("--what", "score", "--format", "csv", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert sizes == [4, 4, 32, 256] and found["bytes"] == 140 + 1000 * 10
    assert found["seconds"] == pytest.approx(9 + 0.5 + 1000 * 2.8 / 252)
    assert found["users_per_second"] == pytest.approx(90)
    sizes.clear()
    assert plan("--what", "score", "--format", "csv") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "1,004, the best 10 of" in text and "9.0 s until the first users are written, then 90 users/s" in text
    )


def test_flags_of_the_other_plan_are_refused(capsys):
    for flags, message in [
        (("--k", "3"), "--k: is for --what score; remove it"),
        (("--what", "score", "--tpu", "v5p-8"), "--tpu: is for --what train; remove it"),
        (("--what", "score", "--probe_steps", "3"), "--probe_steps: is for --what train; remove it"),
        (("--what", "score", "--k", "5000"), "--k 5000: must be 1 to 1000, the export.max_k of the model"),
    ]:
        assert plan(*flags) == 2
        assert message in capsys.readouterr().err

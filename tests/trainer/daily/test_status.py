"""The table of days."""

import pytest

from tests.support.fake_day import FakeCommands, Killed, daily_config, day_file
from trainer.commands import day as command
from trainer.daily import job

pytestmark = pytest.mark.any_python


def shown(tmp_path, capsys, *flags: str) -> str:
    import argparse
    import json

    path = tmp_path / "shop.yaml"
    path.write_text(json.dumps(daily_config(tmp_path).model_dump(mode="json")))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(["--config", str(path), *flags])) == 0
    return capsys.readouterr().out


def test_a_table_of_days(tmp_path, capsys, monkeypatch):
    figures = {"2023-12-09": (0.2, 0.0), "2023-12-10": (0.1, 0.2)}
    monkeypatch.setattr(job, "Children", commands := FakeCommands(figures))
    assert shown(tmp_path, capsys, "--status") == "no day yet; make one with --new FILES\n"
    shown(tmp_path, capsys, "--new", day_file(tmp_path, 0))
    text = shown(tmp_path, capsys, "--new", day_file(tmp_path, 1))
    assert "2023-12-10" in text and "2023-12-09" not in text and "refused" in text
    commands.kill_at = 1
    with pytest.raises(Killed):
        job.run_day(daily_config(tmp_path), [day_file(tmp_path, 2)])
    lines = [line.split() for line in shown(tmp_path, capsys, "--status").splitlines()]
    assert lines[1] == "2023-12-09 100 - - ndcg@10 0.2000 - accepted 1".split()
    assert lines[2] == "2023-12-10 100 - - ndcg@10 0.1000 0.2000 refused -".split()
    assert lines[3] == "pending - - - - - - interrupted -".split()


def test_json(tmp_path, capsys, monkeypatch):
    import json

    monkeypatch.setattr(job, "Children", FakeCommands({}))
    made = json.loads(shown(tmp_path, capsys, "--json", "--new", day_file(tmp_path, 0)))
    assert (made["name"], made["accepted"], made["version"]) == ("2023-12-09", True, 1)
    assert made["rows"] == {"train": 80, "valid": 10, "test": 10} and made["value"] == 0.2
    assert json.loads(shown(tmp_path, capsys, "--json", "--status")) == [made]

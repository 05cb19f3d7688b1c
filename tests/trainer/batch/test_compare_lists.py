"""The compare-lists command."""

import json

import pytest

from tests.support.batch_outputs import write_lists
from trainer.cli import parse, run

pytestmark = pytest.mark.any_python

ONE = {f"u{i}": [f"i{i}", f"i{i + 1}"] for i in range(5)}


def test_table_and_json_say_the_same(tmp_path, capsys):
    other = ONE | {"u0": ["i0", "i9"], "new": ["i7", "i8"]}
    paths = [write_lists(tmp_path / "a", ONE, 2), write_lists(tmp_path / "b", other, 2, users="more")]
    assert run(parse(["lazytower", "compare-lists", *paths])) == 0
    text = capsys.readouterr().out
    assert "users: 5 in both, 0 in A alone, 1 in B alone; 0 of them without an item in both" in text
    assert "overlap@1                    1.0000" in text and "overlap@2                    0.9000" in text
    assert "the same list                0.8000" in text
    assert "coverage of B: 7 of 50 items, 1 alone" in text
    assert run(parse(["lazytower", "compare-lists", *paths, "--json", "--persistence", "0.5"])) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["overlap"] == {"1": 1.0, "2": pytest.approx(0.9)} and document["persistence"] == 0.5


def test_mistakes_are_one_line(tmp_path, capsys):
    assert run(parse(["lazytower", "compare-lists", str(tmp_path), str(tmp_path)])) == 2
    assert "holds no manifest.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse(["lazytower", "compare-lists", "a", "b", "--persistence", "1"])
    assert "'1' must be between 0 and 1, such as 0.9" in capsys.readouterr().err


def test_lists_without_items_leave_nothing_to_compare(tmp_path, capsys):
    path = write_lists(tmp_path / "a", {"u": []}, 3)
    assert run(parse(["lazytower", "compare-lists", path, path])) == 0
    assert "no user has items in A or B" in capsys.readouterr().out

"""The recommend command: what it prints, and what it says when it cannot."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support.tiny_run import tiny_export, tiny_run
from trainer.cli import parse, run

pytestmark = pytest.mark.any_python


def _recommend(capsys, *flags):
    """(exit code, standard output, standard error)."""
    code = run(parse(["lazytower", "recommend", *flags]))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def model():
    return tiny_export("plain")


def test_table_shows_rank_item_and_score_of_named_users(model, capsys):
    code, out, _ = _recommend(capsys, "--model", model, "--users", "ü3,ü5", "--k", "4")
    assert code == 0
    blocks = out.strip().split("\n\n")
    assert "step 20, average weights; seen items left out" in blocks[0]
    assert [block.splitlines()[0] for block in blocks[1:]] == ["user ü3", "user ü5"]
    assert [line.split()[0] for line in blocks[1].splitlines()[1:]] == ["rank", "1", "2", "3", "4"]


def test_unknown_users_are_said_to_be_unknown(model, capsys):
    _, out, _ = _recommend(capsys, "--model", model, "--users", "somebody")
    assert "user somebody (not seen in training: answered from the row that all unknown users share)" in out


def test_jsonl_gives_one_line_per_user_and_honours_the_flags(model, capsys):
    flags = ("--model", model, "--users", "ü1,x", "--k", "40", "--format", "jsonl")
    every = [json.loads(line) for line in _recommend(capsys, *flags, "--include_seen")[1].splitlines()]
    assert [(line["user"], line["known"]) for line in every] == [("ü1", True), ("x", False)]
    best = [entry["item"] for entry in every[0]["items"]]
    unseen = [json.loads(line) for line in _recommend(capsys, *flags)[1].splitlines()]
    seen = {row.item.decode() for row in tiny_run("plain").rows if row.user == "ü1".encode()}
    assert [entry["item"] for entry in unseen[0]["items"]] == [item for item in best if item not in seen]
    without = _recommend(capsys, *flags, "--include_seen", "--exclude", f"{best[0]},{best[2]}")[1]
    left = [entry["item"] for entry in json.loads(without.splitlines()[0])["items"]]
    assert left == [best[1], *best[3:]]


def test_example_users_and_the_newest_version_are_the_defaults(capsys, model):
    code, out, _ = _recommend(capsys, "--model", os.path.dirname(model), "--num_users", "2")
    assert code == 0 and out.count("\nuser ") == 2 and "not seen" not in out
    assert out.startswith(model)


def test_users_come_from_a_file(model, capsys, tmp_path):
    path = tmp_path / "users.txt"
    for written in ("ü1\nü2\n", "\ufeffü1\r\n\r\nü2"):
        path.write_bytes(written.encode())
        _, out, _ = _recommend(capsys, "--model", model, "--users_file", str(path), "--format", "jsonl")
        assert [json.loads(line)["user"] for line in out.splitlines()] == ["ü1", "ü2"]


@pytest.mark.slow
def test_flags_say_what_a_user_without_a_key_did_and_is(capsys):
    flags = ("--model", tiny_export("towers"), "--k", "40", "--include_seen", "--format", "jsonl")
    more = ("--history", "item 1,item 2", "--set_feature", "country=c1", "--set_feature", "age=0.5")
    (new,) = map(json.loads, _recommend(capsys, *flags, *more)[1].splitlines())
    assert new["user"] == "" and not new["known"] and new["items"]
    (plain,) = map(json.loads, _recommend(capsys, *flags, "--users", "nobody")[1].splitlines())
    assert plain["items"] != new["items"]
    (some,) = map(json.loads, _recommend(capsys, *flags, *more, "--where", "genre=g1,g3")[1].splitlines())
    genres = tiny_run("towers").features["genre"].values
    wanted = [e for e in new["items"] if genres[e["item"].encode()] in (b"g1", b"g3")]
    assert [e["item"] for e in some["items"]] == [e["item"] for e in wanted] != []
    scores = [e["score"] for e in wanted]
    np.testing.assert_allclose([e["score"] for e in some["items"]], scores, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_file_of_requests_is_answered_line_by_line(capsys, tmp_path):
    path, flags = tmp_path / "requests.jsonl", ("--model", tiny_export("towers"), "--format", "jsonl")
    path.write_text(
        '{"user": "ü3", "include": ["item 1", "item 2"], "exclude": "item 2"}\n\n'
        '{"history": ["item 1", "item 2"], "features": {"country": "c1", "age": 0.5}, '
        '"where": {"genre": "g1"}}\n'
    )
    known, new = map(json.loads, _recommend(capsys, *flags, "--requests", str(path))[1].splitlines())
    assert known["user"] == "ü3" and [entry["item"] for entry in known["items"]] in (["item 1"], [])
    more = ("--history", "item 1,item 2", "--set_feature", "country=c1", "--set_feature", "age=0.5")
    (expected,) = map(json.loads, _recommend(capsys, *flags, *more, "--where", "genre=g1")[1].splitlines())
    items, scores = (
        [[entry[name] for entry in answer["items"]] for answer in (new, expected)]
        for name in ("item", "score")
    )
    assert items[0] == items[1] and "item 1" not in items[0]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)  # a request is scored alone, or beside others
    assert new | {"items": []} == expected | {"items": []}


def test_mistakes_are_one_line(model, capsys, tmp_path):
    (tmp_path / "incomplete-3").mkdir()
    (tmp_path / "2").mkdir()
    for flags, message in [
        (("--model", "/no/such"), "/no/such: no such directory"),
        (("--model", str(tmp_path)), "holds no exported version"),
        (("--model", model, "--k", "0"), "--k 0: must be 1 to 1000"),
        (("--model", model, "--k", "1001"), "--k 1001: must be 1 to 1000"),
        (("--model", model, "--users", ","), "no users; name some"),
        (("--model", model, "--users_file", "/no/file"), "--users_file /no/file: cannot be read"),
        (
            ("--model", model, "--num_users", "21"),
            "--num_users 21: must be 1 to 20, the model's example users",
        ),
        (("--model", model, "--num_users", "0"), "--num_users 0: must be 1 to 20, the model's example users"),
        (("--model", model, "--set", "export.path=x"), "--set export.path=x: changes a config; replace"),
        (("--model", model, "--history", "a"), "the flags: history: the model does not read the history"),
        (("--model", model, "--set_feature", "age=3"), "features.age: 'age' is not a user feature"),
        (("--model", model, "--set_feature", "age"), "--set_feature age: expected NAME=VALUE"),
        (("--model", model, "--where", "genre=g1"), "where.genre: 'genre' is not an item feature"),
        (("--model", model, "--requests", "/no/file"), "--requests /no/file: cannot be read"),
        (("--model", model, "--requests", "/dev/null"), "--requests /dev/null: holds no request"),
        (("--model", model, "--requests", "/dev/null", "--include", "a"), "leave out the other flags"),
    ]:
        code, out, err = _recommend(capsys, *flags)
        assert code == 2 and out == ""
        assert err.startswith("lazytower recommend: error: ") and message in err and err.count("\n") == 1


@pytest.mark.slow
def test_config_finds_the_run_and_no_trainer_code_but_the_command_is_loaded(model, tmp_path):
    config = os.path.join(tiny_run("plain").config.output.path, "config.yaml")
    program = (
        "import sys; from trainer.cli import parse, run; "
        f"code = run(parse(['lazytower', 'recommend', '--config', {config!r}, '--users', 'ü1'])); "
        "print(sorted(n for n in sys.modules if n.startswith('trainer.') and 'trainer' in n)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "user ü1" in done.stdout
    loaded = set(eval(done.stdout.splitlines()[-1]))
    assert loaded <= {
        f"trainer.{n}"
        for n in (
            "cli",
            "commands",
            "commands.recommend",
            "run_lock",
            "runtime",
            "version",
            "serving",
            "serving.client",
            "serving.requests",
            "serving.versions",
        )
    }

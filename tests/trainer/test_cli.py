"""The command line: quick answers without TensorFlow, one line per error, no flag without a decision."""

import argparse
import os
import subprocess
import sys

import pytest
from gcsfs.retry import HttpError

from configs.errors import Stopped, UserError
from trainer import cli
from trainer import commands as trainer_commands

SHARED = {"--help", "--helpfull", "--config", "--set"}
# A new flag needs a reason why it is no key of the config; then it is added here.
FLAGS = {
    "prepare": SHARED | {"--compact", "--guess", "--overwrite", "--runner"},
    "inspect": {"--help", "--helpfull", "--feature", "--rows"},
    "plan": SHARED | {"--probe_steps", "--tpu", "--json", "--what", "--k", "--format"},
    "train": SHARED | {"--explain", "--max_seconds"},
    "evaluate": SHARED | {"--split", "--step", "--start", "--json"},
    "day": SHARED | {"--new", "--name", "--status", "--json"},
    "sweep": SHARED | {"--sweep", "--jobs", "--submit", "--explain"},
    "compare": {"--help", "--helpfull", "--set", "--split", "--step", "--html", "--json"},
    "export": SHARED | {"--step"},
    "score": SHARED
    | {
        "--model",
        "--what",
        "--to",
        "--staging",
        "--format",
        "--users",
        "--shard_rows",
        "--overwrite",
        "--runner",
    }
    | {"--k", "--include_seen", "--exclude", "--include", "--where"},
    "compare-lists": {"--help", "--helpfull", "--persistence", "--json"},
    "checkpoints": {"--help", "--helpfull", "--compact"},
    "doctor": SHARED | {"--gcs", "--json"},
    "submit": SHARED | {"--dry_run"},
    "worker": SHARED | {"--task"},
    "jobs": {"--help", "--helpfull"},  # each action has its own: see test_jobs.py
    "bench": {"--help", "--helpfull"},  # each measurement has its own
    "predict": SHARED | {"--model", "--user", "--item", "--history", "--set_feature", "--requests", "--json"},
    "recommend": SHARED
    | {"--model", "--users", "--users_file", "--num_users", "--k", "--include_seen", "--exclude", "--format"}
    | {"--history", "--set_feature", "--include", "--where", "--requests"},
}


def run(*args: str, before: tuple = ()) -> subprocess.CompletedProcess:
    """`lazytower` in a fresh process; `before` are options of Python itself."""
    command = [sys.executable, *before, "-m", "trainer.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def flags(parser: argparse.ArgumentParser) -> set[str]:
    """Long flags that --help shows: absl adds its own to every parser, hidden."""
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return {option for action in actions for option in action.option_strings if option.startswith("--")}


def parser_of(command: str) -> argparse.ArgumentParser:
    [commands] = [a for a in cli._parser(command)._actions if isinstance(a, argparse._SubParsersAction)]
    return commands.choices[command]


@pytest.mark.parametrize("command", [(), *((name,) for name in trainer_commands.COMMANDS)], ids=str)
def test_help_answers_at_once_without_heavy_imports(command):
    done = run(*command, "--help", before=("-X", "importtime"))
    assert done.returncode == 0 and done.stdout.startswith("usage: lazytower")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    heavy = {"tensorflow", "tf_keras", "apache_beam", "pyarrow"}
    assert not {name.partition(".")[0] for name in imported} & heavy
    # In place of a time, which depends on the machine: a third of a second's worth.
    assert len(imported) < 800


def test_help_names_every_command():
    text = run("--help").stdout
    for name, (_, line) in trainer_commands.COMMANDS.items():
        assert name in text and line.split(" (")[0][:30] in " ".join(text.split())


@pytest.mark.parametrize("command", trainer_commands.COMMANDS)
def test_the_flags_are_frozen(command):
    assert flags(parser_of(command)) == FLAGS[command]


@pytest.mark.parametrize("command", trainer_commands.COMMANDS)
def test_descriptions_keep_capitals(command):
    _, line = trainer_commands.COMMANDS[command]
    assert parser_of(command).description[1:] == line[1:] + "."


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "lazytower: error: argument COMMAND: invalid choice: 'trian'"),
        ([], "lazytower: error: the following arguments are required: COMMAND"),
        (["train"], "lazytower train: error: the following arguments are required: --config"),
        (
            ["train", "--config", "x", "--steps=3"],
            "lazytower train: error: unrecognized arguments: --steps=3",
        ),
        (["train", "--conf", "x"], "lazytower train: error: the following arguments are required: --config"),
        (["evaluate", "--config", "x", "--split", "train"], "lazytower evaluate: error: argument --split"),
        (
            ["train", "--config", "x", "--max_seconds", "1h"],
            "lazytower train: error: argument --max_seconds: '1h' is not a number of seconds",
        ),
        (
            ["plan", "--config", "x", "--probe_steps", "few"],
            "lazytower plan: error: argument --probe_steps: 'few' is not a whole number",
        ),
        (
            ["jobs", "list", "--set", "output.path=x"],
            "lazytower jobs: error: --set output.path=x: changes a config; name the config with --config",
        ),
        (["train", "--config", "none.yaml"], "lazytower train: error: none.yaml: no such config file"),
        (["evaluate", "--config", "/"], "lazytower evaluate: error: /: is a directory, not a config file"),
    ],
)
def test_errors_are_one_line_and_code_2(args, message):
    done = run(*args)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered):
    """`lazytower jobs list | head -0`: the end of the pipe is closed before anything is printed."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "trainer.cli", "jobs", "list"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_explain_needs_no_config():
    done = run("train", "--explain")
    assert done.returncode == 0 and done.stderr == ""
    assert "train.num_steps  [None]" in done.stdout


def test_prepare_keeps_unknown_flags_for_beam():
    args = cli.parse(
        ["lazytower", "prepare", "--config", "x", "--direct_num_workers=2", "--set", "a=b", "--over"]
    )
    assert args.beam_args == ["--direct_num_workers=2", "--over"] and not args.overwrite
    assert args.overrides == ["a=b"]


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (UserError("fix it"), 2, "lazytower train: error: fix it\n"),
        (
            HttpError({"code": 401, "message": "Anonymous caller\n has no access"}),
            2,
            "lazytower train: error: object store: HttpError: Anonymous caller has no access, 401\n",
        ),
        (KeyboardInterrupt(), 130, "lazytower train: interrupted\n"),
        (Stopped("stopped by SIGTERM"), 75, "lazytower train: stopped by SIGTERM\n"),
        (None, 0, ""),
    ],
)
def test_errors_of_a_command(monkeypatch, capsys, raised, code, line):
    def command(args):
        if raised:
            raise raised

    monkeypatch.setattr("trainer.commands.train.run", command)
    assert cli.run(argparse.Namespace(command="train")) == code
    assert capsys.readouterr().err == line


def test_bugs_keep_their_traceback(monkeypatch):
    def command(args):
        raise KeyError("a bug")

    monkeypatch.setattr("trainer.commands.train.run", command)
    with pytest.raises(KeyError):
        cli.run(argparse.Namespace(command="train"))

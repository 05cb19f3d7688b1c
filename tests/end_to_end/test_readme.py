"""Every command of README.md is run, on small planted data, in the order of the page.

What needs a cloud, Docker or an hour is checked as far as possible. A command that is in no list below
fails: say here how it is tested.
"""

import gzip
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from configs.planted.interactions import Planted, item_key, user_key
from configs.sections.source_kinds.synthetic import SyntheticSourceConfig
from tests.test_documentation import blocks, commands
from trainer import cli

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
# Run for real; what the output must hold.
RUN = {
    "lazytower prepare --config shop.yaml": "train",
    "lazytower plan --config shop.yaml": "memory",
    "lazytower train --config shop.yaml": "",
    "lazytower evaluate --config shop.yaml": "popularity",
    "lazytower export --config shop.yaml": "runs/shop/export/",
    "lazytower recommend --config shop.yaml --users alice,bob --k 10": "alice",
    "lazytower score --config shop.yaml --what topk --k 100 --to outputs/topk": "200 users",
    "lazytower prepare --guess events": "roles:",
    "lazytower inspect datasets/shop": "keys in train",
    "lazytower doctor --config shop.yaml": "",
    "lazytower train --config shop.yaml --explain": "train.batch_size",
    "lazytower plan --config shop.yaml --set train.batch_size=1024": "memory",
    "lazytower checkpoints runs/shop": "step",
    "lazytower day --config shop.yaml --new 2026-11-25/*.csv.gz": "accepted",
    "lazytower plan --config shop.yaml --tpu v6e-4": "v6e-4",
}
# Run with --config of a job in a bucket.
RUN_AS_JOB = {"lazytower submit --config shop.yaml --dry_run": "v6e-4"}
# Parsed only, or looked at below.
NOT_RUN = {
    "lazytower submit --config shop.yaml",
    "lazytower jobs watch shop-20261121-092344-c097",
    "scripts/quickstart.sh",
    "scripts/test.sh",
    "scripts/pythons.sh",
    "docker build -f docker/trainer-cpu.Dockerfile -t lazytower:cpu .",
    "docker run -v $PWD:/work lazytower:cpu train --config shop.yaml",
}
QUICKSTART = {
    "source": {"rows": 20_000, "users": 300, "items": 100},
    "train": {"batch_size": 512, "num_epochs": 1},
    "evaluate": {"max_users": 100},
}


def readme_commands() -> list[list[str]]:
    return [words for block in blocks(README, "bash") for words in commands(block)]


def line(words: list[str]) -> str:
    return " ".join(words)


def quickstart_commands() -> list[list[str]]:
    """Of scripts/quickstart.sh, on less data."""
    text = (ROOT / "scripts" / "quickstart.sh").read_text()
    overrides = [
        word
        for section, keys in QUICKSTART.items()
        for key, value in keys.items()
        for word in ("--set", f"{section}.{key}={value}")
    ]
    found = []
    for command in re.findall(r"^lazytower .*$", text, re.MULTILINE):
        assert '"$config" "$@"' in command
        config = shlex.quote(str(ROOT / "configs" / "quickstart.yaml"))
        found.append(shlex.split(command.replace('"$config" "$@"', f"{config} {shlex.join(overrides)}")))
    return found


def lazytower(directory, words: list[str]) -> str:
    """Output and log of a command; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *words[1:]],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{line(words)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def code_of(words: list[str]) -> int:
    """Exit code of a command in this process; some end while their flags are read, as --help does."""
    try:
        return cli.run(cli.parse(words))
    except SystemExit as ended:
        return ended.code


def write_events(directory: pathlib.Path) -> None:
    """Two files as the README's source names them, and one of a new day; two users are alice and bob."""
    planted = Planted(SyntheticSourceConfig(kind="synthetic", rows=12_000, users=200, items=80, clusters=4))
    users, items, times = planted.rows(0, 12_000)
    names = {bytes(user_key(users[:1])[0]).decode(): "alice", bytes(user_key(users[1:2])[0]).decode(): "bob"}
    keys = [
        (bytes(u).decode(), bytes(i).decode()) for u, i in zip(user_key(users), item_key(items), strict=True)
    ]
    rows = [f"{names.get(user, user)},{item},{time}" for (user, item), time in zip(keys, times, strict=True)]
    for folder in ("events", "2026-11-25"):
        (directory / folder).mkdir()
    for part in range(2):
        text = "\n".join(["user_id,product,time", *rows[part * 6000 : (part + 1) * 6000], ""])
        for folder in ("events", "2026-11-25")[: part + 1]:
            with gzip.open(directory / folder / f"{part}.csv.gz", "wt") as file:
                file.write(text)


def test_every_command_is_known():
    found = {line(words) for words in readme_commands()}
    assert found <= {*RUN, *RUN_AS_JOB, *NOT_RUN}
    assert {*RUN, *RUN_AS_JOB} <= found


@pytest.mark.slow
def test_commands_on_own_data(tmp_path, monkeypatch, capsys, caplog):
    """In this process; the quickstart's are processes."""
    write_events(tmp_path)
    (tmp_path / "shop.yaml").write_text(blocks(README, "yaml")[0])
    monkeypatch.chdir(tmp_path)
    for words in readme_commands():
        if line(words) in RUN:
            caplog.clear()
            assert code_of(words) == 0, line(words)
            assert RUN[line(words)] in "".join(capsys.readouterr()) + caplog.text, line(words)
    assert (tmp_path / "runs" / "shop" / "report.html").exists()
    assert (tmp_path / "datasets" / "shop" / "dataset.json").exists()


@pytest.mark.slow
def test_the_quickstart(tmp_path):
    steps = quickstart_commands()
    assert [words[1] for words in steps] == ["prepare", "train", "evaluate", "export", "recommend"]
    outputs = {words[1]: lazytower(tmp_path, words) for words in steps}
    assert "best_reachable" in outputs["evaluate"] and "model, average" in outputs["evaluate"]
    assert (tmp_path / "runs" / "quickstart" / "report.html").exists()


def test_a_job_that_is_not_started(tmp_path, monkeypatch, capsys):
    first, second = (yaml.safe_load(block) for block in blocks(README, "yaml"))
    first["source"]["paths"] = ["gs://bucket/events/*.csv.gz"]
    first["dataset"]["path"], first["output"]["path"] = "gs://bucket/shop", "gs://bucket/run"
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(first | second))
    monkeypatch.chdir(tmp_path)
    for command, text in RUN_AS_JOB.items():
        assert cli.run(cli.parse(command.split())) == 0
        assert text in capsys.readouterr().out


def test_what_is_not_run_is_there():
    for command in NOT_RUN & {line(words) for words in readme_commands()}:
        words = command.split()
        if words[0] == "lazytower":
            cli.parse(words)
        elif words[0] == "docker":
            assert (ROOT / "docker" / "trainer-cpu.Dockerfile").exists()
            if words[1] == "run":
                cli.parse(["lazytower", *words[words.index("lazytower:cpu") + 1 :]])
        else:
            assert os.access(ROOT / words[0], os.X_OK), words[0]

"""`lazytower score` killed with SIGKILL at random moments, and the lists of many users beside `recommend`."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import parse_config
from tests.support.tiny_run import planted_document, write_planted
from trainer.cli import parse, run

pytestmark = [pytest.mark.torture, pytest.mark.any_python]

KILLS = int(os.environ.get("SCORE_KILLS", 20))
USERS = int(os.environ.get("SCORE_USERS", 1000))
K, SHARD_ROWS = 20, 40


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> pathlib.Path:
    """A run on a thousand users and more, exported, and the output that nothing has interrupted."""
    from trainer.serving.export import export
    from trainer.training.run import train

    found = tmp_path_factory.mktemp("score")
    source = {"users": 3 * USERS // 2, "items": 300, "rows": 30 * USERS}
    write_planted(str(found), **source)
    document = planted_document(str(found), **source)
    document["train"] |= {"num_steps": 200, "batch_size": 256}
    document["checkpoint"] = {"every_steps": 200}
    document["evaluate"] = {"every_steps": 200, "k": [5], "max_users": 20}
    config = parse_config(document, "score")
    train(config)
    export(config)
    (found / "run.yaml").write_text(yaml.safe_dump(document))
    assert run(parse(command(found, found / "whole"))) == 0
    return found


def command(directory: pathlib.Path, to: pathlib.Path) -> list[str]:
    flags = ["--what", "topk", "--k", str(K), "--shard_rows", str(SHARD_ROWS), "--to", str(to)]
    return ["lazytower", "score", "--config", str(directory / "run.yaml"), *flags]


def content(path: pathlib.Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in path.iterdir() if f.is_file() and f.name != ".lock"}


def test_killed_at_random_moments_it_ends_with_the_same_bytes(directory):
    draw, kills, rounds = random.Random(0), 0, 0
    while kills < KILLS:
        to = directory / f"killed{rounds}"
        rounds += 1
        while True:
            done = len(list(to.glob("topk-*"))) if to.exists() else 0
            process = subprocess.Popen(
                [sys.executable, "-m", "trainer.cli", *command(directory, to)[1:]],
                stderr=subprocess.PIPE,
                text=True,
            )
            wanted = done + draw.randrange(12)
            while process.poll() is None and (not to.exists() or len(list(to.glob("topk-*"))) < wanted):
                time.sleep(0.005)
            time.sleep(draw.random() / 10)
            if process.poll() is not None:  # it has come to its end
                assert process.returncode == 0, process.stderr.read()
                break
            if kills == KILLS:
                assert process.communicate(timeout=900) and process.returncode == 0
                break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
        assert content(to) == content(directory / "whole")


def test_sampled_users_have_the_items_and_scores_of_recommend(directory, capsys):
    rows = pa.concat_tables([pq.read_table(f) for f in sorted((directory / "whole").glob("topk-*"))])
    rows = random.Random(1).sample(rows.to_pylist(), USERS)
    (directory / "users.txt").write_text("\n".join(row["user"] for row in rows))
    capsys.readouterr()
    flags = ["--users_file", str(directory / "users.txt"), "--k", str(K), "--format", "jsonl"]
    assert run(parse(["lazytower", "recommend", "--config", str(directory / "run.yaml"), *flags])) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == USERS
    for row, answer in zip(rows, answers, strict=True):
        assert row["user"] == answer["user"] and row["known"] == answer["known"]
        scores = [entry["score"] for entry in answer["items"]]
        assert [entry["score"] for entry in row["items"]] == pytest.approx(scores, rel=1e-5, abs=1e-5)
        mine, its = ([entry["item"] for entry in found["items"]] for found in (row, answer))
        if mine != its:  # only items whose scores differ by less than a sum's rounding may change places
            places = [i for i, pair in enumerate(zip(mine, its, strict=True)) if pair[0] != pair[1]]
            near = {
                i
                for i in range(K)
                for j in (i - 1, i + 1)
                if 0 <= j < K and abs(scores[i] - scores[j]) < 1e-5
            }
            assert set(places) <= near | {K - 1}

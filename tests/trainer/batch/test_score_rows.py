"""Predictions of a ranking model for rows of a file or table, and what is said of rows that cannot be."""

import json
import os

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.bigquery_server import BigQuery
from tests.support.ranking_runs import as_request, held_out_records, ranking_export, ranking_run
from tests.trainer.batch.test_score import Fuse, Killed
from trainer.cli import parse, run

pytestmark = pytest.mark.any_python


def write_csv(path, requests: list[dict]) -> None:
    """The rows as a source has them: without labels, lists with separators, an empty number, a bad one."""
    names = ["user", "item", "c0", "c1", "c2", "tags", "n0", "n1"]
    lines = [",".join(names)]
    for request in requests:
        values = [request[name] if request[name] is not None else "" for name in names]
        lines.append(",".join("|".join(v) if isinstance(v, list) else str(v) for v in values))
    lines.insert(3, lines[1].rpartition(",")[0] + ",much")
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("format_name", ["parquet", "csv"])
def test_rows_of_a_file_get_what_predict_gives_them(tmp_path, capsys, format_name):
    model = ranking_export("owners")
    config = os.path.join(ranking_run("owners").output.path, "config.yaml")
    requests = [as_request(record) for record in held_out_records(owners=True)[:30]]
    for request in requests:
        del request["history"]  # the known one counts
    requests[4]["n0"], requests[5]["user"] = None, "nobody"
    write_csv(tmp_path / "new.csv", requests)
    command = ["lazytower", "score", "--config", config, "--what", "rows", "--to", str(tmp_path / "out")]
    command += ["--format", format_name, "--set", f"source.paths=[{tmp_path / 'new.csv'}]"]
    assert run(parse(command)) == 0
    (file,) = (tmp_path / "out").glob("rows-*")
    table = pq.read_table(file) if format_name == "parquet" else pc.read_csv(file)
    rows = table.to_pylist()
    assert [row["row"] for row in rows] == [0, 1, *range(3, 31)]  # the bad one is left out
    assert [row["user"] for row in rows] == [request["user"] for request in requests]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["shards"][0]["left_out"] == {"bad_n1": 1} and manifest["counts"] == {"rows": 30}
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, requests)))
    capsys.readouterr()
    flags = ["--model", model, "--requests", str(tmp_path / "lines.jsonl"), "--json"]
    assert run(parse(["lazytower", "predict", *flags])) == 0
    for row, line in zip(rows, capsys.readouterr().out.splitlines(), strict=True):
        assert {task: row[task] for task in ("click", "buy")} == pytest.approx(json.loads(line), abs=1e-6)
    if format_name == "parquet":
        assert run(parse(command)) == 0  # recognized


@pytest.fixture
def service(monkeypatch):
    found = BigQuery()
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    yield found
    found.close()


def test_rows_of_a_table_are_those_of_a_file(tmp_path, capsys, monkeypatch, service):
    ranking_export("owners")
    document = yaml.safe_load(open(os.path.join(ranking_run("owners").output.path, "config.yaml")))
    requests = [as_request(record) for record in held_out_records(owners=True)[:20]]
    write_csv(tmp_path / "new.csv", requests)
    strings, numbers = ["user", "item", "c0", "c1", "c2"], ["n0", "n1"]
    columns: dict = {name: [r[name] for r in requests] for name in (*strings, "tags")}
    columns |= {name: pa.array([r[name] for r in requests], pa.float64()) for name in numbers}
    stored = service.store("my-shop.events.views", pa.table(columns))
    kept = {name: document["source"][name] for name in ("roles", "features")}
    kept["features"] = [
        {n: v for n, v in feature.items() if n != "separator"} for feature in kept["features"]
    ]
    table = {"kind": "bigquery", "table": "my-shop.events.views", **kept}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(document | {"source": table}))
    (tmp_path / "file.yaml").write_text(yaml.safe_dump(document))

    def score(name, *flags) -> int:
        command = ["lazytower", "score", "--config", str(tmp_path / f"{name}.yaml"), "--what", "rows"]
        return run(parse([*command, "--to", str(tmp_path / name), *flags]))

    assert score("file", "--set", f"source.paths=[{tmp_path / 'new.csv'}]") == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("trainer.batch.job._run", Fuse(1).wrapped(None))
        score("table")
    service.expired = True
    assert score("table") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "read session has expired" in message and "opens a new session with --overwrite" in message
    service.expired = False
    assert score("table") == 0  # of the session of the first run
    assert len(service.sessions) == 1
    found, expected = (
        pa.concat_tables([pq.read_table(f) for f in sorted((tmp_path / name).glob("rows-*"))])
        for name in ("table", "file")
    )
    assert found["row"].to_pylist() == list(range(20)) and found.column_names == expected.column_names
    for name in ("user", "item"):
        assert found[name].to_pylist() == expected[name].to_pylist()
    for name in ("click", "buy"):
        assert found[name].to_pylist() == pytest.approx(expected[name].to_pylist(), abs=1e-6)
    manifest = json.loads((tmp_path / "table" / "manifest.json").read_text())
    [said] = manifest["request"]["rows"]["files"]
    assert said["file"] == "bigquery:my-shop.events.views" and "changed" in said["content"]
    assert score("table") == 0  # recognized
    service.store("my-shop.events.views", stored.rows.slice(1))
    assert score("table") == 2
    assert "holds a finished output of something else (rows." in capsys.readouterr().err


def test_mistakes_are_one_line(tmp_path, capsys):
    model = ranking_export("owners")
    config = os.path.join(ranking_run("owners").output.path, "config.yaml")
    to = ["--to", str(tmp_path / "out")]
    for flags, message in [
        (["--what", "rows", "--model", model], "--what rows: name the source with --config RUN.yaml"),
        (["--what", "topk", "--model", model], "is a ranking model; use --what rows"),
        (["--what", "rows", "--config", config], "none.csv: no such file"),
        (["--what", "rows", "--config", config, "--k", "3"], "--k: is for lists of items"),
        (["--what", "rows", "--config", config, "--shard_rows", "3"], "--shard_rows: the rows of a source"),
    ]:
        assert run(parse(["lazytower", "score", *to, *flags])) == 2
        assert message in capsys.readouterr().err

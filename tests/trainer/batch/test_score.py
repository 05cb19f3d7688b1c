"""The score command on small exported models: the answers of `recommend`, restarts, other outputs there."""

import json
import os
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import ExportError
from tests.support.tiny_run import tiny_export, tiny_run
from trainer.batch import pipeline, search, shard
from trainer.batch.tables import base
from trainer.cli import parse, run

pytestmark = pytest.mark.any_python


def config_of(kind: str) -> str:
    tiny_export(kind)
    return os.path.join(tiny_run(kind).config.output.path, "config.yaml")


def score(to, *flags: str, kind: str = "towers", what: str = "topk") -> int:
    command = ["lazytower", "score", "--config", config_of(kind), "--what", what, "--to", str(to), *flags]
    return run(parse(command))


def files_of(path: pathlib.Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in path.iterdir() if f.is_file() and f.name != ".lock"}


def rows_of(path: pathlib.Path) -> list[dict]:
    return pa.concat_tables([pq.read_table(f) for f in sorted(path.glob("*.parquet"))]).to_pylist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An output of 5 shards that nothing has interrupted."""
    path = tmp_path_factory.mktemp("score") / "whole"
    assert score(path, "--k", "7", "--shard_rows", "5") == 0
    return path


def recommended(capsys, *flags: str) -> list[dict]:
    capsys.readouterr()
    flags = ("--model", tiny_export("towers"), *flags, "--format", "jsonl")
    assert run(parse(["lazytower", "recommend", *flags])) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def assert_same(rows: list[dict], expected: list[dict]) -> None:
    assert [row["user"] for row in rows] == [answer["user"] for answer in expected]
    for row, answer in zip(rows, expected, strict=True):
        assert row["known"] == answer["known"]
        assert [e["item"] for e in row["items"]] == [e["item"] for e in answer["items"]]
        scores = [e["score"] for e in answer["items"]]
        assert [e["score"] for e in row["items"]] == pytest.approx(scores, abs=1e-6)


def test_all_users_get_what_recommend_gives_them(whole, capsys):
    rows = rows_of(whole)
    assert {row["user"] for row in rows} == {row.user.decode() for row in tiny_run("towers").rows}
    assert_same(rows, recommended(capsys, "--k", "7", "--users", ",".join(row["user"] for row in rows)))
    manifest = json.loads((whole / "manifest.json").read_text())
    assert [s["rows"] for s in manifest["shards"]] == [5, 5, 5, 5, 4] and manifest["counts"] == {"users": 24}
    assert manifest["request"]["options"]["k"] == 7 and manifest["request"]["model"]["version"] == 1
    assert not (whole / ".unfinished").exists()


@pytest.mark.parametrize("flags", [(), ("--where", "genre=g1,g3", "--exclude", "item 1", "--include_seen")])
def test_without_kernels_the_lists_are_the_same(tmp_path, monkeypatch, flags):
    assert score(tmp_path / "compiled", "--k", "9", *flags) == 0
    open_table_cache = base._opened
    open_table_cache.cache_clear()
    monkeypatch.setattr(search, "kernels", lambda: None)
    assert score(tmp_path / "graph", "--k", "9", *flags) == 0
    open_table_cache.cache_clear()
    for one, other in zip(rows_of(tmp_path / "compiled"), rows_of(tmp_path / "graph"), strict=True):
        assert [e["item"] for e in one["items"]] == [e["item"] for e in other["items"]]
        scores = [e["score"] for e in other["items"]]
        assert [e["score"] for e in one["items"]] == pytest.approx(scores, abs=1e-6)


def test_restrictions_and_users_of_a_file_are_those_of_recommend(tmp_path, capsys):
    users = tmp_path / "users.txt"
    users.write_bytes("\ufeffü3\r\nnobody\r\n\r\nü1".encode())
    more = ("--where", "genre=g1,g3", "--exclude", "item 1", "--include_seen", "--k", "40")
    assert score(tmp_path / "out", *more, "--users", str(users), "--format", "jsonl") == 0
    (file,) = (tmp_path / "out").glob("*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert_same(rows, recommended(capsys, *more, "--users_file", str(users)))
    assert [row["known"] for row in rows] == [True, False, True] and rows[0]["items"]


class Killed(BaseException):
    """Not an Exception: nothing on the way may handle it, as nothing handles SIGKILL."""


class Fuse:
    """Ends the process, as it were, at the n-th call of a function for a path in `directory`; "": for any."""

    def __init__(self, calls: int, directory: pathlib.Path | str = ""):
        self.left, self._directory = calls, str(directory)

    def wrapped(self, function):
        def call(*args, **kwargs):
            # Threads that other tests have left behind may call them, too.
            self.left -= any(self._directory in str(argument) for argument in args)
            if self.left == 0:
                raise Killed
            return function(*args, **kwargs)

        return call


# Every change that a shard makes on disk, and the plan and the manifest: about 40 in all.
@pytest.mark.parametrize("moment", [1, 2, 3, 4, 7, 12, 14, 15, 16, 20])
def test_an_output_that_was_killed_at_any_moment_continues_to_the_same_bytes(
    whole, tmp_path, monkeypatch, moment
):
    path, written = tmp_path / "out", []
    with monkeypatch.context() as patch:
        fuse = Fuse(moment, path)
        for name in ("write_bytes", "sync_directory", "make_directory"):
            patch.setattr(f"configs.system.storage.{name}", fuse.wrapped(getattr(shard.storage, name)))
        patch.setattr("os.replace", fuse.wrapped(os.replace))
        with pytest.raises(BaseException) as stopped:
            score(path, "--k", "7", "--shard_rows", "5")
        assert stopped.type is Killed or "Killed" in str(stopped.value)
    assert not (path / "manifest.json").exists()
    done = {f.name for f in (path / ".unfinished").glob("topk-*.json")} if path.exists() else set()
    original = pipeline.write_shard
    monkeypatch.setattr(pipeline, "write_shard", lambda *args: written.append(args[1]) or original(*args))
    assert score(path, "--k", "7", "--shard_rows", "5") == 0
    assert files_of(path) == files_of(whole)
    assert {f"{name}.json" for name in written} & done == set() and len(written) == 5 - len(done)


def test_a_damaged_shard_of_an_unfinished_output_is_written_again(whole, tmp_path, monkeypatch):
    path = tmp_path / "out"
    monkeypatch.setattr("trainer.batch.job.Target.complete", Fuse(1).wrapped(None))
    with pytest.raises(Killed):
        score(path, "--k", "7", "--shard_rows", "5")
    monkeypatch.undo()
    (damaged,) = path.glob("topk-00002-*")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert score(path, "--k", "7", "--shard_rows", "5") == 0
    assert files_of(path) == files_of(whole)


def test_a_finished_output_is_recognized_and_another_is_refused(whole, tmp_path, capsys, monkeypatch):
    path = tmp_path / "out"
    shutil.copytree(whole, path)
    monkeypatch.setattr(pipeline, "write_shard", None)
    assert score(path, "--k", "7", "--shard_rows", "5") == 0
    capsys.readouterr()
    assert score(path, "--k", "8", "--shard_rows", "5") == 2
    assert "holds a finished output of something else (options.k 7, not 8); choose" in capsys.readouterr().err
    monkeypatch.undo()
    assert score(path, "--k", "8", "--format", "csv", "--overwrite") == 0
    assert [f.name for f in path.glob("topk*")] == ["topk-00000-of-00001.csv"]
    capsys.readouterr()
    (path / "topk-00000-of-00001.csv").unlink()
    assert score(path, "--k", "8", "--format", "csv") == 2
    assert "topk-00000-of-00001.csv: is missing; pass --overwrite" in capsys.readouterr().err


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("u1\nü2\n".encode("latin-1"))
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    model = ("--model", tiny_export("towers"))
    for flags, message in [
        (("--k", "0"), "--k 0: must be 1 to 1000, the export.max_k of the model"),
        (("--shard_rows", "0"), "--shard_rows 0: must be at least 1"),
        (("--where", "age=3"), "where.age: 'age' is not an item feature"),
        (("--users", "/no/file"), "--users /no/file: no such file"),
        (("--users", str(latin)), f"--users {latin}:2: is not UTF-8"),
        (("--users", str(empty)), f"{empty}: has no users"),
        (("--runner", "nosuch"), "--runner nosuch: no such runner"),
        (("--wheres", "x=1"), "--wheres: neither `lazytower score` nor Apache Beam has this option"),
        (("--to", str(tmp_path)), f"{tmp_path}: holds other files"),
        (("--to", str(tmp_path / "file")), "cannot be written"),
        (("--to", "table:p.d.t"), "--to table:p.d.t: outputs are directories or tables"),
    ]:
        capsys.readouterr()
        code = score(tmp_path / f"out{len(message)}", *flags)
        err = capsys.readouterr().err.splitlines()[-1]
        assert code == 2 and err.startswith("lazytower score: error: ") and message in err, (flags, err)
    for flags, message in [
        ((), "no model; name a run with --config"),
        (model, "--model has no list of users"),
    ]:
        assert run(parse(["lazytower", "score", "--what", "topk", "--to", "x", *flags])) == 2
        assert message in capsys.readouterr().err


def test_vectors_give_the_scores_of_recommend(tmp_path, whole):
    assert score(tmp_path / "v", "--shard_rows", "20", what="vectors") == 0
    found = {}
    for of in ("users", "items"):
        rows = [pq.read_table(f).to_pylist() for f in sorted((tmp_path / "v").glob(f"{of}-*"))]
        assert len(rows) == 2  # files
        found[of] = {row["key"]: np.array(row["vector"]) for file in rows for row in file}
    manifest = json.loads((tmp_path / "v" / "manifest.json").read_text())
    assert manifest["counts"] == {of: len(vectors) for of, vectors in found.items()}
    assert manifest["counts"]["items"] == manifest["request"]["model"]["recommended_items"]
    for row in rows_of(whole):
        for entry in row["items"]:
            dot = found["users"][row["user"]] @ found["items"][entry["item"]]
            assert entry["score"] == pytest.approx(dot, abs=1e-6)


def test_options_of_lists_and_models_of_another_family_are_refused(tmp_path, capsys):
    model = ("--model", tiny_export("towers"))
    for flags, message in [
        (("--what", "vectors", "--k", "3", *model), "--k: is for lists of items; remove it"),
        (("--what", "vectors", "--where", "genre=g1", *model), "--where: is for lists of items"),
        (("--what", "rows", *model), "is a retrieval model; use --what topk or vectors"),
    ]:
        assert run(parse(["lazytower", "score", "--to", str(tmp_path / "x"), *flags])) == 2
        assert message in capsys.readouterr().err


def test_an_export_of_an_earlier_version_is_refused_before_anything_is_written(tmp_path, capsys):
    model = shutil.copytree(tiny_export("towers"), tmp_path / "model")
    [graph] = model.rglob("saved_model.pb")
    graph.write_bytes(graph.read_bytes().replace(b"recommend_rows", b"recommend_none"))
    assert score(tmp_path / "out", "--model", str(model)) == 2
    assert "exported by an earlier version; run `lazytower export` again" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_error_of_a_worker_is_the_line_that_it_is(tmp_path, capsys, monkeypatch):
    def refused(*_):
        raise ExportError("model/1: exported by an earlier version; run `lazytower export` again")

    monkeypatch.setattr(pipeline, "open_table", refused)
    assert score(tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err and err.splitlines()[-1] == (
        "lazytower score: error: model/1: exported by an earlier version; run `lazytower export` again"
    )

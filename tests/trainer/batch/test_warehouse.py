"""Outputs loaded into BigQuery, against a local server and a local bucket."""

import pytest

from tests.support.bigquery_server import BigQuery
from tests.trainer.batch.test_score import Fuse, Killed, rows_of, score
from trainer.batch import warehouse

pytestmark = pytest.mark.any_python

TABLE = "my-shop.events.best"
TO = f"bigquery:{TABLE}"
FLAGS = ("--k", "7", "--shard_rows", "9", "--staging", "gs://bucket/best")


@pytest.fixture
def service(monkeypatch, bucket):
    found = BigQuery()
    found.read_object = lambda uri: bucket.read(uri.removeprefix("gs://bucket/"))
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    yield found
    found.close()


def error_of(capsys, *flags: str, to: str = TO, what: str = "topk") -> str:
    capsys.readouterr()
    assert score(to, *flags, what=what) == 2
    return capsys.readouterr().err.splitlines()[-1].removeprefix("lazytower score: error: ")


def test_a_table_has_the_rows_of_the_files_and_is_loaded_once(service, tmp_path, capsys):
    assert score(TO, *FLAGS) == 0
    assert score(tmp_path / "files", "--k", "7", "--shard_rows", "9") == 0
    rows = rows_of(tmp_path / "files")
    assert service.tables[TABLE].rows.to_pylist() == rows and len(rows) == 24
    assert score(TO, *FLAGS) == 0
    assert len(service.loads) == 1 and service.jobs[service.loads[0]]["jobReference"]["location"] == "EU"
    assert score(TO, *FLAGS, "--overwrite") == 0  # once more, in place of the rows
    assert len(service.loads) == 2 and service.tables[TABLE].rows.to_pylist() == rows
    assert score(TO, *FLAGS[2:], "--k", "8", "--staging", "gs://bucket/eight") == 0
    assert len(service.loads) == 3 and len(service.tables[TABLE].rows["items"][0]) == 8


def test_vectors_become_two_tables(service):
    assert score(TO, "--staging", "gs://bucket/vectors", what="vectors") == 0
    assert service.tables[f"{TABLE}_users"].rows.num_rows == 24
    assert service.tables[f"{TABLE}_items"].rows.column_names == ["key", "vector"]


@pytest.mark.parametrize("moment", ["before", "lost", "waiting", "failed"])
def test_a_rerun_loads_nothing_twice(service, monkeypatch, capsys, moment):
    with monkeypatch.context() as patch:
        if moment == "before":
            patch.setattr(warehouse, "_job", Fuse(1).wrapped(None))
        elif moment == "lost":
            service.lost_answers = 1  # the client asks again, and hears that there is such a job
        elif moment == "waiting":
            patch.setattr("google.cloud.bigquery.LoadJob.result", Fuse(1).wrapped(None))
        else:
            service.refuses.append(("invalid", "Error while reading data"))
        if moment == "lost":
            assert score(TO, *FLAGS) == 0
        elif moment == "failed":
            assert "refused by BigQuery (Error while reading data); the files are kept" in error_of(
                capsys, *FLAGS
            )
        else:
            with pytest.raises(Killed):
                score(TO, *FLAGS)
    assert score(TO, *FLAGS) == 0
    assert len(service.loads) == (2 if moment == "failed" else 1)
    assert service.tables[TABLE].rows.num_rows == 24 and len(service.tables[TABLE].versions) == 1


def test_mistakes_are_one_line(service, capsys):
    for to, flags, message in [
        ("bigquery:best", (), "--to bigquery:best: is not a table; write bigquery:project.dataset.table"),
        (TO, (), f"--to {TO}: BigQuery loads files from a bucket, and --staging is not given; add"),
        (TO, ("--staging", "/tmp/x"), "--staging is /tmp/x is not in a bucket; add"),
        (TO, (*FLAGS, "--format", "csv"), "--format csv: BigQuery loads Parquet; remove it"),
        ("out", FLAGS, "--staging gs://bucket/best: is for --to bigquery:PROJECT.DATASET.TABLE; remove it"),
        (
            "bigquery:my-shop.none.t",
            FLAGS,
            "--to bigquery:my-shop.none.t: no such dataset, or a file is gone",
        ),
        ("bigquery:my-shop.secret.t", FLAGS, "--to bigquery:my-shop.secret.t: access denied (Access Denied"),
    ]:
        assert message in error_of(capsys, *flags, to=to)
    assert not service.loads


def test_a_table_of_something_else_is_not_replaced(service, capsys):
    import pyarrow as pa

    service.store(TABLE, pa.table({"orders": [1]}))
    message = error_of(capsys, *FLAGS)
    assert message.startswith(f"{TO}: has columns ['orders'], not ['user', 'known', 'items']; choose another")
    service.store(TABLE, pa.table({"orders": [1]}), kind="VIEW")
    assert f"{TO}: is a view, not" in error_of(capsys, *FLAGS)
    service.store(TABLE, pa.table({"orders": [1]}))
    assert score(TO, *FLAGS, "--overwrite") == 0
    assert service.tables[TABLE].rows.column_names == ["user", "known", "items"]

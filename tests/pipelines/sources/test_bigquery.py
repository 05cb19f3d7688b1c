"""BigQuery as a source, against a local server that speaks its APIs."""

import datetime
import decimal
import json
import re
import time

import grpc
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import ConfigError, DataError
from pipelines.job import JobLayout
from pipelines.sources import bigquery
from pipelines.sources.reader import Range, make_reader
from pipelines.sources.warehouse import clients, streams
from tests.pipelines.sources.pieces import read_pieces
from tests.support.bigquery_server import BigQuery
from tests.support.prepared import configure, run

pytestmark = pytest.mark.any_python

TABLE = "my-shop.events.views"
ROLES = {"user": "u", "label": "rating", "timestamp": "at"}
FEATURES = [
    {"name": "tags", "of": "item", "kind": "list", "max_length": 3},
    {"name": "price", "of": "item", "kind": "numeric", "missing": -1},
    {"name": "day", "of": "context", "kind": "categorical"},
    {"name": "new", "of": "user", "kind": "categorical"},
]
SIDE = {
    "of": "item", "key": "id",
    "features": [{"name": "emb", "kind": "vector", "dim": 2}, {"name": "year", "kind": "numeric"}],
}  # fmt: skip
MOMENT = datetime.datetime(2026, 5, 1, tzinfo=datetime.timezone.utc)


def rows(count: int = 90) -> pa.Table:
    """Interactions with every type that roles and features accept."""
    numbers = range(count)
    return pa.table(
        {
            "u": pa.array([n * n % 11 for n in numbers]),
            "item": pa.array([f"i{n % 7}" for n in numbers]),
            "rating": pa.array([None if n % 9 == 8 else n % 5 / 2 for n in numbers], pa.float64()),
            "at": pa.array(
                [MOMENT + datetime.timedelta(seconds=n % 40) for n in numbers], pa.timestamp("us", "UTC")
            ),
            "price": pa.array(
                [None if n % 6 == 0 else decimal.Decimal(n) / 4 for n in numbers], pa.decimal128(38, 9)
            ),
            "day": pa.array([(MOMENT + datetime.timedelta(days=n % 3)).date() for n in numbers]),
            "new": pa.array([[None, True, False][n % 3] for n in numbers]),
            "tags": pa.array(
                [[f"t{n % k}" for k in range(1, n % 5 + 1)] for n in numbers], pa.list_(pa.string())
            ),
            "unused": pa.array([{"a": n} for n in numbers]),
        }
    )


def items() -> pa.Table:
    numbers = range(7)
    return pa.table(
        {
            "id": [f"i{n}" for n in numbers], "emb": [[n / 2, -1.0] for n in numbers],
            "year": [1990 + n for n in numbers],
        }
    )  # fmt: skip


@pytest.fixture
def service(monkeypatch):
    found = BigQuery()
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(streams, "_FIRST_SECONDS", 0.001)
    found.store(TABLE, rows())
    yield found
    found.close()


def source(**more) -> dict:
    section = {"kind": "bigquery", "table": TABLE, "roles": ROLES, "features": FEATURES}
    return section | {"max_rejected_fraction": 1} | more


def dataset(tmp_path, name: str = "out") -> dict:
    return {
        "path": str(tmp_path / name),
        "split": {"kind": "leave_last_out"},
        "history_length": 2,
        "num_shards": 2,
    }


def content(path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and file.name != "dataset.json"
        and file.parent.name != "rejected"  # they name the file
    }


def reader_of(section: dict):
    return make_reader(configure(section, {"path": "/unused"}).source, JobLayout("", ""))


def users(section: dict) -> list:
    return [key for piece in read_pieces(reader_of(section)) for key in piece.columns["user"].to_pylist()]


def test_the_dataset_is_that_of_the_same_rows_in_parquet(tmp_path, service):
    service.store("my-shop.items.all", items())
    for name, table in (("x", rows()), ("i", items())):
        parquet.write_table(table, tmp_path / name)
    side = SIDE | {"kind": "parquet", "paths": [str(tmp_path / "i")]}
    plain = source(sides=[side]) | {"kind": "parquet", "paths": [str(tmp_path / "x")]}
    del plain["table"]
    run(plain, dataset(tmp_path, "plain"))
    side = SIDE | {"kind": "bigquery", "table": "my-shop.items.all"}
    service.breaks = [1, 0, 2, 1]
    run(source(sides=[side]), dataset(tmp_path), chunk_rows=5, user_shards=3)
    assert content(tmp_path / "out") == content(tmp_path / "plain") != {}
    assert len(service.sessions) == 2, "one for the whole job, and one for its side table"
    assert "unused" not in service.sessions[0].read_options.selected_fields


def test_a_stream_that_breaks_goes_on_behind_the_last_row(service):
    service.streams = 1
    for service.broken in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        service.breaks, service.offsets = [2, 0, 3], []
        assert users(source()) == rows()["u"].to_pylist()
        counting, reading = service.offsets[:4], service.offsets[4:]
        assert counting == [0, 14, 14, 35] and reading == [0]


def test_a_stream_that_never_goes_on_is_an_error(service):
    service.breaks = [2, *([0] * 1000)]
    with pytest.raises(
        DataError, match=f"bigquery:{TABLE}: BigQuery does not answer as expected .*broke"
    ) as caught:
        users(source())
    assert "\n" not in str(caught.value) and len(service.offsets) < 20


def test_a_prepared_dataset_is_recognized_until_the_table_changes(tmp_path, service, caplog):
    from pipelines.prepare import prepare

    config = configure(source(), dataset(tmp_path))
    caplog.set_level("INFO")
    first = prepare(config.source, config.dataset)
    assert prepare(config.source, config.dataset).fingerprint == first.fingerprint
    assert "already prepared" in caplog.text and len(service.sessions) == 1
    time.sleep(0.01)
    service.store(TABLE, rows(80))
    with pytest.raises(DataError, match=f"other content of bigquery:{TABLE}, which has changed since"):
        prepare(config.source, config.dataset)
    assert prepare(config.source, config.dataset, overwrite=True).source_rows == 80


def test_a_change_during_the_job_does_not_matter(tmp_path, service, monkeypatch):
    read = bigquery.Reader.count

    def count(self, part):
        service.store(TABLE, rows(5))
        return read(self, part)

    monkeypatch.setattr(bigquery.Reader, "count", count)
    assert run(source(), dataset(tmp_path)).source_rows == 90


def test_a_change_before_the_session_is_noticed(service):
    reader = reader_of(source())
    reader.files()
    time.sleep(0.01)
    service.store(TABLE, rows(5))
    with pytest.raises(DataError, match=f"bigquery:{TABLE}: has changed since it was listed"):
        reader.ranges()


def test_a_snapshot_is_the_table_as_it_was(tmp_path, service):
    moment = datetime.datetime.now(datetime.timezone.utc)
    time.sleep(0.01)
    service.store(TABLE, rows(5))
    section = source(snapshot_time=moment.isoformat())
    assert users(section) == rows()["u"].to_pylist()
    before = reader_of(section).files()
    time.sleep(0.01)
    service.store(TABLE, rows(4))
    assert reader_of(section).files() == before


def test_a_restriction_is_left_to_the_service(service):
    assert users(source(row_restriction="u < 4")) == [u for u in rows()["u"].to_pylist() if u < 4]


def test_other_rows_of_a_table_stand_on_earlier_ones(tmp_path, service):
    """A chain of datasets refuses what it has read, but not the rest of the same table."""
    section = dataset(tmp_path, "first") | {"split": {"kind": "random"}}
    run(source(row_restriction="u < 4"), section)
    section |= {"path": str(tmp_path / "second"), "base": str(tmp_path / "first")}
    with pytest.raises(DataError, match=f"bigquery:{TABLE} where u < 4: .*first.* has read it"):
        run(source(row_restriction="u < 4"), section)
    assert run(source(row_restriction="u >= 4"), section).source_rows == sum(
        u >= 4 for u in rows()["u"].to_pylist()
    )


QUERY = "SELECT * FROM events.views WHERE u < 3"


def query(**more) -> dict:
    section = source(query=QUERY, project="my-shop", **more)
    del section["table"]
    return section


def test_a_query_runs_once_and_is_the_same_until_its_tables_change(tmp_path, service):
    service.queries[QUERY] = rows(30), [TABLE]
    assert users(query()) == rows(30)["u"].to_pylist()
    done = [job for job in service.jobs.values() if not job["configuration"]["dryRun"]]
    assert len(done) == 1
    before = reader_of(query()).files()
    (name,) = [file.name for file in before]
    assert re.fullmatch(f"bigquery:{TABLE} in query [0-9a-f]{{12}}", name)
    assert len([job for job in service.jobs.values() if not job["configuration"]["dryRun"]]) == 1
    service.tables[TABLE].kind = "VIEW"  # a query may read views
    assert reader_of(query()).files() == before
    time.sleep(0.01)
    service.store(TABLE, rows(5))
    assert reader_of(query()).files() != before


def _denied_column(service):
    service.tables[TABLE].denied_columns = frozenset({"rating"})


def _expired(service):
    service.expired = True


@pytest.mark.parametrize(
    ("change", "section", "message"),
    [
        (lambda s: s.tables.clear(), {}, "no such table or dataset"),
        (lambda s: setattr(s.tables[TABLE], "denied", True), {}, "access denied (Access Denied: Table"),
        (_denied_column, {}, "access denied (Access Denied: User has no permission on column"),
        (_expired, {}, "its read session has expired or is gone"),
        (lambda s: s.store(TABLE, rows(0)), {}, "the table has no rows; check source"),
        (lambda s: None, {"row_restriction": "u < 0"}, "no row meets row_restriction"),
        (lambda s: None, {"row_restriction": "u <"}, "refused by BigQuery (request failed: row"),
        (lambda s: None, {"roles": {"user": "U"}}, "no column 'U'; it has: u, item, "),
        (lambda s: None, {"roles": {"user": "price"}}, "column 'price' is decimal128(38, 9)"),
        (lambda s: setattr(s.tables[TABLE], "kind", "VIEW"), {}, "is a view, which has no stored"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, service, change, section, message):
    change(service)
    with pytest.raises(DataError) as caught:
        run(source(**section), dataset(tmp_path))
    assert str(caught.value).startswith(f"bigquery:{TABLE}: {message}") and "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_broken_query_is_said_in_one_line(service):
    with pytest.raises(DataError, match=r"bigquery:query: refused by BigQuery \(.*Syntax error") as caught:
        reader_of(query()).files()
    assert "\n" not in str(caught.value)


def test_a_service_that_does_not_answer_is_said_in_one_line(service, monkeypatch):
    monkeypatch.setattr(clients, "_PATIENCE_SECONDS", 1)
    reader = reader_of(source())
    reader.files()
    service.close()
    for look in (reader.ranges, reader_of(source()).files):
        with pytest.raises(
            DataError, match=f"bigquery:{TABLE}: BigQuery does not answer as expected"
        ) as caught:
            look()
        assert "\n" not in str(caught.value)


def test_a_half_configured_local_server_is_refused(service, monkeypatch):
    monkeypatch.delenv("BIGQUERY_STORAGE_EMULATOR_HOST")
    with pytest.raises(ConfigError, match="BIGQUERY_EMULATOR_HOST and BIGQUERY_STORAGE_EMULATOR_HOST belong"):
        reader_of(source()).files()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"query": QUERY}, "set either table or query"),
        ({"table": None}, "set either table or query"),
        ({"table": None, "query": QUERY}, "query requires project"),
        ({"table": "views"}, "'views' is not a table; write project.dataset.table"),
        ({"table": "`a.b.c`"}, "is not a table; write project.dataset.table"),
        ({"snapshot_time": "2026-01-01T00:00:00"}, "has no time zone; write 2026-01-01T00:00:00Z for UTC"),
        (
            {"table": None, "query": QUERY, "project": "p", "row_restriction": "a = 1"},
            "row_restriction applies to table only; write it into query",
        ),
    ],
)
def test_sections_that_cannot_work(section, message):
    with pytest.raises(ConfigError) as caught:
        configure(source(**section), {"path": "/unused"})
    assert message in str(caught.value)


def test_ranges_can_be_written_as_json(service):
    found = reader_of(source()).ranges()
    assert [Range(**json.loads(json.dumps(part._asdict()))) for part in found][-1].schema == found[-1].schema

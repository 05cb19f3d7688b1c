"""TFRecord files as a source: what features mean, what is refused, and the same bytes as from Parquet."""

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import DataError
from pipelines.job import JobLayout
from pipelines.sources.reader import make_reader
from tests.pipelines.sources.pieces import read_pieces
from tests.support.prepared import configure, read_rejected, run
from tests.support.tf_examples import write_examples

pytestmark = pytest.mark.any_python

FEATURES = [
    {"name": "tags", "of": "item", "kind": "list", "weights": "strength", "max_length": 3},
    {"name": "codes", "of": "context", "kind": "list"},
    {"name": "price", "of": "item", "kind": "numeric", "missing": -1},
    {"name": "genre", "of": "item", "kind": "categorical"},
]
ROLES = {"user": "u", "label": "rating", "timestamp": "ts"}
SIDE = {
    "of": "item", "key": "id",
    "features": [{"name": "emb", "kind": "vector", "dim": 2}, {"name": "year", "kind": "numeric"}],
}  # fmt: skip
TYPES = pa.schema(
    {"u": pa.int64(), "item": pa.string(), "rating": pa.float32(), "ts": pa.int64(), "price": pa.float32()}
    | {"genre": pa.string(), "tags": pa.list_(pa.string()), "strength": pa.list_(pa.float32())}
    | {"codes": pa.list_(pa.int64())}
)


def rows(count: int = 200) -> list[dict]:
    """Interactions with missing features."""
    return [
        {
            "u": n * n % 17, "item": f"i{n % 13}", "rating": float(n % 5), "ts": 1_700_000_000 + n * 7 % 50,
            "price": None if n % 6 == 0 else n / 4, "genre": [None, "", "a", "b c", "é"][n % 5],
            "tags": [f"t{n % k}" for k in range(1, n % 5)] or None,
            "strength": [k / 2 for k in range(1, n % 5)] or None, "codes": [n % 3, -n] if n % 2 else None,
        }
        for n in range(count)
    ]  # fmt: skip


def items() -> list[dict]:
    return [{"id": f"i{n}", "emb": [n / 2, -1.0], "year": 1990 + n} for n in range(13)]


def prepared(source: dict, out, **sizes) -> dict[str, bytes]:
    """Content of the records, catalogs and vocabularies."""
    dataset = {"path": str(out), "split": {"kind": "leave_last_out"}, "history_length": 2, "num_shards": 2}
    run(source | {"roles": ROLES, "features": FEATURES}, dataset, **sizes)
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "dataset.json"
    }


def test_the_dataset_is_that_of_the_same_rows_in_parquet(tmp_path):
    parquet.write_table(pa.Table.from_pylist(rows(), TYPES), tmp_path / "x.parquet")
    parquet.write_table(pa.Table.from_pylist(items()), tmp_path / "i.parquet")
    write_examples(tmp_path / "x-1", rows()[:90], "ZLIB")
    write_examples(tmp_path / "x-2", rows()[90:])
    write_examples(tmp_path / "i", items(), "GZIP")
    wanted = prepared(
        {"kind": "parquet", "paths": [str(tmp_path / "x.parquet")]}
        | {"sides": [SIDE | {"kind": "parquet", "paths": [str(tmp_path / "i.parquet")]}]},
        tmp_path / "parquet",
    )
    found = prepared(
        {"kind": "tfrecord", "paths": [str(tmp_path / "x-*")]}
        | {"sides": [SIDE | {"kind": "tfrecord", "paths": [str(tmp_path / "i")]}]},
        tmp_path / "tfrecord",
        chunk_bytes=700, user_shards=3,
    )  # fmt: skip
    assert len(wanted) > 10 and found == wanted


def columns(tmp_path, found: list[dict], **more) -> tuple[dict, list]:
    """Columns and reasons of rejects, of a source that is read in pieces of one record and at once."""
    path = write_examples(tmp_path / "x", found)
    section = {"kind": "tfrecord", "paths": [path], "features": FEATURES, "roles": ROLES} | more
    config = configure(section, {"path": "/unused"})
    results = []
    for size in (1, 1 << 20):
        values, reasons = {}, []
        for piece in read_pieces(make_reader(config.source, JobLayout("", "", chunk_bytes=size))):
            for name, column in piece.columns.items():
                values.setdefault(name, []).extend(map(_plain, column.to_pylist()))
            reasons += [(reject.line, reject.reason) for reject in piece.rejects]
        results.append((values, reasons))
    assert [sorted(r[1]) for r in results] == [results[1][1]] * 2
    return results[1]


def _plain(value):
    if isinstance(value, list):
        return list(map(_plain, value))
    return value.decode() if isinstance(value, bytes) else value


GOOD = {"u": 1, "item": "i", "rating": 1.0, "ts": 5}


def test_a_feature_may_have_another_type_in_every_record(tmp_path):
    found = [
        GOOD | {"u": 7, "rating": 1, "ts": 2**53 + 1, "codes": [1, 2]},
        GOOD | {"u": "7", "rating": "2.5", "ts": 1.5, "codes": ["a"]},
        GOOD | {"u": "x", "rating": 0.5, "ts": "6", "codes": [3]},
    ]
    values, reasons = columns(tmp_path, found)
    assert reasons == []
    assert values["user"] == ["7", "7", "x"] and values["codes"] == [["1", "2"], ["a"], ["3"]]
    assert values["label"] == ["1", "2.5", "0.5"] and values["timestamp"] == [str(2**53 + 1), "1.5", "6"]


def test_values_of_the_wrong_type_or_number_reject_their_rows(tmp_path):
    found = [
        GOOD | {"codes": [1]},
        GOOD | {"item": ["a", "b"]},
        GOOD | {"u": 1.5},
        GOOD | {"codes": [0.5]},
        GOOD | {"ts": [1, 2]},
    ]
    values, reasons = columns(tmp_path, found)
    assert reasons == [
        (2, "wrong_type_item"), (3, "wrong_type_user"), (4, "wrong_type_codes"), (5, "wrong_type_timestamp"),
    ]  # fmt: skip
    assert values["user"] == [1] and values["codes"] == [[1]]


def test_missing_features_and_empty_lists_are_missing_values(tmp_path):
    values, reasons = columns(
        tmp_path, [GOOD, GOOD | {"rating": [], "tags": [], "strength": [], "genre": ""}]
    )
    assert reasons == [] and values["genre"] == [None, ""] and values["tags"] == [[], []]
    assert values["label"] == [1.0, None] and values["price"] == [None, None]


def test_rejected_rows_show_their_values(tmp_path):
    found = [*([GOOD] * 9), GOOD | {"ts": "never", "genre": "é"}]
    path = write_examples(tmp_path / "x", found)
    source = {"kind": "tfrecord", "paths": [path], "roles": ROLES, "features": FEATURES}
    dataset = run(
        source | {"max_rejected_fraction": 1}, {"path": str(tmp_path / "out"), "split": {"kind": "random"}}
    )
    (rejected,) = read_rejected(dataset)
    assert (rejected["line"], rejected["reason"]) == (10, "bad_timestamp")
    assert '"timestamp": "never"' in rejected["text"] and "é" in rejected["text"]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([{"user": "a", "item": "b"}], "no feature 'u' in the first 1 records; the first one has: "),
        ([GOOD | {"u": 1.5}], "feature 'u' is a float_list; a key must be text or an integer"),
        ([], "no records in any file; check source.paths"),
    ],
)
def test_what_cannot_work_is_refused_before_the_job(tmp_path, found, message):
    path = write_examples(tmp_path / "x", found, "ZLIB")
    source = {"kind": "tfrecord", "paths": [path], "roles": ROLES}
    with pytest.raises(DataError) as caught:
        run(source, {"path": str(tmp_path / "out")})
    assert f"{path}: {message}" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_damage_deep_in_a_file_stops_the_job_with_the_record(tmp_path):
    path = tmp_path / "x"
    write_examples(path, [GOOD | {"genre": "g" * 900}] * 200)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 + 300] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(
        DataError, match=r"x: record 10\d is damaged: its checksum does not fit its data"
    ) as caught:
        run({"kind": "tfrecord", "paths": [str(path)], "roles": ROLES}, {"path": str(tmp_path / "out")})
    assert "\n" not in str(caught.value)


def test_text_sources_recognize_the_files(tmp_path):
    path = write_examples(tmp_path / "x", [GOOD])
    for kind in ("delimited", "jsonl", "parquet"):
        with pytest.raises(DataError, match="TFRecord file; set source.kind: tfrecord"):
            run({"kind": kind, "paths": [path]}, {"path": str(tmp_path / "out")})

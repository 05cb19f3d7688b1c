"""Files of every format hold what was written, whatever the keys look like."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.batch_outputs import SCHEMA, lists_batch
from trainer.batch.formats.base import make_writer

pytestmark = pytest.mark.any_python

KEYS = ["plain", 'quo"te', "back\\slash", "comma,", "tab\tand\x01", "ü €", "", "line\u2028"]
LISTS = {"some": KEYS, "none": [], 'u"\\': KEYS[:1]}


def written(name: str, schema: pa.Schema, *batches: pa.RecordBatch) -> bytes:
    file = io.BytesIO()
    writer = make_writer(name, file, schema)
    for batch in batches:
        writer.write(batch)
    writer.close()
    return file.getvalue()


def lists_of(rows: list[dict]) -> dict:
    return {row["user"]: [entry["item"] for entry in row["items"]] for row in rows}


def test_parquet_and_json_lines_keep_lists():
    parquet = pq.read_table(io.BytesIO(written("parquet", SCHEMA, lists_batch(LISTS)))).to_pylist()
    lines = written("jsonl", SCHEMA, lists_batch(LISTS)).decode().split("\n")
    rows = [json.loads(line) for line in lines[:-1]]
    assert rows == parquet and lists_of(rows) == LISTS and lines[-1] == ""
    assert rows[0]["items"][2] == {"item": "back\\slash", "score": -2.0} and rows[1]["known"] is True


def test_csv_has_a_line_for_each_item_and_names_without_any():
    rows = list(csv.DictReader(io.StringIO(written("csv", SCHEMA, lists_batch(LISTS)).decode(), newline="")))
    assert [(row["user"], row["item"], row["rank"]) for row in rows] == [
        *(("some", key, str(rank)) for rank, key in enumerate(KEYS, 1)),
        ('u"\\', "plain", "1"),
    ]
    assert written("csv", SCHEMA).decode() == '"user","known","rank","item","score"\n'


def test_vectors_are_lists_and_in_csv_columns():
    schema = pa.schema([("key", pa.string()), ("vector", pa.list_(pa.float32(), 2))])
    batch = pa.RecordBatch.from_pylist([{"key": "a", "vector": [0.5, -1]}], schema=schema)
    assert written("csv", schema, batch).decode() == '"key","vector_0","vector_1"\n"a",0.5,-1\n'
    assert json.loads(written("jsonl", schema, batch)) == {"key": "a", "vector": [0.5, -1.0]}
    table = pq.read_table(io.BytesIO(written("parquet", schema, batch)))
    assert table.to_pylist() == [{"key": "a", "vector": [0.5, -1.0]}]

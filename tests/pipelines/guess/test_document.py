"""Guessed configurations of files in several formats: what they say, and that prepare accepts them."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml

from configs.errors import DataError
from configs.load import parse_config
from pipelines.guess.document import guess
from tests.support.tf_examples import write_examples
from trainer import cli

ROWS = 400


def _events():
    """(user, item, stars, time in ms, device, price of the item)."""
    draw = random.Random(1)
    prices = [round(1.5 ** draw.randrange(20), 2) for _ in range(40)]
    for number in range(ROWS):
        item = draw.randrange(40)
        time = 1_600_000_000_000 + 60_000 * number
        device = draw.choice(["phone", "tablet", "desktop"])
        yield f"u{draw.randrange(30)}", f"i{item}", draw.randrange(1, 6), time, device, prices[item]


def _write(path, rows, delimiter=",", header=None):
    lines = [delimiter.join(map(str, row)) for row in ([header] if header else []) + list(rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def _read(text):
    document = yaml.safe_load(text)
    parse_config(document, "guess")
    return document


def _comment(text, part):
    return next(line for line in text.split("\n") if part in line).partition("# ")[2]


HEADER = ["customer_id", "productId", "stars", "event_time", "device", "price"]


def test_roles_by_name_a_unit_and_features_with_their_owners(tmp_path):
    text = guess([_write(tmp_path / "log.csv", _events(), header=HEADER)])
    source = _read(text)["source"]
    assert source["kind"] == "delimited" and source["delimiter"] == "," and "header" not in source
    assert source["roles"] == {
        "user": "customer_id", "item": "productId", "timestamp": "event_time", "label": "stars",
    }  # fmt: skip
    assert source["timestamp_unit"] == "ms"
    device, price = source["features"]
    assert device == {"name": "device", "of": "context", "kind": "categorical"}
    assert price["of"] == "item" and price["kind"] == "numeric"
    assert price["transform"] == ["log1p", "standardize"]
    assert _comment(text, "customer_id") == "by its name"
    assert "each item has one value" in _comment(text, "name: price")
    assert _comment(text, "positive:").startswith("ratings from 1 to 5; ")
    assert "400 rows" in _comment(text, "paths:")


@pytest.mark.parametrize(
    ("name", "labels", "positive", "reason"),
    [
        (
            "stars",
            [1, 2, 3, 4, 5],
            4,
            "ratings from 1 to 5; 40% of the rows have at least 4. With above_zero ",
        ),
        ("rating", [0.5, 1, 2.5, 3.5, 4, 5], 4, "ratings from 0.5 to 5; 33% of the rows have at least 4"),
        ("score", [0, 0, 2, 7, 10], 10, "ratings from 0 to 10; 20% of the rows have at least 10"),
        ("label", [0, 1, 0, 0], "above_zero", "labels are 0 and 1; 25% of the rows have a label above 0"),
        ("like", [-1, 1], "above_zero", "labels are -1 and 1; 50% of the rows"),
        ("label", [-1, 0, 1, 1], "above_zero", "labels are -1, 0 and 1; 50% of the rows"),
        ("plays", [1, 2, 3, 4, 5], "above_zero", "numbers from 1 to 5, such as counts; 100% of the rows"),
        ("label", [0, 1, 3, 250], "above_zero", "numbers from 0 to 250, such as counts; 75%"),
        ("click", [1], "all", "every label is 1"),
        ("like", [0, -1], "all", "no label is above 0"),
        (None, [0], "all", "there is no column of labels"),
    ],
)
def test_what_is_positive_follows_the_labels(tmp_path, name, labels, positive, reason):
    header = ["user", "item", *([name] if name else [])]
    rows = [(f"u{n % 20}", f"i{n % 7}", labels[n % len(labels)])[: len(header)] for n in range(60)]
    text = guess([_write(tmp_path / "log.csv", rows, header=header)])
    assert _read(text)["dataset"]["positive"] == positive
    assert _comment(text, "positive:").startswith(reason)


def test_a_file_without_names_gets_those_of_the_roles(tmp_path):
    rows = [(str(i % 17), str(i % 23), i % 5 + 1, 880_000_000 + i) for i in range(300)]
    source = _read(guess([_write(tmp_path / "u.data", rows, delimiter="\t")]))["source"]
    assert source["delimiter"] == "\t" and source["header"] is False
    assert source["columns"] == ["user", "item", "label", "timestamp"]
    assert source["timestamp_unit"] == "s"


@pytest.mark.parametrize("delimiter", [";", "|", "::", " ", "\x01"])
def test_delimiters(tmp_path, delimiter):
    text = guess([_write(tmp_path / "log.txt", _events(), delimiter, HEADER)])
    assert _read(text)["source"]["delimiter"] == delimiter


def test_commas_inside_quotes_do_not_count(tmp_path):
    rows = [(f"u{i % 9}", f"i{i % 7}", '"a, b, c"' if i % 2 else '"d"') for i in range(60)]
    source = _read(guess([_write(tmp_path / "q.csv", rows, ",", ["user", "item", "note"])]))["source"]
    assert source["delimiter"] == ","


def test_side_tables_find_their_owner_their_key_and_lists(tmp_path):
    draw = random.Random(2)
    tags = ["red", "green", "blue", "round", "square", "new"]
    items = [(f"i{i}", f"A title {i}", "|".join(draw.sample(tags, 3)), 1990 + i % 30) for i in range(60)]
    users = [(f"u{i}", draw.choice(["F", "M"])) for i in range(30)]
    text = guess(
        [
            _write(tmp_path / "log.csv", _events(), header=HEADER),
            _write(tmp_path / "items.csv", items, header=["sku", "title", "tags", "year"]),
            _write(tmp_path / "people.tsv", users, delimiter="\t", header=["id", "gender"]),
        ]
    )
    item, user = _read(text)["source"]["sides"]
    assert (item["of"], item["key"], user["of"], user["key"]) == ("item", "sku", "user", "id")
    assert item["features"][0] == {"name": "tags", "kind": "list", "separator": "|"}
    assert user["features"] == [{"name": "gender", "kind": "categorical"}]
    assert "distinct values" in _comment(text, "title: left out") or "# title: left out" in text
    assert "40 of 40 items" in _comment(text, "of: item  #")


def test_json_lines_have_real_lists(tmp_path):
    lines = [
        json.dumps(
            {"user": f"u{i % 9}", "item": i % 7, "ts": "2024-05-01T10:00:00Z", "tags": ["a", "b"][: i % 3]}
        )
        for i in range(80)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    source = _read(guess([str(tmp_path / "log.jsonl")]))["source"]
    assert source["kind"] == "jsonl" and source["timestamp_unit"] == "iso8601"
    assert source["features"][0]["kind"] == "list" and "separator" not in source["features"][0]


def test_parquet_with_a_vector(tmp_path):
    number = 50
    table = pa.table(
        {
            "item_id": [f"i{i}" for i in range(number)],
            "embedding": [[float(i + j) for j in range(16)] for i in range(number)],
        }
    )
    parquet.write_table(table, tmp_path / "items.parquet")
    log = _write(tmp_path / "log.csv", _events(), header=HEADER)
    side = _read(guess([log, str(tmp_path / "items.parquet")]))["source"]["sides"][0]
    assert side["kind"] == "parquet"
    assert side["features"] == [{"name": "embedding", "kind": "vector", "dim": 16}]


def test_compressed_text_is_read(tmp_path):
    path = tmp_path / "log.csv.gz"
    rows = [",".join(map(str, row)) for row in [HEADER, *_events()]]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    assert _read(guess([str(path)]))["source"]["roles"]["user"] == "customer_id"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("user,item\n", "has a header and no rows"),
        ("word\nother\n", "no delimiter cuts its lines into columns"),
        ('[{"user": 1}]', "one JSON array; write one object a line"),
        ('{"user": 1\n', "line 1 is not JSON"),
        ("a,b\n1.5,2.5\n3.25,4.5\n", "no column looks like the user's key"),
    ],
)
def test_what_is_no_log_is_refused_with_its_name(tmp_path, content, message):
    path = tmp_path / "log.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        guess([str(path)])
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_records_of_examples_are_recognized(tmp_path):
    for compression in ("", "GZIP"):
        path = write_examples(tmp_path / "log", [{"user": "a", "item": 1}], compression)
        with pytest.raises(DataError, match="contains a TFRecord file; set source.kind: tfrecord"):
            guess([path])


def test_a_side_table_without_shared_keys_is_refused(tmp_path):
    log = _write(tmp_path / "log.csv", _events(), header=HEADER)
    other = _write(tmp_path / "other.csv", [(f"x{i}", i % 3) for i in range(30)], header=["id", "kind"])
    with pytest.raises(DataError, match="no column has the keys of the interactions' users or items"):
        guess([log, other])


def test_the_command_prints_a_configuration_that_prepare_accepts(tmp_path, capsys):
    log = _write(tmp_path / "log.csv", _events(), header=HEADER)
    assert cli.run(cli.parse(["lazytower", "prepare", "--guess", log])) == 0
    document = _read(capsys.readouterr().out)
    document["dataset"]["path"] = str(tmp_path / "dataset")
    document["output"]["path"] = str(tmp_path / "run")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    assert cli.run(cli.parse(["lazytower", "prepare", "--config", str(tmp_path / "run.yaml")])) == 0
    assert (tmp_path / "dataset" / "dataset.json").exists()

"""Labels of click logs: equal from every kind of file, planted, and refused where they cannot be read."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import DataError
from configs.load import parse_config
from configs.planted.clicks import PlantedClicks
from configs.planted.interactions import FIRST_TIMESTAMP
from pipelines.report import row_lines
from tests.pipelines.test_prepare_ranking import ROLES, SMALL, configured, draw, prepared, whole
from tests.support.prepared import read_rejected, read_rows


def test_labels_of_every_kind_of_file_are_equal(tmp_path):
    values = {
        "truth": [True, False, None, True],
        "count": [3, 0, None, 1],
        "text": ["a", "b", None, "c"],
        "price": [0.5, 0.0, None, 2.0],
    }
    labels = {name: {"column": name} for name in ("truth", "count", "price")}
    labels |= {
        "is_true": {"column": "truth", "ones": [True]},
        "is_three": {"column": "count", "ones": [3]},
        "is_ac": {"column": "text", "ones": ["a", "c"]},
        "is_half": {"column": "price", "ones": ["0.5"]},
    }
    rows = [dict(zip(values, row, strict=True), x="k") for row in zip(*values.values(), strict=True)] * 30
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    odd = [{**row, "truth": None if row["truth"] is None else str(row["truth"]).lower()} for row in rows]
    (tmp_path / "odd.jsonl").write_text(
        '{"x": "k", "text": 1.5}\n' + "".join(json.dumps(r) + "\n" for r in odd)
    )
    with open(tmp_path / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(odd[0]))
        writer.writeheader()
        writer.writerows(odd)
    found = {}
    for name, kind in (("log.parquet", "parquet"), ("log.jsonl", "jsonl"), ("odd.jsonl", "jsonl"),
                       ("log.csv", "delimited")):  # fmt: skip
        features = [{"name": "x", "of": "context", "kind": "categorical"}]
        source = {
            "kind": kind, "paths": [str(tmp_path / name)], "roles": {"labels": labels}, "features": features
        }  # fmt: skip
        config = whole(source, path=str(tmp_path / "out"))
        dataset = prepared(config)
        assert not dataset.rejected and not dataset.has_label
        read = [row for info in dataset.splits.values() for row in read_rows(dataset, info.files)]
        names = [f"label/{name}" for name in labels]
        first = int(name == "odd.jsonl")  # a line more, whose labels are empty or 0
        found[name] = sorted(
            [str(row[n]) for n in names] + [row["timestamp"] - first] for row in read
            if row["timestamp"] >= first
        )  # fmt: skip
    expected = {
        0: ["1.0", "3.0", "0.5", "1.0", "1.0", "1.0", "1.0"],
        1: ["0.0"] * 7,
        2: ["nan"] * 7,
        3: ["1.0", "1.0", "2.0", "1.0", "0.0", "1.0", "0.0"],
    }
    every = sorted([*expected[place % 4], place] for place in range(120))
    for name, rows in found.items():
        assert rows == every, name


def test_what_is_no_number_rejects_its_row(tmp_path):
    rows = draw(300)
    rows[5]["rating"], rows[6]["rating"] = "good", "inf"
    config = configured(tmp_path, rows, ROLES, path=str(tmp_path / "out"))
    dataset = prepared(config)
    assert dataset.rejected == {"bad_label_rating": 1, "not_finite_label_rating": 1}
    assert [found["line"] for found in read_rejected(dataset)] == [7, 8]


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        ({"buy": {"column": "by", "ones": ["yes"]}}, {}, "no column 'by'; the header has: "),
        (
            {"buy": {"column": "buy", "ones": ["YES"]}}, {},
            "label buy: no row of 'buy' has 'YES'; correct source.roles.labels.buy.ones; some values are ",
        ),
        ({"rating": {"column": "rating"}}, {"rating": ""},
         "label rating: no row has a value of 'rating'; correct source.roles.labels.rating.column"),
        ({"buy": {"column": "buy"}}, {}, "set source.roles.labels.buy.ones to read text"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_read_are_one_line(tmp_path, labels, changes, message):
    rows = [row | changes for row in draw(200)]
    roles = {"label": "click", "labels": labels}
    config = configured(tmp_path, rows, roles, path=str(tmp_path / "out"))
    with pytest.raises(DataError) as failed:
        prepared(config)
    assert message in str(failed.value) and "\n" not in str(failed.value)


def test_the_values_of_a_label_are_named_where_none_counts(tmp_path):
    roles = {"labels": {"buy": {"column": "buy", "ones": ["bought"]}}}
    config = configured(tmp_path, draw(100), roles, path=str(tmp_path / "out"))
    with pytest.raises(DataError, match="some values are '', ' yes ', 'No', 'no', 'yes'"):
        prepared(config)


def test_the_planted_click_log(tmp_path):
    """Records are its rows. The true probability is beside the click, and makes no row positive."""
    source = {"kind": "synthetic_clicks", "rows": 600, "categorical": [9, 4], "numbers": 2, "users": 20}
    sections = {
        "source": source,
        "dataset": {"path": str(tmp_path / "out"), "keep_negatives": 0.4},
        "model": {"kind": "ranking"},
        "train": {"num_steps": 1},
        "output": {"path": "/unused"},
    }
    config = parse_config(sections, "test")
    dataset = prepared(config, **SMALL)
    planted = PlantedClicks(config.source).rows(0, 600)
    assert dataset.labels == ["planted_probability"] and dataset.has_label
    assert 0 < dataset.thinned == 600 - sum(info.rows for info in dataset.splits.values())
    names = {"c1": 1, "c2": 2}
    keys = {
        name: {row["id"]: row["key"].decode() for row in read_rows(dataset, dataset.tables[name].files)}
        for name in (*names, "tags")
    }
    ends = np.cumsum(planted.lengths)
    for split, info in dataset.splits.items():
        for row in read_rows(dataset, info.files):
            place = row["timestamp"] // 10**9 - FIRST_TIMESTAMP
            assert row["label"] == planted.clicked[place]
            assert row["label/planted_probability"] == np.float32(planted.probability[place])
            for name, column in names.items():
                if split == "train":
                    assert keys[name][row[name]] == f"k{planted.keys[column][place]}"
            assert row["n2"] == planted.numbers[1][place]
            tags = planted.members[ends[place] - planted.lengths[place] : ends[place]]
            assert [keys["tags"].get(i) for i in row["tags"]] == [
                f"t{tag}" for tag in tags
            ] or split != "train"
    assert "planted" not in "\n".join(row_lines(dataset, config.dataset))

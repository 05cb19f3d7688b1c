"""`lazytower inspect` on a prepared dataset: its figures and rows against those counted from the source."""

import numpy as np
import pytest

import pipelines.prepare
from configs.errors import ConfigError, DataError
from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.prepared import read_rows
from tests.support.prepared import run as prepare
from trainer import cli
from trainer.data.inspection import sample_rows, summarize

COLORS = ["red", "red", "blue", "green", ""]
TAGS = ["a|b", "b", "b|c|d", "", "a"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("inspect")
    lines = ["user,item,color,tags,device,price"]
    for row in range(200):
        item = row * 7 % 5
        lines.append(f"u{row % 13},i{item},{COLORS[item]},{TAGS[item]},d{row % 3},{item * 2.5}")
    (directory / "log.csv").write_text("\n".join(lines) + "\n")
    features = [
        {"name": "color", "of": "item", "kind": "categorical"},
        {"name": "tags", "of": "item", "kind": "list", "separator": "|"},
        {"name": "device", "of": "context", "kind": "categorical"},
        {"name": "price", "of": "item", "kind": "numeric"},
    ]
    source = {"kind": "delimited", "paths": [str(directory / "log.csv")], "features": features}
    prepare(source, {"path": str(directory / "data"), "split": {"kind": "random"}})
    return load_dataset(str(directory / "data"))


def _summary(dataset, name):
    return next(found for found in summarize(dataset, list(dataset.features), top=3) if found.name == name)


def test_a_category_counts_items_and_those_that_have_one(dataset):
    found = _summary(dataset, "color")
    assert (found.owners, found.known, found.distinct) == (5, 4, 4)  # the empty key is one of them
    assert found.top[0] == ("red", 2)
    assert found.out_of_vocabulary == 0


def test_a_list_counts_its_keys(dataset):
    found = _summary(dataset, "tags")
    assert (found.owners, found.known, found.values) == (5, 4, 7)
    assert found.top[0] == ("b", 3)
    np.testing.assert_allclose(found.quantiles, np.quantile([2, 1, 3, 0, 1], [0, 0.25, 0.5, 0.75, 1]))


def test_the_context_counts_train_rows(dataset):
    found = _summary(dataset, "device")
    assert found.owners == found.known == dataset.splits["train"].rows
    assert sum(count for _, count in found.top) == found.owners


def test_a_number_has_quantiles(dataset):
    found = _summary(dataset, "price")
    np.testing.assert_allclose(found.quantiles, [0, 2.5, 5, 7.5, 10])
    assert not found.top


def test_rows_have_the_raw_values_of_the_source(dataset):
    for row in sample_rows(dataset, 50, ["color", "tags", "price"]):
        item = int(row["item"].split(" ")[0][1:])
        assert row["color"].split(" (")[0] == (COLORS[item] or "(empty)").split(" (")[0]
        assert [part.split(" ")[0] for part in filter(None, row["tags"].split("; "))] == [
            tag for tag in TAGS[item].split("|") if tag
        ]
        assert float(row["price"]) == item * 2.5


@pytest.mark.parametrize("of, what", [("earlier", "newest earlier"), ("others", "other train")])
def test_histories_are_shown_with_raw_keys(tmp_path, capsys, of, what):
    lines = [f"u{row % 3},i{row % 11}" for row in range(80)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item", *lines]) + "\n")
    source = {"kind": "delimited", "paths": [str(tmp_path / "log.csv")]}
    path = str(tmp_path / "data")
    prepare(source, {"path": path, "split": {"kind": "random"}, "history_length": 4, "history_of": of})
    dataset = load_dataset(path)
    assert f"histories: at most 4 of the user's {what} items" in _printed(capsys, path)
    records = iter(read_rows(dataset, dataset.splits["train"].files[:1]))
    for row, record in zip(sample_rows(dataset, 5, [], history=True), records, strict=False):
        number, _, shown = row["history"].partition(": ")
        assert int(number) == len(record["history"])
        found = [int(part.split("(")[1][:-1]) for part in shown.split("; ") if "(" in part]
        assert found == list(record["history"])[:3] and shown.endswith("...") == (int(number) > 3)
        assert all(part.startswith("i") for part in shown.split("; ") if "(" in part)
    assert "history" not in sample_rows(dataset, 5, [])[0]


def _printed(capsys, *arguments):
    assert cli.run(cli.parse(["lazytower", "inspect", *arguments])) == 0
    return capsys.readouterr().out


def test_the_command_prints_splits_tables_features_and_rows(dataset, capsys):
    text = _printed(capsys, dataset.path, "--rows", "2")
    assert text.startswith("split  ") and "\ntable   ids" in text
    line = next(line for line in text.splitlines() if line.startswith("tags ") and " list " in line)
    assert "80.0% of 5 items" in line
    assert "tags: most frequent: b 3" in text
    assert len(text.rstrip().split("\n\n")[-1].splitlines()) == 3


def test_one_feature_alone(dataset, capsys):
    text = _printed(capsys, dataset.path, "--feature", "color", "--rows", "0")
    assert "most frequent: red 2" in text and "tags" not in text and "split" not in text


def test_mistakes_are_one_line(dataset, tmp_path):
    with pytest.raises(ConfigError, match="--feature size: not a feature of .*; known: color, tags"):
        _run(dataset.path, "--feature", "size")
    with pytest.raises(ConfigError, match="--rows -1: must be from 0 to"):
        _run(dataset.path, "--rows", "-1")
    with pytest.raises(DataError, match="no dataset here"):
        _run(str(tmp_path))


def _run(*arguments):
    from trainer.commands import inspect

    inspect.run(cli.parse(["lazytower", "inspect", *arguments]))


def test_rows_without_users_and_items_have_labels(tmp_path, capsys):
    lines = ["site,clicked,status"]
    lines += [f"s{row % 3},{int(row % 4 == 0)},{('paid', '', 'open')[row % 3]}" for row in range(300)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    sections = {
        "source": {
            "kind": "delimited",
            "paths": [str(tmp_path / "log.csv")],
            "roles": {"label": "clicked", "labels": {"paid": {"column": "status", "ones": ["paid"]}}},
            "features": [{"name": "site", "of": "context", "kind": "categorical"}],
        },
        "dataset": {"path": str(tmp_path / "data"), "keep_negatives": 0.5},
        "model": {
            "kind": "ranking",
            "tasks": [{"name": "click"}, {"name": "paid", "label": "paid", "where": "label"}],
        },
        "train": {"num_steps": 1},
        "output": {"path": str(tmp_path / "run")},
    }
    config = parse_config(sections, "test")
    made = pipelines.prepare.prepare(config.source, config.dataset)
    text = _printed(capsys, str(tmp_path / "data"), "--rows", "4")
    splits, tables, *_, rows = text.rstrip().split("\n\n")
    header, train, *_ = splits.splitlines()
    assert header.split() == ["split", "rows", "positive", "paid"]
    paid = made.splits["train"].labels["paid"]
    empty = 1 - paid.known / made.splits["train"].rows
    assert train.split()[1] == f"{made.splits['train'].rows:,}"
    assert train.endswith(f"{paid.ones / paid.known:.2%}, {empty:.1%} empty")
    assert f"{made.thinned:,} negative train rows are left out by dataset.keep_negatives 0.5." in splits
    assert [line.split()[0] for line in tables.splitlines()] == ["table", "site"]
    assert rows.splitlines()[0].split() == ["label", "paid", "site"]
    values = {"s0": "1", "s1": "(missing)", "s2": "0"}
    for line in rows.splitlines()[1:]:
        _, label, site, _ = line.split()
        assert label == values[site]

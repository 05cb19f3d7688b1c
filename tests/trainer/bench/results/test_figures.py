"""Figures in CSV files, and what of them changed."""

import math

import pytest

from configs.errors import UserError
from trainer.bench.results.figures import (
    Change,
    Figure,
    changes,
    circumstances_changed,
    read_figures,
    table_of_changes,
    write_figures,
)

OLD = [
    Figure("run", "machine", "", "a, 2 cores"),
    Figure("train", "time", "s", 10.0),
    Figure("train", "time", "s", 12.0),
    Figure("train", "peak memory", "GB", 0.1),
    Figure("export", "time", "s", 0.0),
    Figure("restore", "time", "s", 1.0),
]
NEW = [
    Figure("run", "machine", "", "b, 4 cores"),
    Figure("train", "time", "s", 11.5),
    Figure("train", "time", "s", 4.0),
    Figure("train", "peak memory", "GB", 0.2),
    Figure("train", "peak memory", "x", 0.2),
    Figure("export", "time", "s", 1.0),
]


def test_files_keep_what_they_are_given(tmp_path):
    path = str(tmp_path / "new" / "figures.csv")
    write_figures(path, [*OLD, Figure("a", 'b, "c"', "s", 1 / 3)])
    assert read_figures(path) == [*OLD, Figure("a", 'b, "c"', "s", 1 / 3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the first line is not stage,figure,unit,value"),
        (b"stage,figure,value\n", "the first line is not stage,figure,unit,value"),
        (b"stage,figure,unit,value\na,b,s\n", "line 2 has 3 columns instead of 4"),
        (b"stage,figure,unit,value\na,b,s,1\na,b,s,1.5 s\n", "line 3: '1.5 s' is not a number"),
        (b"\xff", "not a CSV file"),
        (None, "No such file or directory; name a CSV file"),
    ],
)
def test_other_files(tmp_path, content, message):
    path = tmp_path / "figures.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_figures(str(path))
    assert str(raised.value).startswith(f"{path}: ") and message in str(raised.value)


def test_changes_are_ratios_of_medians():
    time, memory, export = changes(OLD, NEW)
    assert time == Change("train", "time", "s", (10.0, 12.0), (11.5, 4.0))
    assert time.ratio == 7.75 / 11.0 and time.is_noise
    assert memory.ratio == 2.0 and memory.is_noise is None
    assert math.isnan(export.ratio)
    assert not Change("a", "b", "s", (1.0, 2.0), (2.1, 3.0)).is_noise
    assert Change("a", "b", "s", (0.0,), (0.0,)).ratio == 1.0


def test_what_differs_is_named():
    assert circumstances_changed(OLD, NEW) == [
        "run: machine: a, 2 cores before, b, 4 cores now",
        "only before: restore",
    ]
    assert circumstances_changed(OLD, OLD) == []


def test_the_table():
    lines = table_of_changes(changes(OLD, NEW)).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["stage", "figure", "unit", "old", "new", "new", "/", "old"],
        "train time s 11.00 (10.00 to 12.00) 7.75 (4.00 to 11.50) 0.705 within the noise".split(),
        "train peak memory GB 0.10 0.20 2.000".split(),
    ]

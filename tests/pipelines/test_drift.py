"""A day's distributions and its drift from the base, against counts of the source; statistics that stay."""

import collections
import math
import random

import numpy as np
import pytest

from configs.errors import DataError
from pipelines.drift import drift_lines
from pipelines.statistics.drift import LEAST_SHARE
from tests.support.days import DAY, SMALL, prepare_days
from tests.support.prepared import run
from trainer import cli
from trainer.report.document import write_report

FEATURES = [
    {"name": "price", "of": "item", "kind": "numeric"},
    {"name": "age", "of": "user", "kind": "numeric", "buckets": {"quantiles": 4}},
    {"name": "genre", "of": "item", "kind": "categorical"},
    {"name": "tags", "of": "item", "kind": "list", "table": "words"},
]
SOURCE = {"roles": {"label": "label", "timestamp": "time"}, "features": FEATURES}
DATASET = {"split": {"kind": "temporal"}, "history_length": 0}


def day(number: int, cheap: float, genres: list[str], rows: int = 400) -> list[dict]:
    rng = random.Random(number)
    found = [
        {
            "user": f"u{rng.randrange(30) + 15 * number}",
            "item": f"i{rng.randrange(20)}",
            "label": float(rng.random() < 0.7),
            "time": DAY * number + row,
            "price": rng.choice([1.0, 2.0, 3.0]) if rng.random() < cheap else rng.uniform(5, 9),
            "age": rng.choice([None, 20.0, 30.0, 40.0, 50.0]),
            "genre": rng.choice(genres),
            "tags": rng.sample(["a", "b", "c", "d"], rng.randrange(4)),
        }
        for row in range(rows)
    ]
    return found


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    rows = [day(0, 0.8, ["rock", "pop", ""]), day(1, 0.2, ["rock", "jazz", ""])]
    return rows, prepare_days(tmp_path_factory.mktemp("drift"), rows, SOURCE, DATASET)


def reference(before, now) -> float:
    """The definition, over all values that one of the two has."""
    total = 0.0
    for key in {*before, *now}:
        p, q = (max(c[key] / sum(c.values()), LEAST_SHARE) for c in (before, now))
        total += (p - q) * math.log(p / q)
    return total


def test_numbers(days):
    rows, (base, top) = days
    found, drift = base.distributions["price"], top.drift["price"]
    prices = [np.float32([row["price"] for row in mine]) for mine in rows]
    ordered = np.sort(prices[0])
    limits = np.unique(ordered[len(ordered) * np.arange(1, 10) // 10])
    assert found.boundaries == limits[limits > ordered[0]].tolist()
    bins = [np.digitize(mine, found.boundaries) for mine in prices]
    counts = [collections.Counter(mine.tolist()) for mine in bins]
    assert found.counts == [counts[0][i] for i in range(len(found.counts))]
    assert drift.psi == pytest.approx(reference(*counts), rel=1e-5)
    assert drift.level == "shift" and drift.psi > drift.chance
    assert top.distributions["age"].empty == sum(row["age"] is None for row in rows[1])


def test_keys(days):
    rows, (base, top) = days
    genres = [collections.Counter(row["genre"] for row in mine) for mine in rows]
    found, drift = top.distributions["genre"], top.drift["genre"]
    assert dict(zip(found.names, found.counts, strict=False)) == {k: n for k, n in genres[1].items() if k}
    assert found.empty == genres[1][""] and found.unknown == 0
    known = collections.Counter(
        {k: n for k, n in genres[1].items() if k != "jazz"} | {"?": genres[1]["jazz"]}
    )
    assert drift.psi == pytest.approx(reference(genres[0], known), rel=1e-5)
    assert drift.unknown == genres[1]["jazz"] and drift.appeared == ["jazz"] and drift.vanished == ["pop"]


def test_lists_count_their_keys_and_those_that_are_empty(days):
    rows, (base, _) = days
    found = base.distributions["tags"]
    keys = collections.Counter(tag for row in rows[0] for tag in row["tags"])
    assert dict(zip(found.names, found.counts, strict=False)) == keys
    assert found.empty == sum(not row["tags"] for row in rows[0])
    assert found.values == found.empty + sum(keys.values())


def test_labels_users_and_items(days):
    rows, (base, top) = days
    labels = [collections.Counter(row["label"] for row in mine) for mine in rows]
    assert top.distributions["label"].counts == [labels[1][0.0], labels[1][1.0]]
    assert top.drift["label"].psi == pytest.approx(reference(*labels), rel=1e-4)
    users = {row["user"] for row in rows[0]}
    new = sum(row["user"] not in users for row in rows[1])
    assert top.drift["user"].unknown >= new > 0
    assert sum(top.drift["user"].now) == 400 - top.drift["user"].unknown
    assert top.drift["item"].unknown == 0 and top.drift["item"].level == "none"


def test_the_report_names_what_is_notable(days):
    _, (base, top) = days
    text = "\n".join(drift_lines(top))
    assert not drift_lines(base)
    assert "drift of price from the base: PSI" in text and "a shift" in text
    assert "new among the most frequent: 'jazz'" in text and "gone among the most frequent: 'pop'" in text
    assert "drift of item" not in text and "drift of label" not in text


def test_statistics_stay_those_of_the_base(days, tmp_path):
    rows, (base, top) = days
    for name in ("mean", "stddev", "boundaries"):
        for feature in ("price", "age"):
            assert getattr(top.features[feature], name) == getattr(base.features[feature], name)
    section = DATASET | {"base": base.path, "path": str(tmp_path / "new"), "refresh_statistics": True}
    path = base.path.replace("data0", "day1.jsonl")
    found = run({"kind": "jsonl", "paths": [path]} | SOURCE, section, **SMALL)
    own = np.float32([row["price"] for row in rows[1] if row["label"]])
    assert found.features["price"].mean != base.features["price"].mean
    assert found.features["price"].mean == pytest.approx(own.mean(), rel=0.2)


def test_other_buckets_are_refused(days, tmp_path):
    _, (base, _) = days
    features = [f | ({"buckets": {"quantiles": 5}} if f["name"] == "age" else {}) for f in FEATURES]
    source = {"kind": "jsonl", "paths": [base.path.replace("data0", "day1.jsonl")]} | SOURCE
    section = DATASET | {"base": base.path, "path": str(tmp_path / "new")}
    with pytest.raises(DataError, match=r"feature age: buckets are .*5.* here, .*4.* there .*refresh_stat"):
        run(source | {"features": features}, section, **SMALL)


def test_inspect_and_the_report_show_it(days, capsys, tmp_path):
    _, (base, top) = days
    assert cli.run(cli.parse(["lazytower", "inspect", top.path, "--rows", "0"])) == 0
    text = capsys.readouterr().out
    line = next(line.split() for line in text.splitlines() if line.startswith("price") and "shift" in line)
    assert line[1] == f"{top.drift['price'].psi:.3f}" and f"drift from {base.path}" in text
    assert "jazz" in text and "population stability index" in text
    cli.run(cli.parse(["lazytower", "inspect", base.path, "--rows", "0"]))
    assert "drift" not in capsys.readouterr().out
    write_report(str(tmp_path), top.model_dump(mode="json"), [], "name: days\n")
    page = (tmp_path / "report.html").read_text()
    assert f"Drift from {base.path}" in page and "jazz" in page and "shift" in page

"""Positive rows, duplicates, order below the second, and features as of their time, in random worlds.

Every world is prepared and compared with tests/support/prepared.py, counts of what was left out included.
"""

import itertools
import json
import random

import numpy as np
import pytest

from configs.errors import DataError
from pipelines.prepare import prepare
from tests.pipelines.test_prepare import SMALL, SPLITS, split_function
from tests.support.prepared import Reference, assert_features_match, assert_matches, configure, read_rows, run

pytestmark = pytest.mark.any_python

FEATURES = [
    {"name": "mood", "of": "user", "kind": "categorical"},
    {"name": "age", "of": "user", "kind": "numeric", "missing": -1.0},
    {"name": "shelf", "of": "item", "kind": "categorical"},
    {"name": "price", "of": "item", "kind": "numeric", "missing": -1.0},
]
SIDES = {feature["name"]: feature["of"] for feature in FEATURES}


def world(seed: int, labels: list[float], n: int = 260, users: int = 30, items: int = 25) -> list[dict]:
    """Impressions with repeats, deliveries that came twice, ties, light users, and features that change."""
    rng = random.Random(seed)
    rows = []
    for row in range(n):
        if rows and rng.random() < 0.15:  # once more, and sometimes with another label
            again = dict(rng.choice(rows), row=row)
            if rng.random() < 0.3:
                again["label"] = rng.choice(labels)
            rows.append(again)
            continue
        rows.append(
            {
                "user": f"u{int(users * rng.random() ** 2)}",
                "item": f"i{int(items * rng.random() ** 2)}",
                "label": rng.choice(labels), "timestamp": 10**18 + rng.randrange(60), "row": row,
                "mood": rng.choice(["", "good", "bad"]), "age": rng.choice([None, float(rng.randrange(9))]),
                "shelf": rng.choice(["", "a", "b", "c"]),
                "price": rng.choice([None, float(rng.randrange(9))]),
            }
        )  # fmt: skip
    return rows


def source_of(path, rows) -> dict:
    """Writes rows as JSON lines, times in nanoseconds; returns the section."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    roles = {"label": "label", "timestamp": "timestamp"}
    return {
        "kind": "jsonl", "paths": [str(path)], "roles": roles, "timestamp_unit": "ns", "features": FEATURES,
    }  # fmt: skip


WORLDS = [
    (1, "leave_last_out", [0.0, 1.0], {}, lambda label: label > 0),
    (2, "leave_last_out", [-1.0, 1.0], {"duplicates": "keep"}, lambda label: label > 0),
    (3, "temporal", [1.0, 2.0, 3.0, 4.0], {"positive": 3}, lambda label: label >= 3),
    (4, "temporal", [0.0, 0.0, 1.0], {"duplicates": "keep", "user_ids": {"kind": "hash", "rows": 19}},
     lambda label: label > 0),
    (5, "random", [0.0, 1.0], {"duplicates": "keep", "positive": "all"}, lambda label: True),
    (6, "random", [-2.0, 0.0, 0.5], {"item_ids": {"kind": "hash", "rows": 50}}, lambda label: label > 0),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed, kind, labels, options, positive", WORLDS)
def test_random_worlds_equal_the_reference(tmp_path, seed, kind, labels, options, positive):
    rows = world(seed, labels)
    section = {"path": str(tmp_path / "out"), "split": SPLITS[kind], "history_length": 3, "seed": 3}
    section |= {"user_ids": {"kind": "vocab", "min_count": 2}, "item_ids": {"kind": "vocab", "min_count": 2}}
    section |= options
    dataset = run(source_of(tmp_path / "in.jsonl", rows), section, **SMALL)
    hashed = {
        name: ids["rows"] for name in ("user", "item") if (ids := section[f"{name}_ids"])["kind"] == "hash"
    }
    reference = Reference(
        rows, split_of(kind, rows, options.get("duplicates")), min_rows=4, history_length=3, min_count=2,
        hash_rows=hashed, positive=positive, duplicates=options.get("duplicates", "drop"), second=1,
    )  # fmt: skip
    assert reference.duplicates > 5
    assert kind == "leave_last_out" or any(sum(reference.left_out(split).values()) for split in (1, 2))
    assert_matches(dataset, reference)
    ids = {name: reference.ids(name) for name in ("mood", "shelf")}

    def to_value(name, raw):
        return ids[name][raw] if name in ids else -1.0 if raw is None else raw

    assert_features_match(dataset, reference, SIDES, to_value)
    some = dataset.positives or dataset.splits["train"]
    ages = np.array([row["age"] for row in read_rows(dataset, some.files)])
    found = dataset.features["age"]
    np.testing.assert_allclose((found.mean, found.stddev), (ages.mean(), ages.std()), rtol=1e-6)


def split_of(kind, rows, duplicates):
    """As split_function; copies of an event that are kept share the split of the first."""
    function = split_function(kind, rows)
    if kind != "random" or duplicates != "keep":
        return function
    first = {}
    for row in rows:
        first.setdefault((row["user"], row["item"], row["timestamp"]), row)
    return lambda row: function(first[row["user"], row["item"], row["timestamp"]])


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_valid_and_test_of_leave_last_out_are_different_events(tmp_path, policy):
    """Every event was delivered twice, as rows that lie apart."""
    events = [(user, item, user + 7 * item) for user, item in itertools.product(range(5), range(4))]
    rows = [
        {"user": f"u{u}", "item": f"i{i}", "label": 1.0, "timestamp": t, "row": n, "mood": "", "age": 1.0,
         "shelf": "", "price": 1.0}
        for n, (u, i, t) in enumerate(events + events[::-1])
    ]  # fmt: skip
    section = {"path": str(tmp_path / "out"), "split": {"kind": "leave_last_out"}, "duplicates": policy}
    dataset = run(source_of(tmp_path / "in.jsonl", rows), section, **SMALL)
    assert dataset.duplicates == len(events)
    copies = 1 if policy == "drop" else 2
    assert {name: info.rows for name, info in dataset.splits.items()} == {
        "train": 10 * copies, "valid": 5 * copies, "test": 5 * copies,
    }  # fmt: skip
    events_of = [
        {(row["user"], row["timestamp"]) for row in read_rows(dataset, info.files)}
        for info in dataset.splits.values()
    ]
    assert not events_of[0] & events_of[1] and not events_of[1] & events_of[2]
    assert_matches(dataset, Reference(rows, duplicates=policy, second=1))


@pytest.mark.parametrize("unit, digits", [("s", 9), ("ms", 6), ("us", 3), ("ns", 0), ("iso8601", 9)])
def test_order_below_the_second_is_kept(tmp_path, unit, digits):
    """The newest line comes first; all events lie within one second, or within one unit."""
    texts = {
        "s": ["1700000000.{:09d}", 1], "ms": ["1700000000{:03d}", 10**6], "us": ["1700000000{:06d}", 10**3],
        "ns": ["1700000000{:09d}", 1], "iso8601": ["2023-11-14 22:13:20.{:09d} UTC", 1],
    }  # fmt: skip
    form, step = texts[unit]
    lines = [f"u{u},i{i},{form.format(7 * i + u)}\n" for u in range(3) for i in range(5)]
    (tmp_path / "in.csv").write_text("user,item,time\n" + "".join(lines[::-1]))
    source = {
        "kind": "delimited", "paths": [str(tmp_path / "in.csv")], "roles": {"timestamp": "time"},
        "timestamp_unit": unit,
    }  # fmt: skip
    section = {"path": str(tmp_path / "out"), "split": {"kind": "leave_last_out"}, "history_length": 9}
    dataset = run(source, section)
    rows = [
        {"user": f"u{u}", "item": f"i{i}", "label": 1.0, "row": 14 - 5 * u - i,
         "timestamp": 17 * 10**17 + step * (7 * i + u)}
        for u in range(3) for i in range(5)
    ]  # fmt: skip
    reference = Reference(rows, history_length=9, second=1)
    assert [row["item"] for row in reference.by_user["u0"]] == ["i0", "i1", "i2", "i3", "i4"]
    assert_matches(dataset, reference)


def test_a_temporal_cut_lies_between_two_instants_of_one_second(tmp_path):
    lines = [f"u{i % 3},i{i % 7},{17 * 10**17 + i}\n" for i in range(100)]
    (tmp_path / "in.csv").write_text("user,item,time\n" + "".join(lines))
    source = {
        "kind": "delimited", "paths": [str(tmp_path / "in.csv")], "roles": {"timestamp": "time"},
        "timestamp_unit": "ns",
    }  # fmt: skip
    dataset = run(source, {"path": str(tmp_path / "out")})  # temporal: there is a timestamp
    assert dataset.dataset["split"]["kind"] == "temporal"
    assert [info.rows for info in dataset.splits.values()] == [80, 10, 10]
    assert dataset.splits["test"].min_timestamp == 17 * 10**17 + 90


@pytest.mark.parametrize(
    "labels, options, message",
    [
        ([0, 0], {}, "no row is positive: dataset.positive requires label > 0, the labels range from 0 to 0"),
        ([1, 3], {"positive": 4}, "requires label >= 4, the labels range from 1 to 3; set dataset.positive"),
    ],
)
def test_data_without_positives_is_refused_before_work(tmp_path, labels, options, message):
    path = tmp_path / "in.csv"
    path.write_text("user,item,label\n" + "".join(f"u,i{i},{label}\n" for i, label in enumerate(labels)))
    source = {"kind": "delimited", "paths": [str(path)], "roles": {"label": "label"}}
    with pytest.raises(DataError) as caught:
        run(source, {"path": str(tmp_path / "out"), **options})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_train_without_positives_is_refused(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("user,item,label,time\n" + "".join(f"u,i{i},{int(i == 99)},{i}\n" for i in range(100)))
    source = {"kind": "delimited", "paths": [str(path)], "roles": {"label": "label", "timestamp": "time"}}
    with pytest.raises(DataError, match="no row of train is positive .label > 0.; check dataset.split"):
        run(source, {"path": str(tmp_path / "out")})


def test_the_summary_names_what_fell_away(tmp_path, caplog):
    caplog.set_level("INFO")
    rows = world(9, [0.0, 1.0, 1.0])
    section = {
        "path": str(tmp_path / "out"), "split": SPLITS["temporal"],
        "user_ids": {"min_count": 3, "kind": "vocab"},
    }  # fmt: skip
    dataset = run(source_of(tmp_path / "in.jsonl", rows), section, **SMALL)
    text = caplog.text
    positives = {name: info.positives for name, info in dataset.splits.items()}
    others = sum(info.rows for info in dataset.splits.values()) - sum(positives.values())
    assert f"positive rows (label > 0): train {positives['train']}, valid {positives['valid']}" in text
    assert f"; {others} others, on which only dot_bias and ranking models train: no targets" in text
    assert f"left out by dataset.duplicates drop: {dataset.duplicates} rows" in text
    test = dataset.splits["test"]
    assert (
        test.rare_users
        and f"test: {test.rare_users} users with fewer than dataset.user_ids.min_count 3" in text
    )
    assert "dataset.split: temporal (valid_fraction 0.15, test_fraction 0.1)" in text


def test_short_users_and_the_default_split_are_named(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "in.csv"
    path.write_text("user,item\n" + "".join(f"u{i % 7},i{i % 3}\n" for i in range(20)))
    source = {"kind": "delimited", "paths": [str(path)]}
    run(source, {"path": str(tmp_path / "a")})
    assert "dataset.split: random" in caplog.text and "dataset.history_of" not in caplog.text
    run(source, {"path": str(tmp_path / "c"), "history_length": 4})
    assert "dataset.history_of: others (at most 4 items)" in caplog.text
    split = {"kind": "leave_last_out", "min_rows": 3}
    dataset = run(source, {"path": str(tmp_path / "b"), "split": split})
    assert dataset.short_users == 1
    assert "train only: 1 users with fewer than dataset.split.min_rows 3 positive events" in caplog.text


def test_the_files_of_positive_rows_are_part_of_the_dataset(tmp_path, caplog):
    """A dataset in which one of them is damaged does not count as complete."""
    caplog.set_level("INFO")
    source = source_of(tmp_path / "in.jsonl", world(9, [0.0, 1.0]))
    config = configure(source, {"path": str(tmp_path / "out"), "num_shards": 2})
    first = prepare(config.source, config.dataset)
    assert prepare(config.source, config.dataset).fingerprint == first.fingerprint
    assert "already prepared" in caplog.text
    path = tmp_path / "out" / first.positives.files[0].path
    path.write_bytes(path.read_bytes()[:-1])
    caplog.clear()
    again = prepare(config.source, config.dataset)
    assert first.positives.files[0].path in caplog.text and "already prepared" not in caplog.text
    assert again.fingerprint == first.fingerprint
    assert path.stat().st_size == again.positives.files[0].bytes

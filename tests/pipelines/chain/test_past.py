"""Histories of a day continue those of all days before, whatever has become of the ids meanwhile."""

import random

import pytest

from configs.manifest import SPLITS
from tests.support.days import DAY, keys_of, prepare_days
from tests.support.prepared import read_rows

SOURCE = {"roles": {"label": "label", "timestamp": "time"}}


def world(seed: int, number: int, rows: int = 150) -> list[list[dict]]:
    """Days whose users and items come and go."""
    rng = random.Random(seed)
    days = []
    for day in range(number):
        found = [
            {
                "user": f"u{rng.randrange(25) + 4 * day}",
                "item": f"i{rng.randrange(30) + 5 * day}",
                "label": rng.choice([0.0, 1.0, 1.0]),
                "time": DAY * day + time,
            }
            for time in rng.sample(range(DAY), rows)
        ]
        days.append(sorted(found, key=lambda row: row["time"]))
    return days


COLD = {"user_ids": {"kind": "vocab", "min_count": 3}, "item_ids": {"kind": "vocab", "min_count": 4}}
BOUNDED = {
    "user_ids": {"kind": "vocab", "max_rows": 25, "expire_days": 1.0},
    "item_ids": {"kind": "vocab", "max_rows": 28, "expire_days": 1.0, "min_count": 2},
}
HASHED = {"user_ids": {"kind": "hash", "rows": 5000}, "item_ids": {"kind": "hash", "rows": 7000}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "ids, split, number",
    [
        ({}, "leave_last_out", 2),
        (COLD, "temporal", 3),
        pytest.param(BOUNDED, "temporal", 4, marks=pytest.mark.slow),
        (HASHED, "leave_last_out", 2),
    ],
    ids=["vocab", "min_count", "max_rows", "hash"],
)
def test_histories_continue(tmp_path, ids, split, number):
    days = world(len(str(ids)), number)
    dataset = {"split": {"kind": split}, "history_length": 6} | ids
    datasets = prepare_days(tmp_path, days, SOURCE, dataset)
    top = datasets[-1]
    items, users = keys_of(datasets, "item"), keys_of(datasets, "user")
    has_row = {key for i, key in items.items() if top.tables["item"].has_row(i)}
    today = [
        (users[row["user"]], items[row["item"]], row["timestamp"], row["label"], number, row)
        for number, name in enumerate(SPLITS)
        for row in read_rows(top, top.splits[name].files)
    ]
    continued = 0
    for user, _, time, _, number, row in today:
        # A user who lost the row in between starts anew; their id before leads nowhere.
        past = [r["item"] for day in days[:-1] for r in day if r["user"] == user and r["label"] > 0]
        allowed = (0, 1) if number == 2 else (0,)
        own = sorted(
            (t, item)
            for other, item, t, label, n, _ in today
            if other == user and t < time and label > 0 and n in allowed
        )
        expected = [key for key in [*past, *(item for _, item in own)] if key in has_row][-6:]
        found = [items[i] for i in row["history"]]
        if "max_rows" in str(ids) and len(found) < len(expected):
            assert found == expected[len(expected) - len(found) :]
        else:
            assert found == expected
        continued += len(own) < len(found)
    assert continued > 30

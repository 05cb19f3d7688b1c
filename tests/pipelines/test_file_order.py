"""Histories of sources without timestamps, whose rows may or may not be in the order of time."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.file_order import is_sorted_by_item
from pipelines.prepare import prepare
from tests.support.prepared import configure, run

USERS, ITEMS, ROWS = 60, 80, 3000
SECTION = {"split": {"kind": "given"}, "history_length": 4}


def log(keys=lambda numbers: [str(number) for number in numbers]) -> list[tuple[str, str]]:
    """Rows of users and items in random order, without repeats of a user's item."""
    rng = np.random.default_rng(4)
    pairs = np.unique(rng.integers(0, (USERS, ITEMS), (ROWS, 2)), axis=0)
    rng.shuffle(pairs)
    return list(zip([f"u{user}" for user in pairs[:, 0]], keys(pairs[:, 1] * 7), strict=True))


def numbered_by_first_appearance() -> list[tuple[str, str]]:
    rows = sorted(log(), key=lambda row: row[0])
    numbers: dict[str, int] = {}
    return [(user, str(numbers.setdefault(item, len(numbers)))) for user, item in rows]


def grouped_by_item() -> list[tuple[str, str]]:
    rows = log()
    place = {item: place for place, item in enumerate(dict.fromkeys(item for _, item in rows))}
    return sorted(rows, key=lambda row: place[row[1]])


def nearly(rows: list[tuple[str, str]], share: float) -> list[tuple[str, str]]:
    """The rows, a share of them elsewhere."""
    rng = np.random.default_rng(9)
    moved = [tuple(rows[i]) for i in rng.permutation(len(rows))[: int(share * len(rows))]]
    rest = [row for row in rows if row not in set(moved)]
    for row in moved:
        rest.insert(rng.integers(len(rest)), row)
    return rest


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (log(), False),
        (sorted(log()), True),  # by user, then by item as text
        (sorted(log(), key=lambda row: int(row[1])), True),
        (sorted(log(), key=lambda row: (row[0], -int(row[1]))), True),
        (sorted(log(lambda ns: [f"item {n}" for n in ns]), key=lambda row: row[1]), True),
        (grouped_by_item(), True),
        (numbered_by_first_appearance(), False),
        (nearly(sorted(log(), key=lambda row: int(row[1])), 0.3), False),
        (sorted(log())[:90], False),  # too few rows
        ([(user, "one") for user, _ in log()], False),
        ([], False),
    ],
)
def test_what_counts_as_sorted_by_item(rows, expected):
    users, items = (pa.array([row[i] for row in rows], pa.string()) for i in (0, 1))
    assert is_sorted_by_item(users, items) is expected


@pytest.mark.parametrize(
    ("rows", "chosen", "reason"),
    [
        (log(), "earlier", "a user's rows count as ordered by time; if their order means"),
        (sorted(log()), "others", "each user's rows are sorted by item"),
    ],
)  # fmt: skip
def test_prepare_chooses_and_says_why_and_a_chosen_default_stays(tmp_path, caplog, rows, chosen, reason):
    text = "".join(
        f"{user},{item},{'test' if i % 9 == 8 else 'train'}\n" for i, (user, item) in enumerate(rows)
    )
    (tmp_path / "a.csv").write_text("user,item,part\n" + text)
    source = {
        "kind": "delimited", "paths": [str(tmp_path / "a.csv")],
        "roles": {"user": "user", "item": "item", "split": "part"},
    }  # fmt: skip
    section = SECTION | {"path": str(tmp_path / "ds")}
    dataset = run(source, section)
    assert dataset.history_of == dataset.dataset["history_of"] == chosen
    assert f"dataset.history_of: {chosen}, because the source has no timestamp and {reason}" in caplog.text
    caplog.clear()
    for again in (section, section | {"history_of": chosen}):
        config = configure(source, again)
        assert prepare(config.source, config.dataset).fingerprint == dataset.fingerprint
    assert "already prepared" in caplog.text and "no timestamp" not in caplog.text
    other = {"earlier": "others", "others": "earlier"}[chosen]
    asked = run(source, section | {"history_of": other, "path": str(tmp_path / "asked")})
    assert asked.history_of == other and "no timestamp" not in caplog.text

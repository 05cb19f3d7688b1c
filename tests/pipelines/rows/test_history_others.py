"""Histories of rows without an order (dataset.history_of: others), against plain Python."""

import random

import pytest

from tests.support.prepared import Reference, assert_matches, content_of_any_size, read_rows, run

pytestmark = pytest.mark.any_python

PARTS = ["train", "valid", "test"]
SMALL = {"chunk_bytes": 300, "chunk_rows": 7, "user_shards": 3, "key_shards": 2, "bucket_rows": 6}


def interactions(labels=(1.0,), number=400, seed=1) -> list[dict]:
    """Rows of few users and items, so that many repeat another; some users have one row, or held-out rows
    only."""
    draw = random.Random(seed)
    rows = [
        {"user": f"u{draw.randrange(14)}", "item": f"i{int(40 * draw.random() ** 2)}",
         "label": draw.choice(labels), "part": draw.choice([*PARTS, "train", "train", "train"])}
        for _ in range(number)
    ]  # fmt: skip
    rows += [{"user": f"single {part}", "item": "i3", "label": 1.0, "part": part} for part in PARTS]
    for part in PARTS:  # the same item in every split
        rows.append({"user": "repeats", "item": "i1", "label": 1.0, "part": part})
    draw.shuffle(rows)
    return [row | {"row": number, "timestamp": number} for number, row in enumerate(rows)]


def source_of(path, rows) -> dict:
    """Writes the rows; returns the source section."""
    lines = [f"{row['user']},{row['item']},{row['label']},{row['part']}\n" for row in rows]
    path.write_text("user,item,label,part\n" + "".join(lines))
    return {"kind": "delimited", "paths": [str(path)], "roles": {"label": "label", "split": "part"}}


@pytest.mark.parametrize(
    "length, labels, ids",
    [
        (4, (1.0,), {}),
        (300, (1.0,), {}),
        (5, (0.0, 1.0, 2.0), {"item": {"kind": "vocab", "min_count": 4}}),
        (3, (0.0, 1.0), {"item": {"kind": "hash", "rows": 17}, "user": {"kind": "hash", "rows": 97}}),
    ],
    ids=["short", "whole", "labels", "hashed"],
)
def test_a_row_has_its_users_other_items_and_never_its_own(tmp_path, length, labels, ids):
    rows = interactions(labels)
    section = {"path": str(tmp_path / "out"), "split": {"kind": "given"}, "history_length": length, "seed": 5}
    section |= {"history_of": "others"}
    section |= {f"{name}_ids": options for name, options in ids.items()}
    dataset = run(source_of(tmp_path / "in.csv", rows), section | {"num_shards": 2}, **SMALL)
    assert dataset.history_of == "others"
    hashed = {name: options["rows"] for name, options in ids.items() if "rows" in options}
    reference = Reference(
        rows, lambda row: PARTS.index(row["part"]), history_length=length, hash_rows=hashed, second=1,
        timed=False, history_of="others", seed=5,
    )  # fmt: skip
    reference.least["item"] = ids.get("item", {}).get("min_count", 1)
    reference.user_ids, reference.item_ids = reference.ids("user"), reference.ids("item")
    assert_matches(dataset, reference)
    found = [row for split in dataset.splits.values() for row in read_rows(dataset, split.files)]
    assert all(row["item"] not in row["history"] for row in found)
    assert all(len(set(row["history"])) == len(row["history"]) <= length for row in found)
    assert any(not row["history"] for row in found)
    cut = [row for row in found if len(row["history"]) == length]
    assert bool(cut) == (length < 40)


def test_rows_of_a_user_have_different_samples(tmp_path):
    rows = interactions()
    section = {"path": str(tmp_path / "out"), "split": {"kind": "given"}, "history_length": 4}
    section["history_of"] = "others"
    dataset = run(source_of(tmp_path / "in.csv", rows), section)
    found = [row for row in read_rows(dataset, dataset.splits["train"].files) if row["user"] == 0]
    items = {item for row in found for item in row["history"]}
    assert items == {row["item"] for row in found} and len(items) > 8


def test_shards_pieces_and_workers_give_the_same_histories(tmp_path):
    source, found = source_of(tmp_path / "in.csv", interactions()), []
    for name, shards, sizes in (("a", 1, {}), ("b", 1, SMALL), ("c", 4, SMALL)):
        section = {"path": str(tmp_path / name), "split": {"kind": "given"}, "history_length": 4}
        section["history_of"] = "others"
        dataset = run(source, section | {"num_shards": shards}, **sizes)
        files = content_of_any_size(tmp_path / name)
        files["dataset.json"] = files["dataset.json"].replace(str(tmp_path / name).encode(), b"")
        rows = read_rows(dataset, dataset.splits["train"].files)
        found.append((files, sorted((row["timestamp"], row["history"]) for row in rows)))
    assert found[0] == found[1] and found[1][1] == found[2][1]


def test_the_order_of_the_file_tells_nothing(tmp_path):
    """The same rows in another order: the histories are the same sets."""
    rows, sets = interactions(number=120), []
    for name in ("drawn", "sorted"):
        section = {"path": str(tmp_path / name), "split": {"kind": "given"}, "history_length": 300}
        section["history_of"] = "others"
        dataset = run(source_of(tmp_path / f"{name}.csv", rows), section)
        records = [row for split in dataset.splits.values() for row in read_rows(dataset, split.files)]
        sets.append(sorted((row["user"], row["item"], sorted(row["history"])) for row in records))
        rows = sorted(rows, key=lambda row: row["item"])
    assert sets[0] == sets[1]


@pytest.mark.parametrize("of", ["earlier", "others"])
def test_it_is_recorded_and_chosen_by_hand(tmp_path, of):
    source = source_of(tmp_path / "in.csv", interactions(number=30))
    section = {"path": str(tmp_path / "out"), "split": {"kind": "given"}, "history_length": 4}
    dataset = run(source, section | {"history_of": of})
    assert dataset.history_of == dataset.dataset["history_of"] == of
    none = run(source, section | {"history_length": 0})
    assert none.history_of is None and none.dataset["history_of"] is None

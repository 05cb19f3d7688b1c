"""Sequences of users in a chain, written by hand: two datasets, in which ids have shifted and moved."""

import gzip

import numpy as np

from configs.chain import LEFT
from configs.dataset_parts import CatalogInfo, FileInfo, SplitInfo, TableInfo
from configs.manifest import SPLITS, Dataset
from pipelines.base import sequences
from pipelines.base.sequences import Sequences
from pipelines.rows.blocks import BlockWriter, Lists

EMPTY = SplitInfo(rows=0, files=[], min_timestamp=None, max_timestamp=None, positives=0)


def dataset(directory, users: dict[int, list[int]], tables: dict[str, TableInfo], pairs: dict[str, list]):
    """A dataset with nothing but a catalog of users, in files of 4 ids."""
    (directory / "users").mkdir(parents=True)
    files = []
    for number in sorted({user // 4 for user in users}):
        ids = sorted(user for user in users if user // 4 == number)
        items = [users[user] for user in ids]
        offsets = np.r_[0, np.cumsum([len(mine) for mine in items])].astype(np.int64)
        values = np.array([item for mine in items for item in mine], np.int64)
        path = f"users/01234567-{number:05d}.tfrecord.gz"
        with open(directory / path, "wb") as file:
            writer = BlockWriter(file, 2)
            writer.add({"id": np.array(ids), "sequence": Lists(values, offsets, "sequence_length")})
            files.append(FileInfo(path=path, **writer.close()))
    for name, moved in pairs.items():
        data = np.array(sorted(moved), "<i8").tobytes()
        (directory / name).write_bytes(data)
        info = FileInfo(path=name, rows=len(moved), bytes=len(data), crc32c="")
        tables[name] = tables[name].model_copy(update={"moved": [info]})
    nothing = CatalogInfo(rows=0, files=[])
    return Dataset(
        fingerprint="", source_fingerprint="", history_length=3, has_weight=False, features={}, rejected={},
        splits=dict.fromkeys(SPLITS, EMPTY), tables=tables, source_rows=0, source={}, dataset={},
        users=CatalogInfo(rows=len(users), files=files), items=nothing, path=str(directory),
    )  # fmt: skip


def table(**sizes) -> TableInfo:
    return TableInfo(ids="vocab", keys=0, **sizes)


def chain(directory) -> list[Dataset]:
    """Users 0-3 have rows in the older dataset, 5 and 6 are further ones, as is item 11.

    In the newer dataset user 5 of the older one has row 4, and 6 is 8; users 5 and 9 are new. Item 3 has
    left, and item 11 has row 10.
    """
    older = dataset(
        directory / "older",
        {0: [1, 2, 3], 1: [], 2: [11, 5], 3: [7], 5: [9, 8], 6: [4]},
        {"user": table(rows=5, oov=4, catalog_rows=7), "item": table(rows=11, oov=10, catalog_rows=12)},
        {},
    )
    newer = dataset(
        directory / "newer",
        {0: [4, 10], 4: [6], 5: [0], 9: [2]},
        {
            "user": table(rows=7, oov=6, base_rows=5, base_oov=4, catalog_rows=10),
            "item": table(rows=13, oov=12, base_rows=11, base_oov=10, catalog_rows=13),
        },
        {"user": [(5, 4)], "item": [(3, LEFT), (11, 10)]},
    )
    return [newer, older]


def newest(datasets, users, length, renamed=lambda items: items):
    found = Sequences(datasets, renamed).newest(np.array(users), length)
    return [part.tolist() for part in np.split(found.items, np.cumsum(found.lengths)[:-1])]


def test_sequences_continue_from_older_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "VECTOR_ROWS", 4)
    datasets = chain(tmp_path)
    users = [0, 1, 2, 3, 4, 5, 8, 9]
    assert newest(datasets, users, 9) == [[1, 2, 4, 10], [], [10, 5], [7], [9, 8, 6], [0], [4], [2]]
    assert newest(datasets, users, 2) == [[4, 10], [], [10, 5], [7], [8, 6], [0], [4], [2]]


def test_items_without_a_row_here_make_room_for_older_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "VECTOR_ROWS", 4)
    found = newest(chain(tmp_path), [0], 3, lambda items: np.where(items == 4, LEFT, items + 100))
    assert found == [[101, 102, 110]]


def test_files_without_the_users_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "VECTOR_ROWS", 4)
    datasets = chain(tmp_path)
    for name in datasets[0].users.files[1:]:
        (tmp_path / "newer" / name.path).write_bytes(gzip.compress(b"not read"))
    assert newest(datasets, [0, 1], 9) == [[1, 2, 4, 10], []]

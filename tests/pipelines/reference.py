"""The dataset that `prepare` must write, computed row by row in plain Python; a reader of what it wrote."""

import collections
import gzip
import json
import os

import tensorflow as tf
from google_crc32c import Checksum

from configs.load import parse_config
from pipelines.prepare import prepare

LISTS = {"history": "history_length", "sequence": "sequence_length", "sequence_split": "sequence_length"}


def configure(source: dict, dataset: dict):
    """A run configuration around a source and a dataset section."""
    sections = {
        "source": source,
        "dataset": dataset,
        "train": {"num_steps": 1},
        "output": {"path": "/unused"},
    }
    return parse_config(sections, "test")


def run(source: dict, dataset: dict, **sizes):
    """Prepares a dataset and returns its dataset.json."""
    config = configure(source, dataset)
    return prepare(config.source, config.dataset, overwrite=True, **sizes)


def read_file(path: str) -> list[dict[str, list]]:
    """Columns of each block of a file, read by TensorFlow."""
    blocks = []
    for data in tf.data.TFRecordDataset(path, compression_type="GZIP"):
        features = tf.train.Example.FromString(data.numpy()).features.feature
        blocks.append({k: list(getattr(v, v.WhichOneof("kind")).value) for k, v in features.items()})
    return blocks


def rows_of(block: dict[str, list]) -> list[dict]:
    """A block's rows; lists are cut by their lengths."""
    columns = dict(block)
    for name, lengths in LISTS.items():
        if name in block:
            values, cut = iter(block[name]), []
            for length in block[lengths]:
                cut.append(tuple(next(values) for _ in range(length)))
            assert next(values, None) is None
            columns[name] = cut
    for lengths in set(LISTS.values()):
        columns.pop(lengths, None)
    sizes = {len(values) for values in columns.values()}
    assert len(sizes) == 1, {k: len(v) for k, v in columns.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def read_rows(dataset, files) -> list[dict]:
    """All rows of some files, after checking what dataset.json says of each file."""
    rows = []
    for info in files:
        path = f"{dataset.dataset['path']}/{info.path}"
        blocks = read_file(path)
        file_rows = [rows_of(block) for block in blocks]
        assert all(len(block) == dataset.block_rows for block in file_rows[:-1])
        assert sum(map(len, file_rows)) == info.rows
        assert os.path.getsize(path) == info.bytes
        with open(path, "rb") as file:
            assert Checksum(file.read()).hexdigest().decode() == info.crc32c
        rows += [row for block in file_rows for row in block]
    return rows


def read_rejected(dataset) -> list[dict]:
    """All lines of rejected/."""
    directory = f"{dataset.dataset['path']}/rejected"
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    return [json.loads(line) for name in names for line in open(f"{directory}/{name}", encoding="utf-8")]


def content(path: str) -> dict[str, bytes]:
    """Every file of a dataset directory by its relative path."""
    found = {}
    for directory, _, names in os.walk(path):
        for name in names:
            full = os.path.join(directory, name)
            with open(full, "rb") as file:
                found[os.path.relpath(full, path)] = file.read()
    return found


def gzip_header(path: str) -> bytes:
    """First bytes of a file, which hold the time of writing when there is one."""
    with open(path, "rb") as file:
        header = file.read(10)
    with gzip.open(path) as file:
        assert file.read(1)
    return header


class Reference:
    """Ids, splits, histories and catalogs of interactions given as dicts.

    Each row has user, item (str), timestamp (int), label (float), and its global number `row`; order is that
    of row numbers. `split_of` gives a split 0, 1 or 2 for each row, or None for leave_last_out.
    """

    def __init__(self, rows, split_of=None, min_rows=3, history_length=0, min_count=1, hash_rows=None):
        self.rows = sorted(rows, key=lambda r: r["row"])
        self.by_user = collections.defaultdict(list)
        for row in self.rows:
            self.by_user[row["user"]].append(row)
        for own in self.by_user.values():
            own.sort(key=lambda r: (r["timestamp"], r["row"]))
            for place, row in enumerate(own):
                newer = len(own) - place
                last_out = 0 if len(own) < min_rows or newer > 2 else 3 - newer
                row["split"] = last_out if split_of is None else split_of(row)
        self.hash_rows = hash_rows or {}
        self.min_count = min_count
        self.user_ids, self.item_ids = self._ids("user"), self._ids("item")
        self.history_length = history_length

    def counts(self, name) -> collections.Counter:
        return collections.Counter(row[name] for row in self.rows if row["split"] == 0)

    def _ids(self, name) -> dict[str, int]:
        keys = {row[name] for row in self.rows}
        if name in self.hash_rows:
            size = self.hash_rows[name]
            return {key: int(tf.strings.to_hash_bucket_fast(key, size)) for key in keys}
        counts = self.counts(name)
        known = [key for key in counts if counts[key] >= self.min_count]
        known.sort(key=lambda key: (-counts[key], key.encode()))
        ids = {key: i for i, key in enumerate(known)}
        return {key: ids.get(key, len(ids)) for key in keys}

    def vocabulary(self, name) -> int:
        counts = self.counts(name)
        return sum(count >= self.min_count for count in counts.values())

    def _known(self, item: str) -> bool:
        return "item" in self.hash_rows or self.item_ids[item] < self.vocabulary("item")

    def history(self, row) -> tuple[int, ...]:
        own = self.by_user[row["user"]]
        allowed = (0, 1) if row["split"] == 2 else (0,)
        earlier = own[: own.index(row)]
        items = [
            self.item_ids[r["item"]] for r in earlier if r["split"] in allowed and self._known(r["item"])
        ]
        return tuple(items[-self.history_length :])

    def records(self, split: int) -> list[tuple]:
        """(user, item, timestamp, label[, history]) of each row of a split, sorted."""
        result = []
        for row in self.rows:
            if row["split"] == split:
                ids = (self.user_ids[row["user"]], self.item_ids[row["item"]], row["timestamp"], row["label"])
                result.append(ids + ((self.history(row),) if self.history_length else ()))
        return sorted(result)

    def items(self) -> list[tuple]:
        """(id, key, count) of the items' catalog."""
        return self._catalog("item", self.item_ids)

    def _catalog(self, name, ids) -> list[tuple]:
        counts, by_id = self.counts(name), collections.defaultdict(list)
        for key, i in ids.items():
            if name in self.hash_rows or i < self.vocabulary(name):
                by_id[i].append(key)
        result = []
        for i, keys in sorted(by_id.items()):
            best = min(keys, key=lambda key: (-counts[key], key.encode()))
            result.append((i, best.encode(), sum(counts[key] for key in keys)))
        return result

    def users(self) -> list[tuple]:
        """(id, key, count, sequence, sequence_split) of the users' catalog."""
        result = []
        for i, key, count in self._catalog("user", self.user_ids):
            own = [row for row in self.rows if self.user_ids[row["user"]] == i]
            own.sort(key=lambda r: (r["timestamp"], r["row"]))
            sequence = tuple(self.item_ids[row["item"]] for row in own)
            result.append((i, key, count, sequence, tuple(row["split"] for row in own)))
        return result


def assert_matches(dataset, reference: Reference) -> None:
    """Compares a whole dataset with the reference."""
    for number, (_name, info) in enumerate(dataset.splits.items()):
        names = ["user", "item", "timestamp", "label"] + (["history"] if reference.history_length else [])
        found = read_rows(dataset, info.files)
        expected = reference.records(number)
        assert sorted(tuple(row[n] for n in names) for row in found) == expected
        assert info.rows == len(expected)
        assert info.min_timestamp == min((r[2] for r in expected), default=None)
        assert info.max_timestamp == max((r[2] for r in expected), default=None)
    items = read_rows(dataset, dataset.items.files)
    assert [(r["id"], r["key"], r["count"]) for r in items] == reference.items()
    users = read_rows(dataset, dataset.users.files)
    names = ["id", "key", "count", "sequence", "sequence_split"]
    assert [tuple(r[n] for n in names) for r in users] == reference.users()
    for name in ("user", "item"):
        table = dataset.tables[name]
        if name in reference.hash_rows:
            assert (table.ids, table.rows, table.oov) == ("hash", reference.hash_rows[name], None)
            assert table.keys == len(reference.counts(name))
        else:
            keys = reference.vocabulary(name)
            assert (table.ids, table.rows, table.oov, table.keys) == ("vocab", keys + 1, keys, keys)
            assert table.oov_keys == len({row[name] for row in reference.rows}) - keys

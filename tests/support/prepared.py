"""The dataset that `prepare` must write, computed row by row in plain Python; a reader of what it wrote."""

import collections
import gzip
import json
import os

import tensorflow as tf
from google_crc32c import Checksum

from configs.load import parse_config
from pipelines.base.index import read_index
from pipelines.prepare import prepare
from tests.support.set_histories import other_items

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
    lists = LISTS | {
        name: lengths
        for lengths in block
        if lengths.endswith("/length")
        for name in (lengths.removesuffix("/length"), lengths.replace("/length", "/weight"))
    }
    for name, lengths in lists.items():
        if name in block:
            values, cut = iter(block[name]), []
            for length in block[lengths]:
                cut.append(tuple(next(values) for _ in range(length)))
            assert next(values, None) is None
            columns[name] = cut
    for lengths in set(lists.values()):
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


def content_of_any_size(path: str) -> dict[str, bytes]:
    """As `content`, without what depends on the number of parts of the keys: an index is one table."""
    files = {name: data for name, data in content(path).items() if not name.startswith("index/")}
    document = json.loads(files["dataset.json"])
    for table, info in document["tables"].items():
        parts = [read_index(f"{path}/{file['path']}") for file in info.pop("index")]
        if parts:
            names = parts[0].column_names
            columns = {n: [v for part in parts for v in part[n].to_pylist()] for n in names}
            files[f"index/{table}"] = json.dumps(columns).encode()
    return files | {"dataset.json": json.dumps(document).encode()}


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
    of row numbers. `split_of` gives a split 0, 1 or 2 for each row, or None for leave_last_out. `positive`
    judges labels; `second` is what a timestamp counts in the dataset. Where rows are not `timed`, no two
    are duplicates.
    """

    def __init__(
        self,
        rows,
        split_of=None,
        min_rows=3,
        history_length=0,
        min_count=1,
        hash_rows=None,
        positive=lambda label: label > 0,
        duplicates="drop",
        second=10**9,
        timed=True,
        history_of="earlier",
        seed=0,
    ):
        self.history_of, self.seed = history_of, seed
        self.positive, self.second, self.timed = positive, second, timed
        self.all_positive = all(positive(row["label"]) for row in rows)
        self.rows, self.duplicates = self._distinct(sorted(rows, key=lambda r: r["row"]), duplicates)
        self.by_user = collections.defaultdict(list)
        for row in self.rows:
            self.by_user[row["user"]].append(row)
        self.short_users = 0
        for own in self.by_user.values():
            own.sort(key=lambda r: (r["timestamp"], r["row"]))
            if split_of is None:
                self._leave_last_out(own, min_rows)
            else:
                for row in own:
                    row["split"] = split_of(row)
        self.hash_rows = hash_rows or {}
        self.least = {"user": min_count, "item": min_count}
        self.user_ids, self.item_ids = self.ids("user"), self.ids("item")
        self.history_length = history_length

    def _distinct(self, rows, policy) -> tuple[list[dict], int]:
        """The rows that stay, as copies, and how many repeat another."""
        rows = [dict(row) for row in rows]
        best = {}
        for row in rows:
            event = self.event(row)
            if event not in best or row["label"] > best[event]["label"]:
                best[event] = row
        kept = [row for row in rows if policy == "keep" or best[self.event(row)] is row]
        return kept, len(rows) - len(best)

    def event(self, row) -> tuple:
        return row["user"], row["item"], row["timestamp"] if self.timed else row["row"]

    def is_positive(self, row) -> bool:
        return self.positive(row["label"])

    def _leave_last_out(self, own, min_rows) -> None:
        positive = [row for row in own if self.is_positive(row)]
        for row in own:
            row["split"] = 0
        if len({self.event(row) for row in positive}) < min_rows:
            self.short_users += bool(positive)
            return
        test = positive[-1]
        valid = [row for row in positive if self.event(row) != self.event(test)][-1]
        for place, row in enumerate(own):
            for number, last in ((1, valid), (2, test)):
                if self.event(row) == self.event(last):
                    row["split"] = number
                elif not self.is_positive(row) and place > own.index(last):
                    row["split"] = max(row["split"], number)
            if self.event(row) == self.event(valid):
                row["split"] = 1

    def counts(self, name) -> collections.Counter:
        """Positive train rows by key."""
        return collections.Counter(
            row[name] for row in self.rows if row["split"] == 0 and self.is_positive(row)
        )

    def ids(self, name) -> dict[str, int]:
        keys = {row[name] for row in self.rows}
        if name in self.hash_rows:
            size = self.hash_rows[name]
            return {key: int(tf.strings.to_hash_bucket_fast(key, size)) for key in keys}
        counts = self.counts(name)
        known = [key for key in counts if counts[key] >= self._least(name)]
        known.sort(key=lambda key: (-counts[key], key.encode()))
        others = sorted(keys - set(known), key=str.encode)
        return {key: i for i, key in enumerate([*known, None, *others]) if key is not None}

    def _least(self, name) -> int:
        return self.least.get(name, 1)

    def vocabulary(self, name) -> int:
        counts = self.counts(name)
        return sum(count >= self._least(name) for count in counts.values())

    def has_row(self, name: str, i: int) -> bool:
        """Whether a catalog id has a row of the table of its own."""
        return name in self.hash_rows or i < self.vocabulary(name)

    def history(self, row) -> tuple[int, ...]:
        if self.history_of == "others":
            return self.others(row)
        own = self.by_user[row["user"]]
        allowed = (0, 1) if row["split"] == 2 else (0,)
        earlier = own[: [id(r) for r in own].index(id(row))]
        items = [
            self.item_ids[r["item"]]
            for r in earlier
            if r["split"] in allowed
            and self.has_row("item", self.item_ids[r["item"]])
            and self.is_positive(r)
        ]
        return tuple(items[-self.history_length :])

    def others(self, row) -> tuple[int, ...]:
        """The history of a row whose user's rows have no order."""
        mine = self.by_user[row["user"]]
        found = [self.item_ids[r["item"]] for r in mine if r["split"] == 0 and self.is_positive(r)]
        found = [item for item in found if self.has_row("item", item)]
        user, own = self.user_ids[row["user"]], self.item_ids[row["item"]]
        number = row["row"] if row["split"] == 0 else None
        return tuple(other_items(found, own, user, self.history_length, self.seed, number))

    def records(self, split: int) -> list[tuple]:
        """(user, item, timestamp, label[, history]) of a split's rows (3: train's positive ones), sorted."""
        result = []
        for row in self.rows:
            if row["split"] == split or (split == 3 and row["split"] == 0 and self.is_positive(row)):
                time = row["timestamp"] * self.second
                ids = (self.user_ids[row["user"]], self.item_ids[row["item"]], time, row["label"])
                result.append(ids + ((self.history(row),) if self.history_length else ()))
        return sorted(result)

    def items(self) -> list[tuple]:
        """(id, key, count) of the items' catalog."""
        return self._catalog("item", self.item_ids)

    def _catalog(self, name, ids) -> list[tuple]:
        counts, by_id = self.counts(name), collections.defaultdict(list)
        for key, i in ids.items():
            by_id[i].append(key)
        result = []
        for i, keys in sorted(by_id.items()):
            best = min(keys, key=lambda key: (-counts[key], key.encode()))
            result.append((i, best.encode(), sum(counts[key] for key in keys)))
        return result

    def rows_of(self, side: str, i: int) -> list[dict]:
        """Rows of a user's or item's id, oldest first."""
        ids = self.user_ids if side == "user" else self.item_ids
        own = [row for row in self.rows if ids[row[side]] == i]
        return sorted(own, key=lambda r: (r["timestamp"], r["row"]))

    def users(self) -> list[tuple]:
        """(id, key, count, sequence, sequence_split) of the users' catalog."""
        result = []
        for i, key, count in self._catalog("user", self.user_ids):
            own = [row for row in self.rows_of("user", i) if self.is_positive(row)]
            sequence = tuple(self.item_ids[row["item"]] for row in own)
            result.append((i, key, count, sequence, tuple(row["split"] for row in own)))
        return result

    def feature(self, name: str, side: str, i: int, split: int | None):
        """Value in the catalog of an id: the newest known one, or what evaluation of a split may know."""
        own = self.rows_of(side, i)
        if split is not None and side == "item":
            own = [row for row in own if row["split"] < split] or own
        if split is not None and side == "user":
            first = [n for n, row in enumerate(own) if row["split"] == split and self.is_positive(row)]
            own = own[: first[0] + 1] if first else own
        known = [row[name] for row in own if row[name] not in ("", None)]
        return known[-1] if known else own[-1][name]

    def left_out(self, split: int) -> dict[str, int]:
        """The counts of SplitInfo."""
        found = dict.fromkeys(("cold_users", "cold_user_rows", "rare_users", "rare_user_rows"), 0)
        owners = collections.defaultdict(list)
        for row in self.rows:
            key = self.user_ids[row["user"]] if "user" in self.hash_rows else row["user"]
            if self.is_positive(row):
                owners[key].append(row["split"])
        for splits in owners.values():
            rows, train = splits.count(split), splits.count(0)
            if rows and train < ("user" in self.hash_rows or self.least["user"]):
                kind = "rare" if train else "cold"
                found[f"{kind}_users"] += 1
                found[f"{kind}_user_rows"] += rows
        return found


def assert_matches(dataset, reference: Reference) -> None:
    """Compares a whole dataset with the reference."""
    directories = list(enumerate(dataset.splits.values()))
    assert (dataset.positives is None) == reference.all_positive
    if dataset.positives:
        directories.append((3, dataset.positives))
    for number, info in directories:
        names = ["user", "item", "timestamp", "label"] + (["history"] if reference.history_length else [])
        found = read_rows(dataset, info.files)
        expected = reference.records(number)
        assert sorted(tuple(row[n] for n in names) for row in found) == expected
        assert info.rows == len(expected)
        assert info.positives == sum(reference.positive(r[3]) for r in expected)
        assert info.min_timestamp == min((r[2] for r in expected), default=None)
        assert info.max_timestamp == max((r[2] for r in expected), default=None)
        if number in (1, 2):
            assert info.model_dump(include=set(reference.left_out(number))) == reference.left_out(number)
    assert dataset.duplicates == reference.duplicates and dataset.short_users == reference.short_users
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
        assert table.catalog_rows == table.rows + table.oov_keys


def assert_features_match(dataset, reference: Reference, features: dict[str, str], to_value) -> None:
    """Compares side features in the catalogs, as of all times.

    Args:
      features: user or item, by name.
      to_value: function (name, raw value) -> what the catalog holds.
    """
    for side, files in (("user", dataset.users.files), ("item", dataset.items.files)):
        for row in read_rows(dataset, files):
            for name in (n for n, of in features.items() if of == side):
                for column, split in ((name, None), (f"{name}@valid", 1), (f"{name}@test", 2)):
                    expected = to_value(name, reference.feature(name, side, row["id"], split))
                    assert row[column] == expected, (side, row["key"], column)

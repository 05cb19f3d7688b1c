"""Writes small datasets in the contract's format, in plain Python and with TensorFlow's own writer.

It shares no code with `prepare` or with the readers, so that it can contradict them.
"""

import collections
import hashlib
import itertools
import os
from typing import NamedTuple

import google_crc32c
import tensorflow as tf

from configs.manifest import SPLITS, Dataset, load_dataset
from tests.support.set_histories import other_items


class Row(NamedTuple):
    """One interaction; a list of them is ordered by time."""

    user: bytes
    item: bytes
    split: str
    label: float = 1.0
    weight: float | None = None
    """Records hold weights when any row has one; the others weigh 1."""


class Feature(NamedTuple):
    """A side feature: `values` by raw key of the user or item."""

    of: str
    kind: str
    values: dict


def write_dataset(
    path: str,
    rows: list[Row],
    *,
    hashed: dict[str, int] | None = None,
    min_count: int = 1,
    features: dict[str, Feature] | None = None,
    history_length: int = 0,
    history_of: str = "earlier",
    block_rows: int = 4,
    num_files: int = 2,
    source: dict | None = None,
    as_of: dict[bytes, dict[str, float]] | None = None,
) -> Dataset:
    """Writes `rows` as a dataset under `path` and loads its manifest; labels above 0 are positive.

    Args:
      path: directory, made if missing.
      hashed: rows of the tables user, item that get hashed ids; the others get vocabularies.
      min_count: train rows below which a key is out of vocabulary.
      features: side features by name; categorical ones (bytes values) get vocabularies.
      history_of: as dataset.history_of.
      block_rows: rows of a full block.
      num_files: files of each split and catalog.
      source: source section of the manifest.
      as_of: by raw key, the feature's values that evaluations may know, by @valid and @test.
    """
    hashed, features = hashed or {}, features or {}
    ids = _tables(rows, hashed, features, min_count)
    writer = _Writer(path, block_rows, num_files)
    if history_of == "others":
        histories = _other_histories(rows, ids, history_length)
    else:
        histories = _earlier_histories(rows, ids, history_length)
    records = _records(rows, ids, features, histories if history_length else None)
    splits = {name: _split_info(writer, name, records[name]) for name in SPLITS}
    for name in SPLITS[1:]:
        splits[name] |= _left_out(rows, name, ids["user"])
    negatives = any(row.label <= 0 for row in rows)
    positives = [record for record in records["train"] if record["label"] > 0] if negatives else None
    catalogs = {side: _catalog(rows, ids, features, side, as_of) for side in ("user", "item")}
    manifest = Dataset(
        fingerprint=hashlib.sha256(repr(rows).encode()).hexdigest(),
        source_fingerprint="tiny",
        block_rows=block_rows,
        history_length=history_length,
        history_of=history_of if history_length else None,
        has_weight=any(row.weight is not None for row in rows),
        splits=splits,
        positives=positives and _split_info(writer, "positives", positives),
        tables={name: table.info() | _vocabulary(writer, name, table) for name, table in ids.items()},
        features={
            name: {"of": f.of, "kind": f.kind, "table": name if f.kind == "categorical" else None}
            for name, f in features.items()
        },
        users={"rows": len(catalogs["user"]), "files": writer.write("users", catalogs["user"])},
        items={"rows": len(catalogs["item"]), "files": writer.write("items", catalogs["item"])},
        source_rows=len(rows),
        rejected={},
        source=source or {"kind": "tiny"},
        dataset={"user_ids": {"min_count": min_count}, "seed": 0},
    )
    with open(os.path.join(path, "dataset.json"), "w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=1))
    return load_dataset(path)


def _tables(rows, hashed, features, min_count) -> dict[str, "_Ids"]:
    """The ids of user, item and each categorical feature."""
    train = [row for row in rows if row.split == "train" and row.label > 0]
    ids = {
        side: _Ids(
            [getattr(row, side) for row in train],
            min_count,
            hashed.get(side),
            {getattr(row, side) for row in rows},
        )
        for side in ("user", "item")
    }
    for name, feature in features.items():
        if feature.kind == "categorical":
            ids[name] = _Ids([feature.values[getattr(row, feature.of)] for row in train], 1, None, None)
    return ids


class _Ids:
    """Ids of one table, from its train keys; users and items have catalog ids, so give all their keys."""

    def __init__(self, keys: list[bytes], min_count: int, hash_rows: int | None, every: set[bytes] | None):
        self.counts, self.hash_rows = collections.Counter(keys), hash_rows
        frequent = [key for key, count in self.counts.items() if count >= min_count]
        self.known = frequent if hash_rows else sorted(frequent, key=lambda key: (-self.counts[key], key))
        self.of_known = {key: number for number, key in enumerate(self.known)}
        others = sorted(set(every or ()) - set(self.known))
        self.of_other = {key: len(self.known) + 1 + number for number, key in enumerate(others)}
        self.has_catalog = every is not None

    def id(self, key: bytes) -> int:
        if self.hash_rows:
            return int(tf.strings.to_hash_bucket_fast([key], self.hash_rows)[0])
        return self.of_known.get(key, self.of_other.get(key, len(self.known)))

    def info(self) -> dict:
        size, rows = len(self.known), self.hash_rows or len(self.known) + 1
        catalog = {"catalog_rows": rows} if self.has_catalog else {}
        if self.hash_rows:
            return {"ids": "hash", "rows": rows, "oov": None, "keys": size, **catalog}
        others = len(self.of_other)
        if catalog:
            catalog = {"catalog_rows": rows + others, "oov_keys": others}
        return {"ids": "vocab", "rows": rows, "oov": size, "keys": size, **catalog}


def _in_histories(row, ids) -> bool:
    """Whether a row's item may be in the histories of other rows."""
    return (ids["item"].hash_rows or row.item in ids["item"].of_known) and row.label > 0


def _earlier_histories(rows, ids, length: int) -> list[list[int]]:
    """The newest earlier items of each row's user."""
    past, histories = collections.defaultdict(list), []
    for row in rows:
        visible = ("train", "valid") if row.split == "test" else ("train",)
        earlier = [item for split, item in past[row.user] if split in visible]
        histories.append(earlier[-length:])
        if _in_histories(row, ids):
            past[row.user].append((row.split, ids["item"].id(row.item)))
    return histories


def _other_histories(rows, ids, length: int) -> list[list[int]]:
    """The other train items of each row's user; rows are numbered as they are listed."""
    found = collections.defaultdict(list)
    for row in rows:
        if row.split == "train" and _in_histories(row, ids):
            found[row.user].append(ids["item"].id(row.item))
    return [
        other_items(found[row.user], ids["item"].id(row.item), ids["user"].id(row.user), length,
                    row=number if row.split == "train" else None)
        for number, row in enumerate(rows)
    ]  # fmt: skip


def _records(rows, ids, features, histories: list[list[int]] | None) -> dict[str, list[dict]]:
    """The records of each split; a `_ragged` value carries its own lengths column."""
    records = {name: [] for name in SPLITS}
    weighted = any(row.weight is not None for row in rows)
    for time, row in enumerate(rows):
        record = {"user": ids["user"].id(row.user), "item": ids["item"].id(row.item)}
        record |= {"label": float(row.label), "timestamp": 1_600_000_000_000_000_000 + time}
        if weighted:
            record["weight"] = 1.0 if row.weight is None else float(row.weight)
        for name, feature in features.items():
            record[name] = _value(ids, name, feature, getattr(row, feature.of))
        if histories is not None:
            record["history"] = histories[time]
        records[row.split].append(record)
    return records


def _value(ids, name: str, feature: Feature, key: bytes):
    value = feature.values[key]
    return ids[name].id(value) if feature.kind == "categorical" else float(value)


def _catalog(rows, ids, features, side: str, as_of: dict | None) -> list[dict]:
    """One record per id in use, by id."""
    table = ids[side]
    keys, sequences = collections.defaultdict(collections.Counter), collections.defaultdict(list)
    for row in rows:
        number = table.id(getattr(row, side))
        keys[number][getattr(row, side)] += row.split == "train" and row.label > 0
        if row.label > 0:
            sequences[number].append((row.item, SPLITS.index(row.split)))
    catalog = []
    for number in sorted(keys):
        key = min(keys[number], key=lambda key: (-keys[number][key], key))
        record = {"id": number, "key": key, "count": sum(keys[number].values())}
        if side == "user":
            record["sequence"] = [ids["item"].id(item) for item, _ in sequences[number]]
            record["sequence_split"] = [split for _, split in sequences[number]]
        for name, feature in features.items():
            if feature.of == side:
                value = _value(ids, name, feature, key)
                record |= {name: value, f"{name}@valid": value, f"{name}@test": value}
                record |= {f"{name}{when}": other for when, other in (as_of or {}).get(key, {}).items()}
        catalog.append(record)
    return catalog


def _vocabulary(writer: "_Writer", name: str, table: "_Ids") -> dict:
    """Of a categorical feature; users and items have catalogs."""
    if name in ("user", "item"):
        return {}
    records = [
        {"id": number, "key": key, "count": table.counts[key]} for number, key in enumerate(table.known)
    ]
    return {"files": writer.write(f"vocabularies/{name}", records)}


def _left_out(rows, split: str, ids: "_Ids") -> dict[str, int]:
    """Users of a held-out split without positive train rows, and with too few of them."""
    found = dict.fromkeys(("cold_users", "cold_user_rows", "rare_users", "rare_user_rows"), 0)
    owners = collections.defaultdict(list)
    for row in rows:
        if row.label > 0:
            owners[ids.id(row.user) if ids.hash_rows else row.user].append(row.split)
    for owner, splits in owners.items():
        if number := splits.count(split):
            rare = not ids.hash_rows and owner not in ids.of_known
            kind = "cold" if "train" not in splits else "rare" if rare else None
            if kind:
                found[f"{kind}_users"] += 1
                found[f"{kind}_user_rows"] += number
    return found


def _split_info(writer: "_Writer", name: str, records: list[dict]) -> dict:
    times = [record["timestamp"] for record in records]
    return {
        "rows": len(records),
        "files": writer.write(name, records),
        "min_timestamp": min(times, default=None),
        "max_timestamp": max(times, default=None),
        "positives": sum(record["label"] > 0 for record in records),
    }


class _Writer:
    """Writes records as columnar Examples."""

    def __init__(self, path: str, block_rows: int, num_files: int):
        self.path, self.block_rows, self.num_files = path, block_rows, num_files

    def write(self, folder: str, records: list[dict]) -> list[dict]:
        """Writes <folder>/part-*.tfrecord.gz, row i to file i mod num_files, and returns their infos."""
        os.makedirs(os.path.join(self.path, folder), exist_ok=True)
        infos = []
        for part in range(self.num_files):
            name, mine = f"{folder}/part-{part:05d}.tfrecord.gz", records[part :: self.num_files]
            full = os.path.join(self.path, name)
            with tf.io.TFRecordWriter(full, "GZIP") as writer:
                for start in range(0, len(mine), self.block_rows):
                    writer.write(_example(mine[start : start + self.block_rows]).SerializeToString())
            with open(full, "rb") as file:
                data = file.read()
            checksum = f"{google_crc32c.value(data):08x}"
            infos.append({"path": name, "rows": len(mine), "bytes": len(data), "crc32c": checksum})
        return infos


def _example(records: list[dict]) -> tf.train.Example:
    """Columns of a block; list values are joined, with <history|sequence>_length beside them."""
    columns = {}
    for name in records[0]:
        values = [record[name] for record in records]
        if isinstance(values[0], list):
            if name in ("history", "sequence"):
                columns[f"{name}_length"] = [len(value) for value in values]
            values = list(itertools.chain.from_iterable(values))
        columns[name] = values
    return tf.train.Example(
        features=tf.train.Features(feature={name: _feature(name, values) for name, values in columns.items()})
    )


def _feature(name: str, values: list) -> tf.train.Feature:
    if name.endswith("/weight"):  # floats also where no list has a key
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    if values and isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if values and isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

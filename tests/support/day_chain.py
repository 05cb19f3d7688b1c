"""Writes chains of small datasets in plain Python, by the words of BASE in configs/manifest.py alone.

Users have a categorical feature, country; items a number, price, and a list with weights, tags. All three are
columns of the interactions.
"""

import collections
import dataclasses
import hashlib
import math
import os
import struct

import google_crc32c
import tensorflow as tf

from configs.manifest import SPLITS, Dataset, load_dataset
from tests.support.tiny_dataset import _Writer

BLOCK_ROWS = 5


@dataclasses.dataclass(frozen=True)
class DayRow:
    """One interaction; the rows of a day are listed by time."""

    user: bytes
    item: bytes
    time: int
    split: str = "train"
    label: float = 1.0
    country: bytes = b""
    price: float = math.nan
    tags: tuple[bytes, ...] = ()


class Ids:
    """The ids of one table in one dataset of a chain."""

    def __init__(self, below: "Ids | None" = None, hash_rows: int | None = None):
        self.below, self.hash_rows = below, hash_rows
        self.rows_of = dict(below.rows_of) if below else {}
        """Keys with a row."""
        self.others = dict(below.others) if below else {}
        """Keys of further users and items."""
        self.counts = collections.Counter(below.counts if below else ())
        self.rows = below.rows if below else hash_rows or 1
        self.top = below.top if below else self.rows
        """Bound of the catalog ids."""
        self.moved: dict[int, int] = {}

    def continued(self, counts: collections.Counter, keys: set[bytes], min_count: int, leave: set[bytes]):
        """The ids after these train rows, with the further `keys` of all rows."""
        self.counts.update(counts)
        if self.hash_rows:
            return self
        before = self.rows
        free = [self.rows_of.pop(key) for key in sorted(leave, key=self.rows_of.get)]
        self.moved |= dict.fromkeys(free, -1)
        news = [key for key in counts if key not in self.rows_of and self.counts[key] >= min_count]
        news.sort(key=lambda key: (-self.counts[key], key))
        for key in news:
            if not free:
                self.rows += 1
            new = free.pop(0) if free else self.rows - 2
            self.rows_of[key] = new
            if (old := self.others.pop(key, None)) is not None:
                self.moved[old] = new
        self.others = {key: old + self.rows - before for key, old in self.others.items()}
        self.top += self.rows - before
        for key in sorted(keys - set(self.rows_of) - set(self.others)):
            self.others[key] = self.top
            self.top += 1
        return self

    def id(self, key: bytes) -> int:
        """Catalog id; that of the out-of-vocabulary row for other keys."""
        if self.hash_rows:
            return int(tf.strings.to_hash_bucket_fast([key], self.hash_rows)[0])
        return self.rows_of.get(key, self.others.get(key, self.rows - 1))

    def has_row(self, key: bytes) -> bool:
        """Whether the key is in the vocabulary."""
        return bool(self.hash_rows) or key in self.rows_of

    def info(self, has_catalog: bool) -> dict:
        """As TableInfo, without files."""
        below = {"base_rows": self.below.rows if self.below else None}
        found = {"ids": "hash", "rows": self.rows, "oov": None, "keys": len(self.counts)}
        if not self.hash_rows:
            found = {"ids": "vocab", "rows": self.rows, "oov": self.rows - 1, "keys": len(self.rows_of)}
            below["base_oov"] = self.below.rows - 1 if self.below else None
        return found | below | ({"catalog_rows": self.top} if has_catalog else {})


@dataclasses.dataclass
class Day:
    """A written dataset, and what the next one must know of it."""

    dataset: Dataset
    ids: dict[str, Ids]
    past: dict[bytes, list[bytes]]
    """Items of all positive rows of each user so far."""
    options: dict


def write_day(
    path: str,
    rows: list[DayRow],
    base: Day | None = None,
    *,
    hashed: dict[str, int] | None = None,
    min_count: int = 1,
    leave: dict[str, set[bytes]] | None = None,
    history_length: int = 3,
) -> Day:
    """Writes the dataset of a day on that of the day before.

    Args:
      path: of its directory.
      rows: its own rows.
      hashed: rows of the tables with hashed ids; as for the base.
      min_count: of users and items.
      leave: keys that lose their row, by table.
    """
    options = {"hashed": hashed or {}, "min_count": min_count}
    ids = {}
    for side in ("user", "item"):
        before = base.ids[side] if base else None
        keys = {getattr(row, side) for row in rows}
        table = Ids(before, options["hashed"].get(side))
        ids[side] = table.continued(_counts(rows, side), keys, min_count, (leave or {}).get(side, set()))
    for name, values in (("country", _countries), ("tags", _tags)):
        table = Ids(base.ids[name] if base else None)
        ids[name] = table.continued(values(rows), set(), 1, (leave or {}).get(name, set()))
    past = {user: list(items) for user, items in (base.past if base else {}).items()}
    histories = _histories(rows, ids["item"], past, history_length)
    writer = _Writer(path, BLOCK_ROWS, 2)
    manifest = _manifest(writer, rows, ids, histories, base, history_length)
    with open(os.path.join(path, "dataset.json"), "w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=1))
    return Day(load_dataset(path), ids, past, options)


def _trained(rows: list[DayRow]) -> list[DayRow]:
    return [row for row in rows if row.split == "train" and row.label > 0]


def _counts(rows: list[DayRow], side: str) -> collections.Counter:
    return collections.Counter(getattr(row, side) for row in _trained(rows))


def _countries(rows: list[DayRow]) -> collections.Counter:
    return collections.Counter(row.country for row in _trained(rows) if row.country)


def _tags(rows: list[DayRow]) -> collections.Counter:
    return collections.Counter(tag for row in _trained(rows) for tag in row.tags)


def _histories(rows, items: Ids, past, length: int) -> list[list[int]]:
    """Of each row; adds the rows to `past`."""
    before, own = {user: list(found) for user, found in past.items()}, collections.defaultdict(list)
    histories = []
    for row in rows:
        visible = ("train", "valid") if row.split == "test" else ("train",)
        mine = before.get(row.user, []) + [item for split, item in own[row.user] if split in visible]
        histories.append([items.id(item) for item in mine if items.has_row(item)][-length:])
        if row.label > 0:
            own[row.user].append((row.split, row.item))
            past.setdefault(row.user, []).append(row.item)
    return histories


def _record(row: DayRow, ids: dict[str, Ids], history: list[int]) -> dict:
    owners = {side: ids[side].id(getattr(row, side)) for side in ("user", "item")}
    return owners | {"label": row.label, "timestamp": row.time, "history": history} | _features(row, ids, "")


def _features(row: DayRow, ids: dict[str, Ids], when: str) -> dict:
    tags = [ids["tags"].id(tag) for tag in row.tags]
    return {
        f"country{when}": ids["country"].id(row.country),
        f"price{when}": float(row.price),
        f"tags{when}": tags,
        f"tags{when}/length": len(tags),
        f"tags{when}/weight": [0.5 + number for number in range(len(tags))],
    }


def _newest(rows: list[DayRow], name: str):
    known = [getattr(row, name) for row in rows if getattr(row, name) == getattr(row, name)]
    known = [value for value in known if value not in (b"", ())]
    return known[-1] if known else {"country": b"", "price": math.nan, "tags": ()}[name]


def _catalog(rows: list[DayRow], ids: dict[str, Ids], side: str) -> list[dict]:
    """One record per id in use; the features of the other side are dropped."""
    mine = collections.defaultdict(list)
    for row in rows:
        mine[ids[side].id(getattr(row, side))].append(row)
    catalog = []
    for number, own in sorted(mine.items()):
        counts = _counts(own, side)
        key = min({getattr(row, side) for row in own}, key=lambda key: (-counts[key], key))
        record = {"id": number, "key": key, "count": sum(counts.values())}
        if side == "user":
            positive = [row for row in own if row.label > 0]
            record["sequence"] = [ids["item"].id(row.item) for row in positive]
            record["sequence_split"] = [SPLITS.index(row.split) for row in positive]
        names = ("country",) if side == "user" else ("price", "tags")
        for split in (None, "valid", "test"):
            then = _then(own, side, split)
            values = {name: _newest(then, name) for name in names}
            whole = _features(dataclasses.replace(own[0], **values), ids, f"@{split}" if split else "")
            record |= {name: value for name, value in whole.items() if name.startswith(names)}
        catalog.append(record)
    return catalog


def _then(rows: list[DayRow], side: str, split: str | None) -> list[DayRow]:
    """The rows that the evaluation of a split may know."""
    if split is None:
        return rows
    if side == "item":
        return [row for row in rows if SPLITS.index(row.split) < SPLITS.index(split)]
    first = [number for number, row in enumerate(rows) if row.split == split and row.label > 0]
    return rows[: first[0] + 1] if first else rows


def _manifest(writer, rows, ids, histories, base: Day | None, history_length: int) -> Dataset:
    records = [_record(row, ids, history) for row, history in zip(rows, histories, strict=True)]
    by_split = {
        split: [record for record, row in zip(records, rows, strict=True) if row.split == split]
        for split in SPLITS
    }
    splits = {split: _split(writer, split, by_split[split]) for split in SPLITS}
    positive = [record for record in by_split["train"] if record["label"] > 0]
    some_are_not = any(row.label <= 0 for row in rows)
    catalogs = {side: _catalog(rows, ids, side) for side in ("user", "item")}
    tables = {name: _table(writer, name, table) for name, table in ids.items()}
    below = base and {"path": base.dataset.path, "fingerprint": base.dataset.fingerprint}
    below = below and below | {"depth": 1 + (base.dataset.base.depth if base.dataset.base else 0)}
    return Dataset(
        fingerprint=hashlib.sha256(repr((rows, below)).encode()).hexdigest(),
        source_fingerprint="days",
        base=below,
        block_rows=BLOCK_ROWS,
        history_length=history_length,
        has_weight=False,
        splits=splits,
        positives=_split(writer, "positives", positive) if some_are_not else None,
        tables=tables,
        features={
            "country": {"of": "user", "kind": "categorical", "table": "country"},
            "price": {"of": "item", "kind": "numeric"},
            "tags": {"of": "item", "kind": "list", "table": "tags", "max_length": 4, "weighted": True},
        },
        users={"rows": len(catalogs["user"]), "files": writer.write("users", catalogs["user"])},
        items={"rows": len(catalogs["item"]), "files": writer.write("items", catalogs["item"])},
        source_rows=len(rows),
        rejected={},
        source={"kind": "days", "roles": {"label": "label"}},
        dataset={"seed": 0},
    )


def _table(writer, name: str, table: Ids) -> dict:
    has_catalog = name in ("user", "item")
    info = table.info(has_catalog)
    if table.moved:
        pairs = sorted(table.moved.items())
        data = b"".join(struct.pack("<qq", *pair) for pair in pairs)
        os.makedirs(f"{writer.path}/moved", exist_ok=True)
        with open(f"{writer.path}/moved/{name}", "wb") as file:
            file.write(data)
        checksum = f"{google_crc32c.value(data):08x}"
        facts = {"path": f"moved/{name}", "rows": len(pairs), "bytes": len(data), "crc32c": checksum}
        info["moved"] = [facts]
    if not has_catalog:
        keys = sorted(table.rows_of.items(), key=lambda pair: pair[1])
        records = [{"id": number, "key": key, "count": table.counts[key]} for key, number in keys]
        info["files"] = writer.write(f"vocabularies/{name}", records)
    return info


def _split(writer, name: str, records: list[dict]) -> dict:
    times = [record["timestamp"] for record in records]
    return {
        "rows": len(records),
        "files": writer.write(name, records),
        "min_timestamp": min(times, default=None),
        "max_timestamp": max(times, default=None),
        "positives": sum(record["label"] > 0 for record in records),
    }

"""Writes small datasets with features of every kind, in plain Python: what `prepare` makes of raw rows.

It shares no code with `prepare` or with the readers but the writer of tests.support.tiny_dataset. A user's or
item's column of the interactions must not change over time here, so that all times see the same value.
"""

import collections
import dataclasses
import json
import math
import os

import google_crc32c
import numpy as np
import tensorflow as tf

from configs.manifest import SPLITS, Dataset, load_dataset
from configs.schema import RunConfig
from tests.support.set_histories import other_items
from tests.support.tiny_dataset import _Writer

VECTOR_ROWS = 1 << 16


@dataclasses.dataclass
class World:
    """Raw data of a run."""

    rows: list[dict]
    """By time: user, item, split, label, and the columns of source.features; text, numbers (None: empty) or
    lists of them."""
    sides: list[dict[str, dict]]
    """Rows of each of source.sides by key."""


def write_features(config: RunConfig, world: World, block_rows: int = 8, num_files: int = 2) -> Dataset:
    """Writes the dataset of a config, and its manifest."""
    return _Prepared(config, world, _Writer(config.dataset.path, block_rows, num_files)).write()


class _Prepared:
    def __init__(self, config: RunConfig, world: World, writer: _Writer):
        self.config, self.world, self.writer = config, world, writer
        self.train = [row for row in world.rows if row["split"] == "train" and row["label"] > 0]
        self.owners = {side: self._owners(side) for side in ("user", "item")}
        self.side_of = {f.name: i for i, side in enumerate(config.source.sides) for f in side.features}
        self.raw = {}  # known values of users' and items' features
        for name, feature in config.features.items():
            if feature.of != "context" and feature.kind != "cross":
                self.raw[name] = self._known(name, feature)
        self.ids = {name: self._ids_of(name) for name in self._tables()}
        self.moments = {n: self._moments(n) for n, f in config.features.items() if f.kind == "numeric"}

    def _side(self, of: str, keys: set[str]) -> dict:
        """As SideInfo."""
        used = {row[of] for row in self.world.rows}
        counts = {"matched": len(keys & used), "alone": len(keys - used), "missing": len(used - keys)}
        return {"of": of, "rows": len(keys), "rejected": {}, "duplicates": 0, **counts}

    def _owners(self, side: str) -> dict[str, int]:
        """Catalog ids."""
        ids = getattr(self.config.dataset, f"{side}_ids")
        keys = {row[side] for row in self.world.rows}
        for config, table in zip(self.config.source.sides, self.world.sides, strict=True):
            keys |= set(table) if config.of == side else set()
        if ids.kind == "hash":
            return {key: _hash(key, ids.rows) for key in keys}
        counts = collections.Counter(row[side] for row in self.train)
        known = [key for key in counts if counts[key] >= ids.min_count]
        known.sort(key=lambda key: (-counts[key], key.encode()))
        others = sorted(keys - set(known), key=str.encode)
        found = {key: number for number, key in enumerate(known)}
        self.__dict__.setdefault("table_rows", {})[side] = len(known) + 1
        return found | {key: len(known) + 1 + number for number, key in enumerate(others)}

    def _table_info(self, side: str) -> dict:
        ids, owners = getattr(self.config.dataset, f"{side}_ids"), self.owners[side]
        if ids.kind == "hash":
            keys = len({row[side] for row in self.train})
            return {"ids": "hash", "rows": ids.rows, "oov": None, "keys": keys, "catalog_rows": ids.rows}
        rows = self.table_rows[side]
        catalog = 1 + max(owners.values())
        others = sum(number >= rows for number in owners.values())
        return {"ids": "vocab", "rows": rows, "oov": rows - 1, "keys": rows - 1, "oov_keys": others} | {
            "catalog_rows": catalog
        }

    def _known(self, name: str, feature) -> dict:
        """Raw value by key of the user or item."""
        if name in self.side_of:
            table = self.world.sides[self.side_of[name]]
            return {key: self._value(feature, table.get(key, {})) for key in self.owners[feature.of]}
        found = {key: self._value(feature, {}) for key in self.owners[feature.of]}
        for row in self.world.rows:
            if (value := self._value(feature, row)) not in ("", [], ([], [])):
                found[row[feature.of]] = value
        return found

    def _value(self, feature, row: dict):
        """A feature's raw value in a row."""
        value = row.get(feature.source_column)
        if feature.kind == "categorical":
            return value or ""
        if feature.kind == "numeric":
            if value is None:
                value = math.nan if feature.missing is None else feature.missing
            return float(value)
        if feature.kind == "vector":
            return [0.0] * feature.dim if value is None else value
        keys = value or []
        weights = row.get(feature.weights) if feature.weights else None
        pairs = [(k, w) for k, w in zip(keys, weights or [1.0] * len(keys), strict=True) if k]
        pairs = pairs[: feature.max_length]
        return [key for key, _ in pairs], [weight for _, weight in pairs]

    def _cells(self, name: str) -> list:
        """What counts for the vocabulary and the statistics of a feature."""
        feature = self.config.features[name]
        if name in self.side_of:
            owners = {row[feature.of] for row in self.train}
            return [value for key, value in self.raw[name].items() if key in owners]
        return [self._value(feature, row) for row in self.train]

    def _tables(self) -> dict[str, list[str]]:
        """Features with keys by table."""
        found = collections.defaultdict(list)
        for name, feature in self.config.features.items():
            if feature.kind in ("categorical", "list"):
                found[feature.table_name].append(name)
        return found

    def _ids_of(self, table: str) -> "_Keys":
        counts = collections.Counter()
        for name in self._tables()[table]:
            for cell in self._cells(name):
                counts.update(cell[0] if isinstance(cell, tuple) else [cell])
        return _Keys(self.config.dataset.feature_ids.get(table), counts)

    def _moments(self, name: str) -> dict:
        """steps, boundaries, mean and stddev of a number."""
        feature = self.config.features[name]
        values = np.array(self._cells(name), np.float64)
        values = values[~np.isnan(values)]
        for step in feature.steps:
            if step == "log1p":
                values = np.log1p(values)
            elif step != "standardize":
                values = np.clip(values, *step.clip)
        steps = [step if isinstance(step, str) else step.model_dump() for step in feature.steps]
        found = {"steps": steps, "mean": float(values.mean()), "stddev": float(values.std() or 1)}
        if feature.buckets is not None:
            limits = getattr(feature.buckets, "boundaries", None)
            if limits is None:
                parts = np.arange(1, feature.buckets.quantiles) / feature.buckets.quantiles
                limits = sorted({float(np.float32(v)) for v in np.quantile(values, parts)})
            found["boundaries"] = limits
        return found

    def stored(self, name: str, key_or_row) -> dict:
        """Columns of a feature, by the owner's key or, for the context and records, by row."""
        feature = self.config.features[name]
        if feature.kind == "cross":
            parts = [self._part(part, key_or_row) for part in feature.keys]
            return {name: _hash("\x01".join(parts), feature.rows)}
        if isinstance(key_or_row, dict):
            value = self._value(feature, key_or_row)
        else:
            value = self.raw[name][key_or_row]
        if feature.kind == "numeric":
            return {name: value}
        if feature.kind == "categorical":
            return {name: self.ids[feature.table_name].id(value)}
        ids = [self.ids[feature.table_name].id(key) for key in value[0]]
        columns = {name: ids, f"{name}/length": len(ids)}
        return columns | ({f"{name}/weight": list(map(float, value[1]))} if feature.weights else {})

    def _part(self, name: str, key_or_row) -> str:
        if isinstance(key_or_row, dict):
            return self._value(self.config.features[name], key_or_row)
        return self.raw[name][key_or_row]

    def write(self) -> Dataset:
        """Writes all files and the manifest."""
        features, of_records = self.config.features, {}
        for name in features:
            if name not in self.side_of:
                of_records[name] = features[name]
        records = self._records(of_records)
        splits = {name: self._split(name, records[name]) for name in SPLITS}
        catalogs = {side: self._catalog(side, of_records) for side in ("user", "item")}
        tables = {side: self._table_info(side) for side in ("user", "item")}
        tables |= {name: keys.info() | self._vocabulary(name, keys) for name, keys in self.ids.items()}
        infos = {}
        for name, feature in features.items():
            infos[name] = self._info(name, feature)
            if feature.kind == "cross":
                tables[name] = {"ids": "hash", "rows": feature.rows, "oov": None, "keys": 0}
            if infos[name].get("boundaries") is not None:
                rows = len(infos[name]["boundaries"]) + 2
                tables[name] = {"ids": "buckets", "rows": rows, "oov": None, "keys": 0}
        negatives = any(row["label"] <= 0 for row in self.world.rows)
        positives = [record for record in records["train"] if record["label"] > 0] if negatives else None
        manifest = Dataset(
            fingerprint=f"{hash(repr(self.world)) & 0xFFFFFFFF:08x}",
            source_fingerprint="features",
            block_rows=self.writer.block_rows,
            history_length=self.config.dataset.history_length,
            history_of=self.config.dataset.history_of or "earlier",
            has_weight=False,
            splits=splits,
            positives=positives and self._split("positives", positives),
            tables=tables,
            features=infos,
            users=catalogs["user"],
            items=catalogs["item"],
            source_rows=len(self.world.rows),
            rejected={},
            sides=[
                self._side(side.of, set(table))
                for side, table in zip(self.config.source.sides, self.world.sides, strict=True)
            ],
            source=self.config.source.model_dump(mode="json"),
            dataset=self.config.dataset.model_dump(mode="json"),
        )
        with open(os.path.join(self.config.dataset.path, "dataset.json"), "w", encoding="utf-8") as file:
            json.dump(json.loads(manifest.model_dump_json()), file)
        return load_dataset(self.config.dataset.path)

    def _info(self, name: str, feature) -> dict:
        info = {"of": feature.of, "kind": feature.kind}
        info["lives"] = "catalog" if name in self.side_of else "records"
        if feature.kind in ("categorical", "list", "cross"):
            info["table"] = feature.table_name
        if feature.kind == "list":
            info |= {"max_length": feature.max_length, "weighted": feature.weights is not None}
        if feature.kind == "numeric":
            info |= self.moments[name] | ({"table": name} if feature.buckets else {})
        if feature.kind == "cross":
            info["keys"] = feature.keys
        if feature.kind == "vector":
            info |= {"dim": feature.dim, "files": self._vectors(name, feature)}
        return info

    def _vectors(self, name: str, feature) -> list[dict]:
        owners = self.owners[feature.of]
        rows = self._table_info(feature.of)["catalog_rows"]
        values = np.zeros((rows, feature.dim), "<f4")
        for key, number in owners.items():
            values[number] = self.raw[name][key]
        infos = []
        for part, start in enumerate(range(0, rows, VECTOR_ROWS)):
            data = values[start : start + VECTOR_ROWS].tobytes()
            path = f"{feature.of}s/{name}-{part:05d}.f32"
            with open(os.path.join(self.config.dataset.path, path), "wb") as file:
                file.write(data)
            size = min(VECTOR_ROWS, rows - start)
            checksum = f"{google_crc32c.value(data):08x}"
            infos.append({"path": path, "rows": size, "bytes": len(data), "crc32c": checksum})
        return infos

    def _records(self, features: dict) -> dict[str, list[dict]]:
        records = {name: [] for name in SPLITS}
        past = collections.defaultdict(list)
        for time, row in enumerate(self.world.rows):
            record = {side: self.owners[side][row[side]] for side in ("user", "item")}
            record |= {"label": float(row["label"]), "timestamp": 1_600_000_000_000_000_000 + time}
            for name in features:
                record |= self.stored(name, row)
            if self.config.dataset.history_length:
                record["history"] = self._history(row, time, record, past[row["user"]])
                record["history_length"] = len(record["history"])
            info = self._table_info("item")
            if row["label"] > 0 and (info["oov"] is None or record["item"] < info["oov"]):
                past[row["user"]].append((row["split"], record["item"]))
            records[row["split"]].append(record)
        return records

    def _history(self, row: dict, number: int, record: dict, past: list) -> list[int]:
        """`past`: (split, item) of the user's earlier positive rows."""
        options = self.config.dataset
        if options.history_of == "others":
            own, rows = self.owners["item"], self._table_info("item")
            mine = [own[r["item"]] for r in self.train if r["user"] == row["user"]]
            mine = [item for item in mine if rows["oov"] is None or item < rows["oov"]]
            turn = number if row["split"] == "train" else None
            return other_items(
                mine, record["item"], record["user"], options.history_length, options.seed, turn
            )
        visible = ("train", "valid") if row["split"] == "test" else ("train",)
        return [item for split, item in past if split in visible][-options.history_length :]

    def _catalog(self, side: str, of_records: dict) -> dict:
        records = []
        counts = collections.Counter(self.owners[side][row[side]] for row in self.train)
        shown = {}
        for key, number in sorted(self.owners[side].items(), key=lambda pair: pair[0].encode()):
            uses = sum(row[side] == key for row in self.train)
            if number not in shown or uses > shown[number][1]:
                shown[number] = key, uses
        for number in sorted(shown):
            key = shown[number][0]
            record = {"id": number, "key": key.encode(), "count": counts[number]}
            if side == "user":
                mine = [row for row in self.world.rows if self.owners["user"][row["user"]] == number]
                mine = [row for row in mine if row["label"] > 0]
                record["sequence"] = [self.owners["item"][row["item"]] for row in mine]
                record["sequence_split"] = [SPLITS.index(row["split"]) for row in mine]
                record["sequence_length"] = len(mine)
            for name, feature in self.config.features.items():
                if feature.of != side or feature.kind == "vector":
                    continue
                columns = self.stored(name, key)
                record |= columns
                for split in SPLITS[1:] if name in of_records else ():
                    record |= {_as_of(column, split): value for column, value in columns.items()}
            records.append(record)
        return {"rows": len(records), "files": self.writer.write(f"{side}s", records)}

    def _split(self, name: str, records: list[dict]) -> dict:
        times = [record["timestamp"] for record in records]
        return {
            "rows": len(records),
            "files": self.writer.write(name, records),
            "min_timestamp": min(times, default=None),
            "max_timestamp": max(times, default=None),
            "positives": sum(record["label"] > 0 for record in records),
        }

    def _vocabulary(self, name: str, keys: "_Keys") -> dict:
        if keys.kind == "hash":
            return {}
        records = [
            {"id": number, "key": key.encode(), "count": keys.counts[key]}
            for number, key in enumerate(keys.known)
        ]
        return {"files": self.writer.write(f"vocabularies/{name}", records)}


def _as_of(column: str, split: str) -> str:
    name, slash, part = column.partition("/")
    return f"{name}@{split}{slash}{part}"


def _hash(key: str, rows: int) -> int:
    return int(tf.strings.to_hash_bucket_fast([key.encode()], rows)[0])


class _Keys:
    """Ids of a table of features."""

    def __init__(self, config, counts: collections.Counter):
        self.kind, self.counts, self.config = getattr(config, "kind", "vocab"), counts, config
        least = getattr(config, "min_count", 1)
        self.known = sorted((k for k in counts if counts[k] >= least), key=lambda k: (-counts[k], k.encode()))
        if self.kind == "given":
            with open(config.path, encoding="utf-8") as file:
                self.known = file.read().split("\n")[:-1]
        self.of_known = {key: number for number, key in enumerate(self.known)}

    def id(self, key: str) -> int:
        if self.kind == "hash":
            return _hash(key, self.config.rows)
        if key in self.of_known or self.kind == "vocab":
            return self.of_known.get(key, len(self.known))
        return len(self.known) + _hash(key, self.config.oov_rows)

    def info(self) -> dict:
        size = len(self.known)
        if self.kind == "hash":
            return {"ids": "hash", "rows": self.config.rows, "oov": None, "keys": len(self.counts)}
        more = self.config.oov_rows if self.kind == "given" else 1
        return {"ids": self.kind, "rows": size + more, "oov": size, "oov_rows": more, "keys": size}

"""Writes click logs for ranking models: keys, numbers, a list, and labels whose probabilities are known.

It shares no code with `prepare` or with the readers but the writer of tests.support.tiny_dataset.
"""

import json
import os

import numpy as np

from configs.load import parse_config
from configs.manifest import SPLITS, Dataset, load_dataset
from configs.schema import RunConfig
from tests.support.tiny_dataset import _Writer

KEYS = {"c0": 30, "c1": 20, "c2": 6}
"""Rows of each key's table, the last one for unknown keys."""
LENGTH = 3
"""Longest list."""


EVERYTHING = {
    "inputs": ["user", "item", "history", "c0", "c1", "c2", "tags", "n0", "n1"],
    "bottom": [8],
    "interaction": {"kind": "cross", "structure": "parallel", "rank": 4},
    "top": [16, 8],
    "dropout": 0.2,
    "tasks": [{"name": "click"}, {"name": "buy", "label": "buy", "where": "label"}],
    "sharing": {"kind": "mmoe", "experts": 2, "tower": [4]},
}
"""A model section with all that a ranking model can read and do."""


def ranking_document(directory: str, model: dict | None = None, owners: bool = False, **sections) -> dict:
    """The config of a run on a click log.

    Args:
      directory: where dataset and run will be.
      model: keys of the model that are other than here.
      owners: whether rows have a user, an item and a history.
      **sections: keys of further sections, over those here.
    """
    features = [{"name": name, "of": "context", "kind": "categorical"} for name in KEYS]
    features.append({"name": "tags", "of": "context", "kind": "list", "separator": "|", "max_length": LENGTH})
    features += [{"name": name, "of": "context", "kind": "numeric", "missing": 0} for name in ("n0", "n1")]
    roles = {"label": "click", "labels": {"buy": {"column": "buy"}}}
    if owners:
        roles |= {"user": "user", "item": "item"}
    made = {
        "name": "clicks",
        "source": {"kind": "delimited", "paths": ["none.csv"], "features": features, "roles": roles},
        "dataset": {"path": os.path.join(directory, "dataset"), "split": {"kind": "random"}},
        "model": {"kind": "ranking", "tasks": [{"name": "click"}]} | (model or {}),
        "polyak": {"decay": 0.9},
        "train": {"batch_size": 64, "num_steps": 40, "steps_per_loop": 10},
        "checkpoint": {"every_steps": 20, "keep": 5},
        "output": {"path": os.path.join(directory, "run")},
    }
    if owners:
        made["dataset"] |= {"history_length": 4, "history_of": "earlier"}
    for name, section in sections.items():
        made[name] = made.get(name, {}) | section if isinstance(section, dict) else section
    return made


def click_rows(number: int, owners: bool = False, seed: int = 0) -> list[dict]:
    """Records of a click log, and `probability`, the click's; buys follow clicks, some are not known."""
    draw = np.random.default_rng(seed)
    effects = {name: draw.normal(0, 1, rows) for name, rows in KEYS.items()}
    tags = draw.normal(0, 1, 8)
    records = []
    for time in range(number):
        row = {name: int(draw.integers(rows - 1)) for name, rows in KEYS.items()}
        row["tags"] = [int(tag) for tag in draw.integers(7, size=draw.integers(LENGTH + 1))]
        row |= {"n0": float(np.float32(draw.normal(2, 3))), "n1": float(np.float32(draw.normal()))}
        logit = sum(effects[name][row[name]] for name in KEYS) + tags[row["tags"]].sum() + row["n1"] - 1
        row["probability"] = float(1 / (1 + np.exp(-logit)))
        row["label"] = float(draw.random() < row["probability"])
        buys = row["label"] * (draw.random() < 0.4)
        row["label/buy"] = float("nan") if draw.random() < 0.1 else float(buys)
        row["tags/length"] = len(row["tags"])
        row["timestamp"] = time
        if owners:
            row |= {"user": int(draw.integers(12)), "item": int(draw.integers(15))}
            row["history"] = [int(item) for item in draw.integers(9, size=draw.integers(5))]
            row["history_length"] = len(row["history"])
        records.append(row)
    return records


def write_clicks(config: RunConfig, records: list[dict], block_rows: int = 32, num_files: int = 3) -> Dataset:
    """Writes records, the first 80 % as train, as the dataset of a config, and its manifest."""
    writer = _Writer(config.dataset.path, block_rows, num_files)
    number, owners = len(records), "user" in records[0]
    hidden = ("probability",)
    stored = [{name: value for name, value in row.items() if name not in hidden} for row in records]
    cuts = [0, number * 8 // 10, number * 9 // 10, number]
    splits = {
        name: _split(writer, name, stored[first:last])
        for name, first, last in zip(SPLITS, cuts, cuts[1:], strict=False)
    }
    positives = [row for row in stored[: cuts[1]] if row["label"] > 0]
    tables = {name: _vocab(rows) for name, rows in (*KEYS.items(), ("tags", 8))}
    for name, table in tables.items():
        keys = [{"id": i, "key": f"{name}:{i}".encode(), "count": 1} for i in range(table["oov"])]
        table["files"] = writer.write(f"vocabularies/{name}", keys)
    if owners:  # two users and items more than the tables have rows
        for name, rows in OWNER_ROWS.items():
            tables[name] = _vocab(rows) | {"oov_keys": 2, "catalog_rows": rows + 2}
    manifest = Dataset(
        fingerprint="clicks",
        source_fingerprint="clicks",
        block_rows=block_rows,
        history_length=config.dataset.history_length,
        has_weight=False,
        splits=splits,
        positives=_split(writer, "positives", positives),
        tables=tables,
        labels=["buy"],
        keep_negatives=config.dataset.keep_negatives,
        features=_infos(records[: cuts[1]]),
        users=_catalog(writer, "user") if owners else {"rows": 0, "files": []},
        items=_catalog(writer, "item") if owners else {"rows": 0, "files": []},
        source_rows=number,
        rejected={},
        source=config.source.model_dump(mode="json"),
        dataset=config.dataset.model_dump(mode="json"),
    )
    with open(os.path.join(config.dataset.path, "dataset.json"), "w", encoding="utf-8") as file:
        json.dump(json.loads(manifest.model_dump_json()), file)
    return load_dataset(config.dataset.path)


OWNER_ROWS = {"user": 11, "item": 14}


def _vocab(rows: int) -> dict:
    return {"ids": "vocab", "rows": rows, "oov": rows - 1, "keys": rows - 1}


def _infos(train: list[dict]) -> dict:
    infos = {name: {"of": "context", "kind": "categorical", "table": name} for name in KEYS}
    infos["tags"] = {"of": "context", "kind": "list", "table": "tags", "max_length": LENGTH}
    for name in ("n0", "n1"):
        values = np.array([row[name] for row in train])
        values = values[np.abs(values) < 1e30]  # what tests put in to be refused
        moments = {"mean": float(values.mean()), "stddev": float(values.std())}
        infos[name] = {"of": "context", "kind": "numeric", "steps": ["standardize"], **moments}
    return infos


def _catalog(writer: _Writer, side: str) -> dict:
    records = []
    for number in range(OWNER_ROWS[side] + 2):
        if number == OWNER_ROWS[side] - 1:
            continue
        record = {"id": number, "key": f"{side}{number}".encode(), "count": 1}
        if side == "user":
            record |= {"sequence": [], "sequence_split": [], "sequence_length": 0}
        records.append(record)
    return {"rows": len(records), "files": writer.write(f"{side}s", records)}


def _split(writer: _Writer, name: str, records: list[dict]) -> dict:
    times = [record["timestamp"] for record in records]
    return {
        "rows": len(records),
        "files": writer.write(name, records),
        "min_timestamp": min(times, default=None),
        "max_timestamp": max(times, default=None),
        "positives": sum(record["label"] > 0 for record in records),
    }


def click_log(directory: str, number: int = 1000, **changes) -> RunConfig:
    """A config as ranking_document(directory, **changes) and its dataset of `number` rows."""
    config = parse_config(ranking_document(directory, **changes), "clicks")
    write_clicks(config, click_rows(number, changes.get("owners", False)))
    return config

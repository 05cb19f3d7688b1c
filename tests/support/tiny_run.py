"""Small trained and exported runs, made once for all test processes, for tests of what follows training."""

import dataclasses
import functools
import json
import os
import random
from unittest import mock

import pytest

from configs.load import parse_config
from configs.planted.interactions import Planted, item_key, user_key
from configs.schema import RunConfig
from tests.support.shared import shared
from tests.support.tiny_dataset import Feature, Row, write_dataset

USERS, ITEMS = 24, 40

# By kind: sections of the config, and arguments of write_dataset that follow from them.
_KINDS = {
    # The smallest model: its vectors are the tables' rows.
    "plain": {
        "model": {"kind": "two_tower", "user_tower": {"inputs": ["user"]}, "normalize": False},
        "polyak": {"decay": 0.8},
    },
    # All that a two-tower model can read and do; rare items are out of vocabulary.
    "towers": {
        "dataset": {"history_length": 4, "item_ids": {"kind": "vocab", "min_count": 2}},
        "features": [
            {"name": "country", "of": "user", "kind": "categorical"},
            {"name": "age", "of": "user", "kind": "numeric"},
            {"name": "genre", "of": "item", "kind": "categorical"},
        ],
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["user", "history", "country", "age"], "layers": [12, 8]},
            "item_tower": {"inputs": ["item", "genre"], "layers": [12, 9]},
            "normalize": True,
            "item_bias": True,
            "loss": {"extra_negatives": 16},
        },
    },
    # The history alone, from rows that carry the items' bias; a uniform average from half of the run on.
    "history": {
        "dataset": {"history_length": 3},
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["history"]},
            "item_tower": {"inputs": ["item"]},
            "history": {"pooling": "sqrtn"},
            "normalize": False,
            "item_bias": True,
        },
        "polyak": {"kind": "uniform", "start_fraction": 0.5},
    },
    # The history in its order, with a head for each half of the rows and all items as candidates.
    "sequence": {
        "dataset": {"history_length": 3},
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["history"], "sequence": {"heads": 2, "dropout": 0.1}},
            "item_tower": {"inputs": ["item"]},
            "normalize": False,
            "item_bias": True,
            "loss": {"kind": "full_softmax"},
        },
    },
    # The other items of users whose rows have no order, beside the user's own row.
    "others": {
        "roles": {"split": "split"},
        "dataset": {"split": {"kind": "given"}, "history_length": 3, "history_of": "others"},
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["user", "history"], "combine": "sum"},
            "item_tower": {"inputs": ["item"]},
            "history": {"pooling": "sqrtn", "table": "history"},
            "normalize": False,
            "item_bias": True,
        },
        "tables": {"history": {"dim": 8, "init_stddev": 0.5}},
    },
    # Few enough rows that keys share them.
    "hash": {
        "dataset": {"user_ids": {"kind": "hash", "rows": 31}, "item_ids": {"kind": "hash", "rows": 47}},
        "model": {"kind": "dot_bias", "negatives": 2},
    },
    # Both tables compressed, one with gradients of each kind; blocks do not divide the items' rows.
    "robe": {
        "dataset": {"history_length": 3},
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["user", "history"], "combine": "sum"},
            "item_tower": {"inputs": ["item"]},
            "normalize": False,
            "item_bias": True,
        },
        "tables": {
            "user": {"kind": "robe_z", "size": 64, "block": 8, "gradient": "dense"},
            "item": {"kind": "robe_z", "size": 92, "block": 4, "gradient": "sparse"},
        },
    },
    # A compressed table beside a plain one, from a pointwise loss.
    "robe_bias": {
        "model": {"kind": "dot_bias", "negatives": 2},
        "tables": {"user": {"kind": "robe_z", "size": 96, "block": 4}},
        "polyak": {"kind": "uniform", "start_fraction": 0.5},
    },
}


def any_python(*kinds: str) -> list:
    """Parameters for pytest: kinds that one Python is enough for; each Python runs the largest, `towers`."""
    return [pytest.param(kind, marks=pytest.mark.any_python) for kind in kinds]


@dataclasses.dataclass(frozen=True)
class TinyRun:
    """A trained run."""

    config: RunConfig
    rows: list[Row]
    features: dict[str, Feature]


@functools.cache
def tiny_run(kind: str) -> TinyRun:
    """A run of 20 steps, which nobody may change; `kind` is a key of _KINDS."""
    directory = shared(f"tiny-{kind}", lambda directory: _train(kind, directory))
    return TinyRun(_config(kind, directory), _rows(), _features(_KINDS[kind]))


def _config(kind: str, directory: str) -> RunConfig:
    return parse_config(_document(_KINDS[kind], directory), kind)


def _train(kind: str, directory: str) -> None:
    from trainer.training.run import train

    config, features = _config(kind, directory), _features(_KINDS[kind])
    hashed = {
        side: ids.rows
        for side, ids in (("user", config.dataset.user_ids), ("item", config.dataset.item_ids))
        if ids.kind == "hash"
    }
    write_dataset(
        config.dataset.path,
        _rows(),
        hashed=hashed,
        min_count=getattr(config.dataset.item_ids, "min_count", 1),
        features=features,
        history_length=config.dataset.history_length,
        history_of=config.dataset.history_of or "earlier",
    )
    _sign(config)
    train(config)


@functools.cache
def tiny_export(kind: str) -> str:
    """Directory of the exported tiny_run(kind), which nobody may change.

    Without the fresh process that asks the model: tests of export start it, and others replay in this one.
    """
    from trainer.serving import export

    def make(directory):
        with mock.patch.object(export, "replay_golden", lambda model, golden: None):
            os.symlink(export.export(tiny_run(kind).config), f"{directory}/version")

    return os.readlink(os.path.join(shared(f"tiny-{kind}-export", make), "version"))


@functools.cache
def tiny_model(kind: str):
    """The SavedModel of tiny_export(kind), loaded."""
    import tensorflow as tf

    return tf.saved_model.load(tiny_export(kind))


def _document(sections: dict, directory: str) -> dict:
    dims = {"user": {"dim": 8, "init_stddev": 0.5}, "item": {"dim": 8, "init_stddev": 0.5}}
    if sections.get("model", {}).get("item_bias") and not sections["model"]["item_tower"].get("layers"):
        dims["item"]["dim"] = 9
    tables = {"user": dims["user"]} if "user" in str(sections["model"].get("user_tower", "user")) else {}
    return {
        "name": "tiny",
        "source": {
            "kind": "delimited",
            "paths": ["none.csv"],
            "features": sections.get("features", []),
            "roles": sections.get("roles", {}),
        },
        "dataset": {
            "path": os.path.join(directory, "dataset"),
            "split": {"kind": "leave_last_out"},
            **sections.get("dataset", {}),
        },
        "model": sections["model"],
        "tables": {
            name: {**options, **sections.get("tables", {}).get(name, {})}
            for name, options in {**tables, "item": dims["item"]}.items()
        },
        "polyak": sections.get("polyak", {"decay": 0.9}),
        "train": {"batch_size": 32, "num_steps": 20, "steps_per_loop": 10},
        "output": {"path": os.path.join(directory, "run")},
    }


def _rows() -> list[Row]:
    """Interactions with popular and rare items, repeats, and keys of more than one byte a letter."""
    draw, rows = random.Random(7), []
    for user in range(USERS):
        items = [min(int(draw.expovariate(0.12)), ITEMS - 1) for _ in range(draw.randint(4, 12))]
        for place, item in enumerate(items):
            split = {len(items) - 1: "test", len(items) - 2: "valid"}.get(place, "train")
            rows.append(Row(f"ü{user}".encode(), f"item {item}".encode(), split))
    draw.shuffle(rows)
    return rows


def _features(sections: dict) -> dict[str, Feature]:
    users = {f"ü{user}".encode(): user for user in range(USERS)}
    items = {f"item {item}".encode(): item for item in range(ITEMS)}
    every = {
        "country": Feature("user", "categorical", {key: b"c%d" % (n % 3) for key, n in users.items()}),
        "age": Feature("user", "numeric", {key: n / USERS for key, n in users.items()}),
        "genre": Feature("item", "categorical", {key: b"g%d" % (n % 5) for key, n in items.items()}),
    }
    return {feature["name"]: every[feature["name"]] for feature in sections.get("features", [])}


def _sign(config: RunConfig) -> None:
    """Makes the manifest say that the dataset was prepared with the run's own config."""
    path = os.path.join(config.dataset.path, "dataset.json")
    with open(path, encoding="utf-8") as file:
        manifest = json.load(file)
    manifest["dataset"] = config.dataset.model_dump(mode="json")
    manifest["source"] = config.source.model_dump(mode="json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(manifest, file)


SMALL_MODEL = {
    "kind": "two_tower",
    "user_tower": {"inputs": ["user"], "layers": [8], "dropout": 0.1},
    "item_tower": {"inputs": ["item"]},
    "normalize": False,
}
"""Rows, a layer and a draw at each step: enough for tests of saving, stopping and resuming, and traced faster
than the model of planted_document."""


def planted_document(directory: str, **source) -> dict:
    """A run on planted data with towers, history and averages: nothing is written yet.

    Args:
      directory: where dataset and run will be.
      **source: keys of the source that are other than here.
    """
    return {
        "name": "planted",
        "source": {"kind": "synthetic", "rows": 6000, "users": 80, "items": 50, "clusters": 5} | source,
        "dataset": {
            "path": os.path.join(directory, "dataset"),
            "split": {"kind": "temporal"},
            "history_length": 4,
        },
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["user", "history"], "layers": [12, 8], "dropout": 0.1},
            "item_tower": {"inputs": ["item"], "layers": [12, 8]},
            "normalize": False,
        },
        "schedule": {"cooldown_fraction": 0},
        "tables": {name: {"dim": 8, "optimizer": {"learning_rate": 0.02}} for name in ("user", "item")},
        "optimizer": {"learning_rate": 0.01},
        "polyak": {"decay": 0.9},
        "train": {"batch_size": 64, "num_steps": 60, "steps_per_loop": 10},
        "checkpoint": {"every_steps": 20, "keep": 2},
        "evaluate": {"every_steps": 30, "k": [5]},
        "output": {"path": os.path.join(directory, "run")},
    }


def write_planted(directory: str, **source) -> None:
    """Writes the dataset of planted_document(directory, **source)."""
    config = parse_config(planted_document(directory, **source), "planted")
    planted, number = Planted(config.source), config.source.rows
    users, items, _ = planted.rows(0, number)
    splits = ["train"] * (number * 8 // 10) + ["valid"] * (number // 10) + ["test"] * (number // 10)
    keys = zip(user_key(users), item_key(items), splits, strict=True)
    rows = [Row(bytes(user), bytes(item), split) for user, item, split in keys]
    write_dataset(config.dataset.path, rows, history_length=4, block_rows=256, num_files=5)
    _sign(config)

"""Runs whose steps are compiled: configs and datasets that were never prepared."""

import numpy as np

from configs.dataset import CatalogInfo, Dataset, SplitInfo, TableInfo
from configs.load import parse_config
from configs.schema import RunConfig

USERS, ITEMS = 25_000_000, 1_000_000
NUM_STEPS = 10_000


def run_config(slice_name: str, batch_size: int, dim: int, model: str = "two_tower") -> RunConfig:
    """A run on 25 million hashed users and 1 million hashed items: lazy Adam, averages, no shortcuts."""
    models = {
        "two_tower": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["user"], "layers": [64, 32]},
            "item_tower": {"inputs": ["item"], "layers": [64, 32]},
            "normalize": True,
            "loss": {"temperature": 0.05},
        },
        "dot_bias": {"kind": "dot_bias", "negatives": 4},
    }
    document = {
        "name": "aot",
        "source": {"kind": "synthetic", "rows": 2 * USERS, "users": USERS, "items": ITEMS},
        "dataset": {
            "path": "none",
            "user_ids": {"kind": "hash", "rows": USERS},
            "item_ids": {"kind": "hash", "rows": ITEMS},
            "split": {"kind": "temporal"},
        },
        "model": models[model],
        "tables": {name: {"dim": dim, "optimizer": {"kind": "lazy_adam"}} for name in ("user", "item")},
        "optimizer": {"kind": "adam"},
        "polyak": {"decay": 0.999},
        "train": {"batch_size": batch_size, "num_steps": NUM_STEPS},
        "device": {"kind": "tpu", "slice": slice_name},
        "output": {"path": "none"},
    }
    return parse_config(document, "aot")


def dataset_of(config: RunConfig) -> Dataset:
    """The manifest of a dataset for the config, without files."""
    split = SplitInfo(rows=USERS, files=[], min_timestamp=None, max_timestamp=None)
    ids = config.dataset
    return Dataset(
        fingerprint="",
        source_fingerprint="",
        history_length=0,
        has_weight=False,
        splits={name: split for name in ("train", "valid", "test")},
        tables={
            name: TableInfo(ids="hash", rows=rows, oov=None, keys=rows)
            for name, rows in (("user", ids.user_ids.rows), ("item", ids.item_ids.rows))
        },
        features={},
        users=CatalogInfo(rows=0, files=[]),
        items=CatalogInfo(rows=0, files=[]),
        source_rows=2 * USERS,
        rejected={},
        source={},
        dataset={},
    )


def item_counts(config: RunConfig) -> np.ndarray:
    """Train rows of each item, int64 [items]."""
    return np.ones(config.dataset.item_ids.rows, np.int64)

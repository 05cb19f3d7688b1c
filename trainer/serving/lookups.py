"""Key tables of users and items, and filters of a served model, from the catalogs of the dataset."""

import numpy as np

from trainer.data.blocks import read_blocks
from trainer.evaluation.trained import Trained
from trainer.serving.filters import FeatureFilter
from trainer.serving.inputs.build import table_keys
from trainer.serving.keys import KeyTable


def key_table(trained: Trained, name: str) -> KeyTable:
    """The KeyTable of `user` or `item`, whose ids are catalog ids."""
    dataset = trained.dataset
    files = (dataset.users if name == "user" else dataset.items).files

    def fill(fingerprints):
        for block in read_blocks(dataset, files, ["id", "key"]):
            fingerprints.add(block["id"], block["key"])

    return KeyTable(dataset.tables[name], fill, name)


def named_features(trained: Trained) -> list[str]:
    """Categorical and list features of items with exact ids, whose raw values requests can name."""
    tables = trained.dataset.tables
    return [
        name
        for name, info in trained.dataset.features.items()
        if info.of == "item" and info.has_keys and tables[info.table or ""].files
    ]


def item_filters(trained: Trained, order: np.ndarray) -> dict[str, FeatureFilter]:
    """The FeatureFilter of each item feature that requests can name.

    `order`: int64 [catalog ids], catalog ids of items in the order of the served vectors, those that may be
    recommended first.
    """
    places = order[: len(trained.items.ids)]
    return {
        name: FeatureFilter(name, table_keys(trained.dataset, name), trained.items.features[name][places])
        for name in named_features(trained)
    }

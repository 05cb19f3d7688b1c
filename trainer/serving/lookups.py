"""What a served model takes from the catalogs: its items, key tables of users and items, and filters."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from configs.manifest import Dataset
from trainer.data.catalog import Items
from trainer.data.chain.catalogs import KEY, catalog_blocks
from trainer.data.features import empty_value, is_known
from trainer.evaluation.trained import Trained
from trainer.serving.filters import FeatureFilter
from trainer.serving.inputs.build import table_keys
from trainer.serving.keys import KeyTable


def with_served_items(trained: Trained) -> Trained:
    """The same model, its `items.ids` all items that may be recommended.

    These are items with a table row and train rows and, with export.cold_items: serve, all others of which a
    feature that the item tower reads is known. Histories hold the former alone, as in training.

    Raises:
      DataError: the dataset cannot be read.
    """
    if trained.config.export.cold_items != "serve":
        return trained
    items = trained.items
    named = [name for name in trained.recommender.model.item_inputs if name in items.infos]
    described = _described(trained.dataset, items, named) & (items.keys != b"")
    ids = np.flatnonzero(items.known | described)
    return dataclasses.replace(trained, items=dataclasses.replace(items, ids=ids, history_ids=items.ids))


def _described(dataset: Dataset, items: Items, names: Iterable[str]) -> np.ndarray:
    """Which items have a known value of any of the features, bool [catalog ids]."""
    found = np.zeros(items.rows, bool)
    for name in names:
        info, column = dataset.features[name], items.features[name]
        if info.kind == "vector":
            found |= np.any(column[np.arange(len(column))], axis=1)
        else:
            empty = 0 if info.kind == "list" else empty_value(dataset, name)
            found |= is_known(info, column, empty)
    return found


def key_table(trained: Trained, name: str) -> KeyTable:
    """The KeyTable of `user` or `item`, whose ids are catalog ids."""
    dataset = trained.dataset

    def fill(fingerprints):
        for block in catalog_blocks(dataset, name, [KEY]):
            fingerprints.add(block.ids, block.columns[KEY])

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

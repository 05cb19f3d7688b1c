"""Key tables and filters of a served model, from the catalogs of the dataset."""

import functools
from collections.abc import Iterable

import numpy as np
from absl import logging

from trainer.data.blocks import read_blocks
from trainer.evaluation.trained import Trained
from trainer.serving.filters import FeatureFilter
from trainer.serving.keys import Fingerprints, KeyTable


def key_table(trained: Trained, name: str) -> KeyTable:
    """The KeyTable of `user` or `item`."""

    def fill(fingerprints):
        if name == "item":
            ids = trained.items.ids
            fingerprints.add(ids, trained.items.keys[ids])
            return
        for block in read_blocks(trained.dataset, trained.dataset.users.files, ["id", "key"]):
            own = trained.dataset.tables["user"].has_row(block["id"])
            fingerprints.add(block["id"][own], block["key"][own])

    return KeyTable(trained.dataset.tables[name], fill, name)


def named_features(trained: Trained, of: str) -> list[str]:
    """Categorical features with exact ids whose raw values requests can name: all of `item`; of `user`, those
    that the model reads."""
    tables, read = trained.dataset.tables, trained.recommender.model.user_inputs
    return [
        name
        for name, info in trained.dataset.features.items()
        if info.of == of and name in tables and tables[name].files and (of == "item" or name in read)
    ]


def user_feature_keys(trained: Trained, names: Iterable[str]) -> dict[str, KeyTable]:
    """The KeyTable of each categorical feature among `names` whose raw values a request can name."""
    tables, features = trained.dataset.tables, trained.dataset.features
    hashed = [n for n in names if n in tables and tables[n].ids == "hash"]
    named = named_features(trained, "user")
    for name in names:
        if not features[name].is_numeric and tables[name].keys and name not in [*hashed, *named]:
            logging.warning(
                "%s: has no vocabulary of %s, so requests cannot give its value; run `lazytower prepare "
                "--overwrite` for one",
                *(trained.dataset.path, name),
            )
    return {name: _feature_keys(trained, name) for name in [*hashed, *named]}


def _feature_keys(trained: Trained, name: str) -> KeyTable:
    return KeyTable(trained.dataset.tables[name], functools.partial(_add_vocabulary, trained, name), name)


def _add_vocabulary(trained: Trained, name: str, fingerprints: Fingerprints) -> None:
    for block in read_blocks(trained.dataset, trained.dataset.tables[name].files, ["id", "key"]):
        fingerprints.add(block["id"], block["key"])


def item_filters(trained: Trained, order: np.ndarray) -> dict[str, FeatureFilter]:
    """The FeatureFilter of each item feature that requests can name.

    `order`: int64 [item rows], rows of the item table in the order of the served vectors, those of the
    catalog first.
    """
    places = order[: len(trained.items.ids)]
    return {
        name: FeatureFilter(name, _feature_keys(trained, name), trained.items.features[name][places])
        for name in named_features(trained, "item")
    }
